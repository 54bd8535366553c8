"""Time and peak memory of single calls, measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import timer  # waits for a GPU

Row = dict[str, Any]
SLOW = 1.0
"""Seconds from which on a call is not repeated."""
MOST_MB = 6.75 * 1024
"""What a call on the CPU may need beside its inputs, in MiB."""


@dataclass(eq=False)
class Case:
    """One call to be timed.

    Attributes:
        row: what tells the case in ``benchmark.json``.
        call: what is timed.
        copy: copies what the call must read and write, into memory that it allocates as the call does.
        needed_mb: a bound of the MiB that the call needs beside its inputs.
        inputs: what gradients are taken of.
    """

    row: Row
    call: Callable[[], Any]
    copy: Callable[[], Any]
    needed_mb: float
    inputs: Sequence[Tensor]
    seconds: list[float] = field(default_factory=list)

    def with_gradients(self) -> list[Tensor]:
        """The call, and the gradients of the sum of what it returns."""
        inputs = [tensor.requires_grad_() for tensor in self.inputs]
        with torch.enable_grad():
            total = torch.stack([tensor.sum() for tensor in tensors_of(self.call())]).sum()
            return [grad for grad in torch.autograd.grad(total, inputs, allow_unused=True) if grad is not None]


def measure(cases: Sequence[Case], repetitions: int, device: torch.device, backward: bool = False) -> list[Row]:
    """Times all cases and the copies of their tensors in turns, so that a change of the machine's load meets all.

    A first call measures the peak of memory; one that takes longer than ``SLOW`` is not repeated. Every other one, and
    every copy, runs once before it is timed, so that it finds the memory that it just released. What needs more memory
    than there is room for is skipped.
    """
    calls = {case: case.with_gradients if backward else case.call for case in cases}
    copies: dict[Callable[[], Any], list[float]] = {}
    with torch.no_grad():
        for case in cases:
            case.row |= dict.fromkeys(("ms", "ms_low", "ms_high", "copy_ms", "ratio_to_copy", "peak_mb"))
            case.row |= {"backward": backward, "repetitions": 0, "skipped": None}
            if case.needed_mb * (1 + backward) > room_mb(device):
                case.row["skipped"] = f"may need {case.needed_mb:.0f} MiB, there is room for {room_mb(device):.0f}"
                continue
            copies[case.copy] = []
            case.row["peak_mb"], elapsed = first_call(calls[case], device)
            case.seconds.append(elapsed)
        for _ in range(repetitions):
            for case in cases:
                if case.seconds and case.seconds[0] <= SLOW:
                    case.seconds.append(timed(calls[case], warm=True))
            for copy, seconds in copies.items():
                seconds.append(timed(copy, warm=True))
    for case in cases:
        if case.seconds:
            seconds = case.seconds[1:] or case.seconds
            low, median, high = (1e3 * np.percentile(seconds, [25, 50, 75])).tolist()
            copied = 1e3 * float(np.median(copies[case.copy]))
            case.row |= {"ms": median, "ms_low": low, "ms_high": high, "repetitions": len(seconds)}
            case.row |= {"copy_ms": copied, "ratio_to_copy": median / copied}
    return [case.row for case in cases]


def timed(call: Callable[[], Any], warm: bool = False) -> float:
    """Seconds of a call, with ``warm`` of the second of two."""
    if warm:
        call()
    started = timer()
    call()
    return timer() - started


def first_call(call: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """The most MiB that PyTorch's allocator held at once for a call, its result counted and its inputs not, and the
    seconds that it took: by the statistics of the allocator on CUDA, on the CPU by its events, which the profiler
    records."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        elapsed = timed(call)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20, elapsed
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        elapsed = timed(call)
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    steps = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return float(np.cumsum([0, *steps]).max() / 2**20), elapsed


def room_mb(device: torch.device) -> float:
    """MiB that a call may need on the device: 0.7 of what is free."""
    if device.type == "cuda":
        return 0.7 * torch.cuda.mem_get_info(device)[0] / 2**20
    return min(0.7 * psutil.virtual_memory().available / 2**20, MOST_MB)


def tensors_of(result: Any) -> list[Tensor]:
    """The tensors that a call returned: one, several, or masks in windows."""
    if isinstance(result, list | tuple):
        return [tensor for item in result for tensor in tensors_of(item)]
    return [result if isinstance(result, Tensor) else result.flat]
