"""What the measurements are to show, and whether they do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

Row = dict[str, Any]
SPEEDUP = 100.0
"""Least speedup of ``region`` over ``edgewise``."""
RATIO_TO_COPY = 3.0
"""Most time of ``region`` over that of copying the windows."""
MEMORY = 1.0
"""Peak memory over that of the masks that are given stays below this."""
EXPONENT = 1.1
"""Largest exponent of growth."""
STEPS = 1.1
"""Most time of l = 3 over that of l = 1."""
GRAPH_SHARE = 0.15
"""The share of the graph layers in a frame with stored proposals stays below this."""


def make_claims(result: dict[str, Any]) -> list[Row]:
    """The claims that the parts of a result decide, each with ``claim``, ``device``, ``value``, ``due``, ``holds``,
    ``case`` and ``detail``; ``value`` and ``holds`` are None where the case was skipped."""
    claims: list[Row] = []
    rows = [row for row in result.get("rows", ()) if row["group"] == "main"]
    for device in dict.fromkeys(row["device"] for row in rows):
        claims += _main_claims([row for row in rows if row["device"] == device])
    claims += [_growth_claim(fit) for fit in result.get("growth", ()) if _is_claimed(fit)]
    for pair in result.get("paired", ()):
        detail = f"median of {pair['pairs']} pairs, quartiles {pair['ratio_low']:.3f} and {pair['ratio_high']:.3f}"
        claims.append(_claim(f"{pair['name']}, {pair['backend']}", pair, pair["ratio"], STEPS, "at most", "", detail))
    return claims + list(_frame_claims(result.get("frames", ())))


def _main_claims(rows: Sequence[Row]) -> Iterator[Row]:
    chosen = {row["backend"]: row for row in rows if row["steps"] == 2}
    region, edgewise = chosen["region"], chosen["edgewise"]
    size = f"{region['height']} x {region['width']}"
    case = f"{region['objects']} objects x {region['proposals']} proposals, {size}, l = 2"
    detail = ""
    if region["ms"] and edgewise["ms"]:
        detail = f"{region['ms']:.3g} ms against {edgewise['ms']:.4g} ms"
        detail += f" in {edgewise['parts']} parts" if edgewise["parts"] > 1 else ""
    yield _claim(
        "speedup of region over edgewise", region, region["speedup_over_edgewise"], SPEEDUP, "at least", case, detail
    )
    copy = region["copy_ms"]
    detail = f"copying takes {copy:.3g} ms" if copy else ""
    yield _claim(
        "region over a copy of the windows", region, region["ratio_to_copy"], RATIO_TO_COPY, "at most", case, detail
    )
    peak = region["peak_mb"]
    share = None if peak is None else peak / region["input_mb"]
    detail = (
        ""
        if peak is None
        else f"{peak:.1f} of {region['input_mb']:.1f} MiB, the result of {region['result_mb']:.1f} counted"
    )
    yield _claim("peak memory of region over that of the input", region, share, MEMORY, "below", case, detail)


def _is_claimed(fit: Row) -> bool:
    sweep = fit["growth_in"]
    return sweep == "memory_frames" or (sweep in ("objects", "region_pixels") and fit["backend"] == "region")


def _growth_claim(fit: Row) -> Row:
    name = f"growth exponent in {fit['growth_in'].replace('_', ' ')}, {fit['layer']} {fit['backend']}"
    case = f"{fit['sizes'][0]} to {fit['sizes'][-1]}"
    value = fit["exponent"]
    detail = f"of the two largest {fit['last_exponent']:.2f}"
    return _claim(name, fit, None if math.isnan(value) else value, EXPONENT, "at most", case, detail)


def _frame_claims(frames: Sequence[Row]) -> Iterator[Row]:
    for row in frames:
        if row["proposals"] == "stored":
            case = f"{row['objects']} objects, {row['height']} x {row['width']}"
            detail = f"of {row['ms']:.4g} ms"
            yield _claim(
                "share of the graph layers in a frame with stored proposals",
                row,
                row["graph_share"],
                GRAPH_SHARE,
                "below",
                case,
                detail,
            )


def _claim(name: str, row: Row, value: float | None, due: float, sense: str, case: str, detail: str) -> Row:
    holds = None
    if value is not None:
        holds = {"at least": value >= due, "at most": value <= due, "below": value < due}[sense]
    claim = {"claim": name, "device": row["device"], "value": value, "due": due, "sense": sense, "holds": holds}
    return claim | {"case": case, "detail": detail}
