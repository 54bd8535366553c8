"""Times of single calls, for experiments.benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from experiments.benchmark.cases import Case
from experiments.benchmark.memory import MEMORY_SHARE, free_mb, peak_mb, result_mb

SLOW = 1000.0
"""Milliseconds from which a call is not repeated."""
FAST = 100.0
"""Milliseconds up to which a call runs once before it is timed."""


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
    with torch.no_grad():
        for case in running:
            elapsed = _first_call(case, device)
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
    return [_row(case, copies.get(_tensors(case)), reasons[id(case)]) for case in cases]


def paired_ratios(first: Case, second: Case, pairs: int, device: torch.device) -> dict[str, Any]:
    """Time of the second call over that of the first, measured one after the other in changing order.

    Returns:
        ``ratio``: the median of the ratios, ``ratio_low`` and ``ratio_high``: their quartiles, and ``pairs``.
    """
    ratios = []
    with torch.no_grad():
        for turn in range(pairs):
            order = (first, second) if turn % 2 == 0 else (second, first)
            times = {id(case): _timed(case.call, device, warm=True) for case in order}
            ratios.append(times[id(second)] / times[id(first)])
    low, median, high = np.percentile(ratios, [25, 50, 75]).tolist()
    return {"ratio": median, "ratio_low": low, "ratio_high": high, "pairs": pairs}


def add_speedups(rows: Sequence[dict[str, Any]]) -> None:
    """Fills ``speedup_over_edgewise`` of rows for whose layer, input and steps there is an edgewise row."""
    keys = ("device", "layer", "objects", "proposals", "height", "width", "region_pixels", "steps")
    edgewise = {tuple(row[k] for k in keys): row["ms"] for row in rows if row["backend"] == "edgewise"}
    for row in rows:
        base = edgewise.get(tuple(row[k] for k in keys))
        row["speedup_over_edgewise"] = base / row["ms"] if base and row["ms"] else None


def _first_call(case: Case, device: torch.device) -> float:
    elapsed: list[float] = []

    def call() -> Any:
        result, milliseconds = _run(case.call, device)
        elapsed.append(milliseconds)
        case.result_mb = result_mb(result)
        return result

    case.peak_mb = peak_mb(call, device)
    return elapsed[0]


def _timed(call: Callable[[], Any], device: torch.device, warm: bool = False) -> float:
    if warm:
        call()
    return _run(call, device)[1]


def _run(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """The result of a call, and the milliseconds that it took."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, 1e3 * (time.perf_counter() - started)


def _tensors(case: Case) -> tuple[str, int]:
    """The same for cases that copy the same tensors in the same way."""
    return case.copy.__name__, id(getattr(case.copy, "__self__", case.copy))


def _row(case: Case, copy: float | None, reason: str | None) -> dict[str, Any]:
    row = dict(case.row)
    empty = {"ms": None, "ms_low": None, "ms_high": None, "copy_ms": None, "ratio_to_copy": None, "ratio_low": None}
    if reason is not None or copy is None:
        empty |= {"ratio_high": None, "peak_mb": None, "result_mb": None}
        return row | empty | {"repetitions": 0, "skipped": reason}
    low, median, high = np.percentile(case.milliseconds, [25, 50, 75]).tolist()
    row |= {"ms": median, "ms_low": low, "ms_high": high, "copy_ms": copy, "ratio_to_copy": median / copy}
    row |= {"ratio_low": low / copy, "ratio_high": high / copy, "peak_mb": case.peak_mb, "result_mb": case.result_mb}
    return row | {"repetitions": len(case.milliseconds), "skipped": None}


def _no_room(case: Case, device: torch.device) -> str | None:
    free = free_mb(device)
    if free is None or case.needed_mb <= MEMORY_SHARE * free:
        return None
    return f"may need {case.needed_mb / 1024:.1f} GiB, {free / 1024:.1f} GiB are free"
