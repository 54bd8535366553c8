"""python -m experiments.graphs"""

from experiments.graphs.command import main

__all__ = ["main"]
