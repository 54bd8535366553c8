"""Optical flow for Q: sources, and warping by it."""
