"""How time grows with the size of the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmark.cases import Case


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Least-squares slope of log time over log size; NaN for fewer than two sizes."""
    if len(set(sizes)) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def fit_growth(cases: Sequence[Case], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The growth exponents of each sweep of each layer and backend, of the medians.

    ``exponent`` is that of all points, ``last_exponent`` that of the two largest ones, where the fixed costs of a call
    count least. ``result_mb`` are the MiB that the calls return.
    """
    points: dict[tuple[str, str, str, str], list[tuple[float, float, float]]] = {}
    for case, row in zip(cases, rows, strict=True):
        for sweep in case.sweeps if row["ms"] else ():
            key = (sweep, row["layer"], row["backend"], row["device"])
            points.setdefault(key, []).append((row[sweep], row["ms"], row.get("result_mb") or 0.0))
    fits = []
    for (sweep, layer, backend, device), found in points.items():
        sizes, times, results = zip(*sorted(found), strict=True)
        fit: dict[str, Any] = {"growth_in": sweep, "layer": layer, "backend": backend, "device": device}
        fit |= {"sizes": sizes, "ms": times, "result_mb": results, "exponent": exponent(sizes, times)}
        fits.append(fit | {"last_exponent": exponent(sizes[-2:], times[-2:])})
    return fits
