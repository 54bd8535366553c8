"""The rows of Table 4 and curves over single constants."""

from experiments.ablate.command import main

__all__ = ["main"]
