"""How much memory a call takes, and how much there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

MEMORY_SHARE = 0.7
"""Share of the free memory that a case may need."""
MOST_MB = 6.75 * 1024
"""MiB that one call on the CPU may need beside its inputs."""


def room_mb(device: torch.device) -> float:
    """MiB that a call may need on the device."""
    free = free_mb(device)
    room = float("inf") if free is None else MEMORY_SHARE * free
    return room if device.type == "cuda" else min(room, MOST_MB)


def free_mb(device: torch.device) -> float | None:
    """MiB that are free; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    table = Path("/proc/meminfo")
    for line in table.read_text().splitlines() if table.is_file() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return None


def peak_mb(call: Callable[[], Any], device: torch.device) -> float:
    """The most MiB that PyTorch's allocator held at once for one call: its result and what it used on the way.

    Inputs are not counted. On the CPU it is the running sum of the allocations and releases that PyTorch's profiler
    records, on CUDA the statistics of the allocator. Memory outside of PyTorch (of BLAS, of Python) is not seen.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = call()
    del result
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    steps = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return float(np.cumsum([0, *steps]).max() / 2**20)


def result_mb(result: Any) -> float:
    """MiB of the largest tensor that a call returned: a tensor, several, or masks in windows."""
    if isinstance(result, Tensor):
        return result.nbytes / 2**20
    if isinstance(result, list | tuple):
        return max(map(result_mb, result), default=0.0)
    return result_mb(getattr(result, "flat", ()))
