"""Proposals of objects: where they come from, whose they are, how they are kept."""
