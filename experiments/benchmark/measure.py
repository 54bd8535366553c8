"""Time and peak memory of single calls, for experiments.benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from experiments.benchmark.cases import Case

SLOW = 2000.0
"""Milliseconds from which a call is not repeated."""
FAST = 100.0
"""Milliseconds up to which a call runs once before it is timed."""
MEMORY_SHARE = 0.7
"""Share of the free memory that a case may need."""


def measure(cases: Sequence[Case], repetitions: int, device: torch.device) -> list[dict[str, Any]]:
    """Times all cases in turns, so that a change of the machine's load meets all of them; their rows.

    Each turn times the call and the copy of its tensors, one after the other; one that takes less than ``FAST`` runs
    once before, so that both find the memory that they just released. In a first turn the peak memory is measured; its
    time counts only for a case that takes longer than ``SLOW``, which is not repeated. A case that needs more memory
    than is free is skipped. Of the cases that copy the same tensors all get the fastest median of copying, because
    it depends on whether the allocator had given the memory back to the system.
    """
    reasons = {id(case): case.reason or _no_room(case, device) for case in cases}
    running = [case for case in cases if not reasons[id(case)]]
    peaks: dict[int, float] = {}
    with torch.no_grad():
        for case in running:
            peaks[id(case)], elapsed = _first_call(case, device)
            case.milliseconds = [elapsed] if elapsed > SLOW else []
        once = {id(case) for case in running if case.milliseconds}
        fast = {id(case) for case in running if id(case) not in once and _timed(case.call, device) <= FAST}
        for _ in range(repetitions):
            for case in running:
                if id(case) not in once:
                    case.milliseconds.append(_timed(case.call, device, id(case) in fast))
                case.copy_milliseconds.append(_timed(case.copy, device, id(case) in fast))
    copies: dict[tuple[str, int], float] = {}
    for case in running:
        median = float(np.median(case.copy_milliseconds))
        copies[_tensors(case)] = min(median, copies.get(_tensors(case), median))
    return [_row(case, peaks.get(id(case)), copies.get(_tensors(case)), reasons[id(case)]) for case in cases]


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


def add_speedups(rows: Sequence[dict[str, Any]]) -> None:
    """Fills ``speedup_over_edgewise`` of rows for whose layer, input and steps there is an edgewise row."""
    keys = ("device", "layer", "objects", "proposals", "height", "width", "region_pixels", "steps")
    edgewise = {tuple(row[k] for k in keys): row["ms"] for row in rows if row["backend"] == "edgewise"}
    for row in rows:
        base = edgewise.get(tuple(row[k] for k in keys))
        row["speedup_over_edgewise"] = base / row["ms"] if base and row["ms"] else None


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Least-squares slope of log time over log size; NaN for fewer than two sizes."""
    if len(set(sizes)) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def fit_growth(cases: Sequence[Case], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The growth exponent of each sweep of each layer and backend, of the medians."""
    points: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
    for case, row in zip(cases, rows, strict=True):
        for sweep in case.sweeps if row["ms"] else ():
            key = (sweep, row["layer"], row["backend"], row["device"])
            points.setdefault(key, []).append((row[sweep], row["ms"]))
    fits = []
    for (sweep, layer, backend, device), found in points.items():
        sizes, times = zip(*sorted(found), strict=True)
        fit = {"growth_in": sweep, "layer": layer, "backend": backend, "device": device}
        fits.append(fit | {"sizes": sizes, "ms": times, "exponent": exponent(sizes, times)})
    return fits


def _first_call(case: Case, device: torch.device) -> tuple[float, float]:
    elapsed: list[float] = []
    peak = peak_mb(lambda: elapsed.append(_timed(case.call, device)), device)
    return peak, elapsed[0]


def _timed(call: Callable[[], Any], device: torch.device, warm: bool = False) -> float:
    if warm:
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elapsed = time.perf_counter() - started
    del result
    return 1e3 * elapsed


def _tensors(case: Case) -> tuple[str, int]:
    """The same for cases that copy the same tensors in the same way."""
    return case.copy.__name__, id(getattr(case.copy, "__self__", case.copy))


def _row(case: Case, peak: float | None, copy: float | None, reason: str | None) -> dict[str, Any]:
    row = dict(case.row)
    empty = {"ms": None, "ms_low": None, "ms_high": None, "copy_ms": None, "ratio_to_copy": None, "ratio_low": None}
    if reason is not None or copy is None:
        return row | empty | {"ratio_high": None, "peak_mb": None, "repetitions": 0, "skipped": reason}
    low, median, high = np.percentile(case.milliseconds, [25, 50, 75]).tolist()
    row |= {"ms": median, "ms_low": low, "ms_high": high, "copy_ms": copy, "ratio_to_copy": median / copy}
    row |= {"ratio_low": low / copy, "ratio_high": high / copy, "peak_mb": peak}
    return row | {"repetitions": len(case.milliseconds), "skipped": None}


def _no_room(case: Case, device: torch.device) -> str | None:
    free = _free_mb(device)
    if free is None or case.needed_mb <= MEMORY_SHARE * free:
        return None
    return f"may need {case.needed_mb / 1024:.1f} GiB, {free / 1024:.1f} GiB are free"


def _free_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    table = Path("/proc/meminfo")
    for line in table.read_text().splitlines() if table.is_file() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return None
