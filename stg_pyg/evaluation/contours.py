"""Contours of binary masks and how well two of them match, on the part of the frame that matters."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.morphology import disk


def contour_f(m: NDArray[np.bool_], g: NDArray[np.bool_], radius: int) -> float:
    """F of two masks [H, W] with a tolerance of ``radius`` pixels, see
    :func:`stg_pyg.evaluation.metrics.contour_accuracy`."""
    window = window_of(m | g)
    contour_m, contour_g = _contour(m[window]), _contour(g[window])
    n_m, n_g = np.count_nonzero(contour_m), np.count_nonzero(contour_g)
    if n_m == 0 or n_g == 0:
        return float(n_m == n_g)
    precision = np.count_nonzero(contour_m & _dilate(contour_g, radius)) / n_m
    recall = np.count_nonzero(contour_g & _dilate(contour_m, radius)) / n_g
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def tolerance(height: int, width: int, bound: float = 0.008) -> int:
    """Radius in pixels of a tolerance given as a fraction of the image diagonal; 1 and more are pixels already."""
    return int(bound) if bound >= 1 else int(np.ceil(bound * np.linalg.norm((height, width))))


def window_of(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of a mask [H, W] with one pixel around it; empty for an empty mask.

    Contours lie within one pixel of the masks, and dilations are only read on contours: the rest cannot matter.
    """
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8)) if mask.size else (0, 0, 0, 0)
    if not width:
        return slice(0, 0), slice(0, 0)
    return slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)


def _contour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels [H, W] that differ from their right, lower or lower right neighbour; those at the border look inside."""
    contour = np.zeros_like(mask)
    if mask.size == 0:
        return contour
    right, below = mask[:, :-1] ^ mask[:, 1:], mask[:-1] ^ mask[1:]
    contour[:-1, :-1] = right[:-1] | below[:, :-1] | (mask[:-1, :-1] ^ mask[1:, 1:])
    contour[-1, :-1], contour[:-1, -1] = right[-1], below[:, -1]
    return contour


def _dilate(contour: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    return np.asarray(cv2.dilate(contour.view(np.uint8), _disk(radius))).view(np.bool_)


@lru_cache(maxsize=16)
def _disk(radius: int) -> NDArray[np.uint8]:
    return np.asarray(disk(radius), dtype=np.uint8)
