"""Windows of a frame: 2 x 3 matrices from crop to frame coordinates, and the crops that they cut."""

from __future__ import annotations

import cv2
import numpy as np

PADDING_COLOUR = (124, 116, 104)


def cut(image: np.ndarray, window: np.ndarray, size: int, mask: bool = False) -> np.ndarray:
    """The ``size`` x ``size`` crop that ``window`` (2 x 3, crop to frame) maps into the frame, without aliasing."""
    scale = float(np.sqrt(abs(np.linalg.det(window[:, :2]))))
    matrix = window.copy()
    factor = 2 if scale >= 1.3 else 1
    matrix[:, :2] /= factor
    # Pixel centres are at integers for OpenCV and at halves for the boxes.
    matrix[:, 2] += matrix[:, :2] @ np.full(2, 0.5) - 0.5
    border = (0, 0, 0) if mask else PADDING_COLOUR
    crop = cv2.warpAffine(
        image, matrix, (size * factor, size * factor), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=border
    )
    if factor == 1:
        return np.asarray(crop)
    return np.asarray(cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA))
