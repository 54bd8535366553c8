"""Layers of the temporal graph, Eqs. 7-8, and others to compare with."""
