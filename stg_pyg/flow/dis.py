"""Dense inverse search: optical flow on the CPU without weights."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stg_pyg.flow.interface import ImageFlow
from stg_pyg.flow.warping import Flow, Image

# Below 8 pixels at the finest scale (1/4) DIS takes its scales from the width alone and reads outside of the image.
_MIN_SIDE = 32
_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class DISFlow(ImageFlow):
    """Dense inverse search (Kroeger et al., ECCV 2016) of OpenCV, on the CPU.

    Args:
        preset: ``ultrafast``, ``fast`` or ``medium``.
        max_size: frames with a longer side are reduced to it before the search; None for full size.

    Raises:
        ValueError: for another preset, or ``max_size`` less than 1.
    """

    def __init__(self, preset: Literal["ultrafast", "fast", "medium"] = "medium", max_size: int | None = None) -> None:
        super().__init__(max_size)
        if preset not in _PRESETS:
            raise ValueError(f"preset must be one of {', '.join(_PRESETS)}, not {preset!r}")
        self.preset = preset

    def search(self, current: Image, previous: Image, size: tuple[int, int]) -> Flow:
        # A new object a call keeps this one free of state, so that it can be copied to other processes.
        search = cv2.DISOpticalFlow.create(_PRESETS[self.preset])
        return search.calc(_prepare(current, size), _prepare(previous, size), None)  # type: ignore

    def __repr__(self) -> str:
        return f"{type(self).__name__}(preset={self.preset!r}, max_size={self.max_size})"


def _prepare(frame: Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The frame in gray, reduced to (height, width), with its borders repeated to the smallest size that DIS takes."""
    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    if gray.shape != size:
        gray = cv2.resize(gray, size[::-1], interpolation=cv2.INTER_AREA)
    missing = [(0, max(0, _MIN_SIDE - side)) for side in size]
    return np.pad(gray, missing, mode="edge").astype(np.uint8, copy=False)
