"""Optical flow for Q, the previous mask warped to the current frame: what all its sources have in common.

All give backward flow, from the current frame to an earlier one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from stg_pyg.errors import InputError
from stg_pyg.flow.warping import Flow, Image, forward_backward_consistency, is_known


class FlowEstimator(Protocol):
    """Backward flow between two frames.

    A source that goes by frames instead of images may have these methods too:

    - ``for_sequence(name, frame_names)`` -> estimator of that sequence, called by :func:`flow_for_sequence`;
    - ``between(current, previous, t, t_prev)`` -> flow, called by :func:`flow_between` in place of the estimator;
    - ``has_flow(t, t_prev)`` -> whether it has the flow from frame t to frame t_prev, asked by
      :func:`consistent_flow` for the forward flow.
    """

    def __call__(self, current: Image, previous: Image) -> Flow:
        """Flow [H, W, 2] in pixels (x, y): pixel i of ``current`` [H, W, 3] lies at i + flow(i) in ``previous``."""
        ...


class ImageFlow(ABC):
    """A source that looks at two images, reduced until their longer side is at most ``max_size``.

    Raises:
        ValueError: ``max_size`` is less than 1.
    """

    def __init__(self, max_size: int | None) -> None:
        if max_size is not None and max_size < 1:
            raise ValueError(f"max_size must be at least 1 or None, not {max_size}")
        self.max_size = max_size

    @abstractmethod
    def search(self, current: Image, previous: Image, size: tuple[int, int]) -> Flow:
        """Flow in pixels of the frames reduced to ``size`` (h, w), [h, w, 2] or larger where borders are added."""

    def __call__(self, current: Image, previous: Image) -> Flow:
        """Backward flow [H, W, 2], float32, in pixels of the full size.

        Args:
            current: [H, W, 3] uint8 RGB.
            previous: [H, W, 3] uint8 RGB.

        Raises:
            InputError: when the frames are not uint8 RGB or differ in size.
        """
        check_frames(current, previous)
        height, width = current.shape[:2]
        scale = 1.0 if self.max_size is None else min(1.0, self.max_size / max(height, width))
        h, w = max(1, round(height * scale)), max(1, round(width * scale))
        flow = self.search(current, previous, (h, w))[:h, :w]
        if (h, w) != (height, width):
            flow = np.asarray(cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
            flow = flow * np.array([width / w, height / h], dtype=np.float32)
        return np.ascontiguousarray(flow, dtype=np.float32)


def check_frames(current: Image, previous: Image) -> None:
    """Raises InputError unless both frames are uint8 [H, W, 3] of one size."""
    for frame in (current, previous):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
            raise InputError(f"flow needs frames [H, W, 3] of uint8, not {list(frame.shape)} of {frame.dtype}")
    if current.shape != previous.shape:
        raise InputError(
            f"flow needs frames of one size, not {current.shape[:2]} and {previous.shape[:2]}: resize them"
        )


def flow_for_sequence(estimator: FlowEstimator, name: str, frame_names: Sequence[str]) -> FlowEstimator:
    """The estimator for a sequence with frames of these stems: bound to it if it goes by frames, else itself.

    Raises:
        InputError: when the source has nothing of the sequence.
    """
    bind: Any = getattr(estimator, "for_sequence", None)
    bound: FlowEstimator = estimator if bind is None else bind(name, frame_names)
    return bound


def flow_between(estimator: FlowEstimator, current: Image, previous: Image, t: int, t_prev: int) -> Flow:
    """Flow [H, W, 2] from frame t to frame t_prev, by frame if the estimator can, else by image.

    Raises:
        InputError: when the frames are unfit, or stored flow is missing or damaged.
    """
    between: Any = getattr(estimator, "between", None)
    flow: Flow = estimator(current, previous) if between is None else between(current, previous, t, t_prev)
    return flow


def has_flow(estimator: FlowEstimator, t: int, t_prev: int) -> bool:
    """Whether the estimator has the flow from frame t to frame t_prev; true of all that compute it."""
    ask: Any = getattr(estimator, "has_flow", None)
    return ask is None or bool(ask(t, t_prev))


def consistent_flow(
    estimator: FlowEstimator, current: Image, previous: Image, t: int, t_prev: int
) -> tuple[Flow, NDArray[np.bool_]]:
    """Backward flow [H, W, 2], and a mask [H, W] of where it can be warped by: where the forward flow undoes it.

    What became visible since ``t_prev`` has no counterpart there, and :func:`warp` with this mask leaves it zero.
    It costs a second flow, and on most videos Q of DIS flow is better without it, as DIS errs by more than the
    tolerance on what moves fast. Where the source has no forward flow (see :class:`FloFiles`), all known flow holds.

    Raises:
        InputError: when the frames are unfit, or stored flow is missing or damaged.
    """
    backward = flow_between(estimator, current, previous, t, t_prev)
    if not has_flow(estimator, t_prev, t):
        return backward, is_known(backward).numpy()
    forward = flow_between(estimator, previous, current, t_prev, t)
    return backward, forward_backward_consistency(backward, forward).numpy()
