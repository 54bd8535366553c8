"""Frames that move, and sources of flow to ask about them."""

import cv2
import numpy as np


def texture(height=96, width=128, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def shifted(image, dx, dy):
    """The image moved by (dx, dy): the new pixel i was at i - (dx, dy)."""
    return np.roll(image, (dy, dx), axis=(0, 1))


def interior(field, margin=16):
    return field[margin:-margin, margin:-margin]


def smooth(seed, height=24, width=32):
    """Random smooth flow with subpixel vectors."""
    coarse = np.random.default_rng(seed).normal(scale=2.0, size=(4, 5, 2)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
