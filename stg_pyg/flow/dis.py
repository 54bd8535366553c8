"""Dense inverse search: optical flow on the CPU without weights."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stg_pyg.flow.warping import Flow, Image, check_frames, check_max_size, reduced_size, resize_flow

# Below 8 pixels at the finest scale (1/4) DIS takes its scales from the width alone and reads outside of the image.
DIS_MIN_SIDE = 32
DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class DISFlow:
    """Dense inverse search (Kroeger et al., ECCV 2016) of OpenCV, on the CPU.

    Args:
        preset: ``ultrafast``, ``fast`` or ``medium``.
        max_size: frames with a longer side are reduced to it before the search; None for full size.

    Raises:
        ValueError: for another preset, or ``max_size`` less than 1.
    """

    def __init__(self, preset: Literal["ultrafast", "fast", "medium"] = "medium", max_size: int | None = None) -> None:
        if preset not in DIS_PRESETS:
            raise ValueError(f"preset must be one of {', '.join(DIS_PRESETS)}, not {preset!r}")
        check_max_size(max_size)
        self.preset = preset
        self.max_size = max_size

    def __call__(self, current: Image, previous: Image) -> Flow:
        """Backward flow [H, W, 2], float32, in pixels of the full size.

        Args:
            current: [H, W, 3] uint8 RGB.
            previous: [H, W, 3] uint8 RGB.

        Raises:
            InputError: when the frames are not uint8 RGB or differ in size.
        """
        check_frames(current, previous)
        size = current.shape[0], current.shape[1]
        small = reduced_size(size, self.max_size)
        # A new object a call keeps this one free of state, so that it can be copied to other processes.
        search = cv2.DISOpticalFlow.create(DIS_PRESETS[self.preset])
        flow = search.calc(_prepare(current, small), _prepare(previous, small), None)  # type: ignore[call-overload]
        return resize_flow(flow[: small[0], : small[1]], size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(preset={self.preset!r}, max_size={self.max_size})"


def _prepare(frame: Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The frame in gray, reduced to (height, width), with its borders repeated to the smallest size that DIS takes."""
    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    if gray.shape != size:
        gray = cv2.resize(gray, size[::-1], interpolation=cv2.INTER_AREA)
    missing = [max(0, DIS_MIN_SIDE - side) for side in size]
    return np.pad(gray, [(0, missing[0]), (0, missing[1])], mode="edge").astype(np.uint8, copy=False)
