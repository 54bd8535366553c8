"""Where the time of a frame goes: named stages that a profiler sees and that can be timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.profiler import record_function


class StageTimes:
    """Seconds by stage, without those of the stages inside of it.

    Args:
        device: whose queued work a stage waits for before its time is taken, so that it is not charged to another.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.seconds: dict[str, float] = {}
        self.order: list[tuple[int, str]] = []
        """(depth, name) of the stages in the order in which they began."""
        self._inner: list[float] = []

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time of the block to the stage ``name``."""
        started = self._now()
        self.order.append((len(self._inner), name))
        self._inner.append(0.0)
        try:
            yield
        finally:
            elapsed = self._now() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


_current: ContextVar[StageTimes | None] = ContextVar("stage_times", default=None)


@contextmanager
def timed_stages(device: torch.device | str = "cpu") -> Iterator[StageTimes]:
    """Times the stages of everything that runs in the block, in this thread.

    Example:
        >>> with timed_stages() as times:
        ...     video.step(image)
        >>> times.seconds["temporal"]
    """
    times = StageTimes(device)
    token = _current.set(times)
    try:
        yield times
    finally:
        _current.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """A stage of a frame; a range of that name in ``torch.profiler``, and timed inside of :func:`timed_stages`."""
    with record_function(name):
        times = _current.get()
        if times is None:
            yield
        else:
            with times.measure(name):
                yield
