"""Encoders of X and K, and segmentation networks."""
