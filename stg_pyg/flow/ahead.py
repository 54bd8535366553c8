"""Optical flow of the next frame, computed in a thread while the network works on the current one."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from stg_pyg.config import STGConfig
from stg_pyg.flow.dis import DISFlow
from stg_pyg.flow.flo_files import FloFiles, SequenceFlow
from stg_pyg.flow.interface import FlowEstimator, flow_between, flow_for_sequence, has_flow
from stg_pyg.flow.warping import Flow, Image

_LATEST = 2
"""Frames whose flow is kept: the one that is worked on, and the next one."""


class FlowAhead:
    """A source of flow for one video that is told frames in advance, see :meth:`prepare`, and computes their flow then.

    Its flow is that of ``estimator``, to the last bit: prepared flow is taken for the very frames that it was computed
    from, and all other flow is computed when it is asked for. Errors of the estimator are raised there too.
    Memory is bounded: flow is kept of the latest two frames that were told, and the images that their gaps reach.

    Args:
        estimator: the source, safe to be used in a thread, see :func:`flow_ahead`; the thread has a copy of its own.
        gaps: frames back that flow will be asked for.
        both_ways: prepare the forward flow too, which :func:`~stg_pyg.flow.interface.consistent_flow` asks for.

    Raises:
        ValueError: when there is no gap, or one is less than 1.

    Example:
        >>> flow = FlowAhead(DISFlow("medium", 480), model.config.warping.gaps)
        >>> video = VideoSegmenter(model, flow)
        >>> for t, image in enumerate(images[:-1]):
        ...     flow.prepare(t, image)
        ...     flow.prepare(t + 1, images[t + 1])
        ...     video.step(image, masks=first_labels if t == 0 else None)
    """

    def __init__(self, estimator: FlowEstimator, gaps: Sequence[int], both_ways: bool = False):
        if not gaps or min(gaps) < 1:
            raise ValueError(f"gaps must be at least 1, not {list(gaps)}")
        self.estimator, self.gaps, self.both_ways = estimator, tuple(gaps), both_ways
        self._own = copy.deepcopy(estimator)
        self._images: dict[int, Image] = {}
        self._jobs: dict[tuple[int, int], tuple[Any, ...]] = {}  # the two images and the flow to come
        self._pool = ThreadPoolExecutor(1, "flow-ahead")

    def prepare(self, t: int, image: Image) -> None:
        """Begins to compute the flow of a frame to those that were told before it; a frame told again is left as it is.

        Args:
            t: position of the frame, as ``between`` will name it; frames are told in order, without gaps.
            image: [H, W, 3] uint8, as ``between`` will be given it; it must not be changed any more.
        """
        if t in self._images:
            return
        for key in [key for key in self._jobs if not t - _LATEST < max(key) < t]:
            self._jobs.pop(key)[-1].cancel()
        self._images = {s: kept for s, kept in self._images.items() if t - max(self.gaps) - 1 < s < t}
        self._images[t] = image
        for gap in self.gaps:
            if t - gap in self._images:
                self._submit(t, t - gap)
                if self.both_ways and self.has_flow(t - gap, t):
                    self._submit(t - gap, t)

    def __call__(self, current: Image, previous: Image) -> Flow:
        """Flow [H, W, 2] in pixels of the estimator, computed now."""
        return self.estimator(current, previous)

    def between(self, current: Image, previous: Image, t: int, t_prev: int) -> Flow:
        """Flow [H, W, 2] from frame t to frame t_prev, in pixels, prepared or computed now.

        Raises:
            InputError: what the estimator says of these frames.
        """
        *images, flow = self._jobs.pop((t, t_prev), (None,))
        # What the thread has not come to yet is as soon done here.
        if flow is not None and not flow.cancel() and all(map(_same, images, (current, previous))):
            return flow.result()
        return flow_between(self.estimator, current, previous, t, t_prev)

    def has_flow(self, t: int, t_prev: int) -> bool:
        """Whether the estimator has the flow from frame t to frame t_prev."""
        return has_flow(self.estimator, t, t_prev)

    def for_sequence(self, name: str, frame_names: Sequence[str]) -> FlowAhead:
        """The same for one sequence, see :func:`~stg_pyg.flow.interface.flow_for_sequence`."""
        return FlowAhead(flow_for_sequence(self.estimator, name, frame_names), self.gaps, self.both_ways)

    def close(self) -> None:
        """Drops what is prepared and ends the thread, after the flow that it is computing."""
        self._jobs.clear()
        self._images.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, t: int, t_prev: int) -> None:
        images = self._images[t], self._images[t_prev]
        self._jobs[t, t_prev] = (*images, self._pool.submit(flow_between, self._own, *images, t, t_prev))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.estimator!r}, gaps={self.gaps}, both_ways={self.both_ways})"


@contextlib.contextmanager
def flow_ahead(estimator: FlowEstimator, config: STGConfig, wanted: bool = True) -> Iterator[FlowEstimator]:
    """The source of flow for one video under ``config``, as a :class:`FlowAhead` until the end of the block.

    Sources that cannot be used in a thread, or would share a GPU with the network, are left as they are: all but
    :class:`~stg_pyg.flow.dis.DISFlow` and stored flow. So are all where it is not ``wanted``.
    """
    if not wanted or not isinstance(estimator, DISFlow | FloFiles | SequenceFlow):
        yield estimator
        return
    with contextlib.closing(FlowAhead(estimator, config.warping.gaps, config.warping.consistency)) as ahead:
        yield ahead


def prepare_flow(estimator: FlowEstimator, t: int, image: Image) -> None:
    """Tells a source of flow of frame t, see :meth:`FlowAhead.prepare`; sources that prepare nothing are left alone."""
    if isinstance(estimator, FlowAhead):
        estimator.prepare(t, image)


def _same(image: Image, other: Image) -> bool:
    return image is other or np.array_equal(image, other)
