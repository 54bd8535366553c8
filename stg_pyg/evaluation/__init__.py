"""Scores of the benchmarks, and results as their servers take them."""
