"""Speed of layers and frames, and what layers score."""

from experiments.benchmark.command import main

__all__ = ["main"]
