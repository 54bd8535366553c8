"""The rows of Tables 1-3."""

from experiments.tables.command import main

__all__ = ["main"]
