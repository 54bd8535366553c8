"""One HTML page of an output folder."""

from experiments.report.command import main

__all__ = ["main"]
