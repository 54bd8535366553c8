"""Segmenting somebody's own video."""

from experiments.segment.command import main

__all__ = ["main"]
