"""Training, stage by stage, on one or many processes."""

from experiments.train.command import main

__all__ = ["main"]
