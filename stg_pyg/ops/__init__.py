"""Boxes, crops, windows and masks: what every room measures with."""
