"""Layers of the spatial graph, Eqs. 4-5, and others to compare with."""
