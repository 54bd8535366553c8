"""Speed of graph layers."""

from experiments.benchmark.command import main

__all__ = ["main"]
