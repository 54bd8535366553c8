"""Outlines of masks, small enough to be stored for every proposal of every frame."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MOST_CONTOURS = 300
"""Contours of one mask that are kept, the largest ones."""

Shape = list[list[int]]
"""Closed contours (x, y, x, y, ...) of one mask, filled by the even-odd rule."""


def outline(mask: NDArray[Any], detail: float = 0.7, scale: tuple[float, float] = (1.0, 1.0)) -> Shape:
    """The contours of a binary mask [H, W], holes too, through the centres of its border pixels.

    Args:
        mask: [H, W].
        detail: most pixels that a contour may be off, so that fewer points do.
        scale: factors of x and y that the contours are multiplied by.
    """
    inside = np.ascontiguousarray(mask, np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    largest = sorted(contours, key=len, reverse=True)[:MOST_CONTOURS]
    factors = np.array(scale)
    return [
        np.rint(cv2.approxPolyDP(contour, detail, True).reshape(-1, 2) * factors).astype(int).ravel().tolist()
        for contour in largest
    ]


def label_outlines(labels: NDArray[np.uint8]) -> dict[int, Shape]:
    """The outline of every object of a label map [H, W], by id."""
    return {int(i): outline(labels == i) for i in np.unique(labels) if i}
