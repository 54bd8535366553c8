"""Optical flow for Q, the previous mask warped to the current frame: what all its sources have in common.

All give backward flow, from the current frame to an earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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


def flow_for_sequence(estimator: FlowEstimator, name: str, frame_names: Sequence[str]) -> FlowEstimator:
    """The estimator for one sequence: bound to it if it goes by frames, else itself.

    Args:
        estimator: any source of flow.
        name: of the sequence.
        frame_names: stems of its frames, in order.

    Raises:
        InputError: when the source has nothing of the sequence.
    """
    bind: Any = getattr(estimator, "for_sequence", None)
    bound: FlowEstimator = estimator if bind is None else bind(name, frame_names)
    return bound


def flow_between(estimator: FlowEstimator, current: Image, previous: Image, t: int, t_prev: int) -> Flow:
    """Flow [H, W, 2] from frame t to frame t_prev, by frame if the estimator can, else by image.

    Args:
        estimator: any source of flow.
        current: [H, W, 3] uint8, frame t.
        previous: [H, W, 3] uint8, frame t_prev.
        t: position of the frame in its sequence.
        t_prev: position of the other frame.

    Raises:
        InputError: when the frames are unfit, or stored flow is missing or damaged.
    """
    between: Any = getattr(estimator, "between", None)
    flow: Flow = estimator(current, previous) if between is None else between(current, previous, t, t_prev)
    return flow


def consistent_flow(
    estimator: FlowEstimator,
    current: Image,
    previous: Image,
    t: int,
    t_prev: int,
    alpha: float = 0.01,
    beta: float = 0.5,
) -> tuple[Flow, NDArray[np.bool_]]:
    """Backward flow, and where it can be warped by: where the forward flow undoes it.

    What became visible since ``t_prev`` has no counterpart there, and :func:`warp` with this mask leaves it zero.
    It costs a second flow, and on most videos Q of DIS flow is better without it, as DIS errs by more than the
    tolerance on what moves fast.

    Args:
        estimator: any source of flow; where it has no forward flow (see :class:`FloFiles`), no pixel with known flow is
            masked.
        current: [H, W, 3] uint8, frame t.
        previous: [H, W, 3] uint8, frame t_prev.
        t: position of the frame in its sequence.
        t_prev: position of the other frame.
        alpha: tolerance relative to the squared lengths, see :func:`forward_backward_consistency`.
        beta: tolerance in squared pixels.

    Returns:
        Flow [H, W, 2] in pixels and a mask [H, W], bool.

    Raises:
        InputError: when the frames are unfit, or stored flow is missing or damaged.
    """
    backward = flow_between(estimator, current, previous, t, t_prev)
    has_flow: Any = getattr(estimator, "has_flow", None)
    if has_flow is not None and not has_flow(t_prev, t):
        return backward, is_known(backward).numpy()
    forward = flow_between(estimator, previous, current, t_prev, t)
    return backward, forward_backward_consistency(backward, forward, alpha, beta).numpy()
