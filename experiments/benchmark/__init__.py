"""What layers, frames and long videos cost, and what layers score."""

from experiments.benchmark.command import main

__all__ = ["main"]
