"""The results of experiments.ablate as Markdown and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.ablate.rows import CURVES

_HERE, _PAPER = "tab:red", "tab:gray"
_LEAST_SPAN = 4.0
"""Points of G from one side of a panel to the other, so that noise looks like it."""
_FAR = 15.0
"""Points of G from the full model beyond which a configuration is only named at the edge of its panel."""


def to_markdown(result: dict[str, Any]) -> str:
    """Table 4 beside the paper's, the other configurations, the curves, and G of every sequence."""
    parts = [f"# Ablation on {result['split']} of {result['dataset']}\n", _about(result)]
    if result["rows"]:
        parts += ["## Table 4\n", _paper_table(result["rows"])]
    if result["own"]:
        parts += ["## The full model without its parts\n", _own_table(result["own"])]
    if result["curves"]:
        parts.append("## Curves\n")
        parts += [_curve_table(name, curve) for name, curve in result["curves"].items()]
    measured = [row for row in [*result["rows"], *result["own"]] if row["G"] is not None]
    if measured:
        parts += ["## G of every sequence\n", _sequence_table(measured)]
    return "\n".join(parts)


def _about(result: dict[str, Any]) -> str:
    frames, curve_frames = (_frames(result[name]) for name in ("frames", "curve_frames"))
    roles = {"own": "C", "base": "B (without FT)", "ytb": "Y (+ytb)"}
    weights = ", ".join(f"{roles[name]} `{path}`" for name, path in result["checkpoints"].items())
    constants = "as printed in the paper" if result["as_printed"] else "those of the checkpoint"
    lines = [
        f"- {_count(result)}, {frames} of each"
        + (f" ({curve_frames} for the curves)." if result["curves"] and curve_frames != frames else "."),
        f"- Weights: {weights}. Constants: {constants}, where a row does not say otherwise.",
        f"- Online learning (OL): {result['online_steps']} steps, {_seeds(result['seeds'])}.",
        "- J, F and G in percent; seconds a frame of one process, online learning apart.",
        *(f"- {note}" for note in result["notes"]),
    ]
    return "\n".join(lines) + "\n"


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"with the seeds {', '.join(map(str, seeds))}: scores are means over these, ± the standard deviation of G"


def _count(result: dict[str, Any]) -> str:
    number = len(result["sequences"])
    return f"{number} sequence" + "s" * (number != 1)


def _frames(count: int | None) -> str:
    return "all frames" if count is None else f"the first {count} frames"


def _paper_table(rows: Sequence[dict[str, Any]]) -> str:
    head = "| # | Mo | SG | alpha | l | lambda1 | TG | OL | FT | +ytb | J | F | G | G, paper "
    head += "| against | change | change, paper | s/frame | |"
    lines = [head, "| ---: " * head.count(" | ") + "| --- |"]
    for row in rows:
        settings = [_setting(row[name]) for name in ("mo", "sg", "alpha", "l", "lambda1", "tg", "ol")]
        settings += ["as C" if row["ft"] is None else _setting(row["ft"]), _setting(row["ytb"])]
        against = "" if row["compared_to"] is None else f"row {row['compared_to']}"
        changes = [against, _change(row["change"]), _change(row["paper_change"])]
        cells = [row["number"], *settings, *_scores(row), f"{row['paper_G']:.1f}", *changes, _seconds(row), row["note"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _own_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| configuration | J | F | G | change | s/frame |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for row in rows:
        cells = [row["label"], *_scores(row), _change(row["change"]), _seconds(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _curve_table(name: str, curve: dict[str, Any]) -> str:
    lines = [f"| {CURVES[name].title} | J | F | G |", "| ---: | ---: | ---: | ---: |"]
    for point in curve["points"]:
        value = f"**{point['value']}**" if point["value"] == curve["own"] else str(point["value"])
        lines.append("| " + " | ".join([value, *_scores(point)]) + " |")
    return "\n".join(lines) + "\n"


def _sequence_table(rows: Sequence[dict[str, Any]]) -> str:
    names = list(rows[0]["sequences"])
    lines = ["| | " + " | ".join(names) + " |", "| --- " + "| ---: " * len(names) + "|"]
    for row in rows:
        label = f"{row['number']}: {row['step']}" if "number" in row else row["label"]
        lines.append(f"| {label} | " + " | ".join(f"{row['sequences'][name]:.1f}" for name in names) + " |")
    return "\n".join(lines) + "\n"


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "✓" if value else "✗"
    return "-" if value is None else f"{value:g}"


def _scores(row: dict[str, Any]) -> list[str]:
    if row["G"] is None:
        return ["-", "-", "-"]
    spread = "" if row["G_std"] is None else f" ± {row['G_std']:.1f}"
    return [f"{row['J']:.1f}", f"{row['F']:.1f}", f"{row['G']:.1f}{spread}"]


def _change(value: float | None) -> str:
    return "" if value is None else "0.0" if abs(value) < 0.05 else f"{value:+.1f}"


def _seconds(row: dict[str, Any]) -> str:
    return "-" if row["seconds_per_frame"] is None else f"{row['seconds_per_frame']:.2f}"


def draw(result: dict[str, Any]) -> np.ndarray:
    """G of the rows beside the paper's, of the other configurations, and over each constant, as uint8 [H, W, 3]."""
    tables, curves = [kind for kind in ("rows", "own") if result[kind]], result["curves"]
    heights = [4.5] * bool(tables) + [3.6 * math.ceil(len(curves) / 3)] * bool(curves)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(13.0, 0.4 + sum(heights)), dpi=110, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        parts = iter(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights).ravel())
        if tables:
            widths = [{"rows": 2, "own": 1}[kind] for kind in tables]
            panels = next(parts).subplots(1, len(tables), squeeze=False, width_ratios=widths).ravel()
            for panel, kind in zip(panels, tables, strict=True):
                (_draw_rows if kind == "rows" else _draw_own)(panel, result[kind])
        if curves:
            panels = next(parts).subplots(math.ceil(len(curves) / 3), 3, squeeze=False).ravel()
            for panel, (name, curve) in zip(panels, curves.items(), strict=False):
                _draw_curve(panel, name, curve)
            for panel in panels[len(curves) :]:
                panel.axis("off")
        dotted = "; dotted lines: the full model" if result["own"] or curves else ""
        figure.suptitle(f"{result['split']} of {result['dataset']}, {_count(result)}{dotted}")
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_rows(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    places = range(len(rows))
    axes.plot(places, [row["paper_G"] for row in rows], "s--", color=_PAPER, label="paper, DAVIS-2017 test-dev")
    measured = [(place, row) for place, row in zip(places, rows, strict=True) if row["G"] is not None]
    _draw_points(axes, [place for place, _ in measured], [row for _, row in measured], label="here")
    for place, row in measured:
        axes.annotate(f"{row['G']:.1f}", (place, row["G"]), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xticks(list(places), [f"{row['number']}\n{row['step'].replace(' 0', chr(10) + '0')}" for row in rows])
    axes.set(title="rows of Table 4", ylabel="G in percent")
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _draw_own(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    values, errors = [row["G"] for row in rows], [row["G_std"] or 0.0 for row in rows]
    full = values[0]
    near = [value for value in values if abs(value - full) < _FAR]
    low, high = min([*near, full - _LEAST_SPAN / 2]), max([*near, full + _LEAST_SPAN / 2])
    low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
    axes.errorbar(values, range(len(rows)), xerr=errors, fmt="o", color=_HERE, capsize=2)
    if rows[0]["name"] == "full":
        axes.axvline(full, color=_HERE, alpha=0.4, linestyle=":")
    for place, value in enumerate(values):
        if low <= value <= high:
            axes.annotate(f"{value:.1f}", (value, place), (0, 4), textcoords="offset points", ha="center", fontsize=7)
        else:  # its point is outside, so that the distances of the others can be seen
            text, edge, side = (f" ◂ {value:.1f}", low, "left") if value < low else (f"{value:.1f} ▸ ", high, "right")
            axes.annotate(text, (edge, place), ha=side, va="center", fontsize=8)
    axes.set_xlim(low, high)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set(title="the full model without its parts", xlabel="G in percent")
    axes.grid(alpha=0.3)


def _draw_curve(axes: Axes, name: str, curve: dict[str, Any]) -> None:
    points = curve["points"]
    values = [point["value"] for point in points]
    places = list(range(len(values))) if CURVES[name].evenly else values
    _draw_points(axes, places, points)
    axes.axvline(places[values.index(curve["own"])], color=_HERE, alpha=0.4, linestyle=":")
    axes.set_xticks(places, [value if isinstance(value, str) else f"{value:g}" for value in values])
    low, high = axes.get_ylim()
    rest = max(0.0, _LEAST_SPAN - (high - low)) / 2
    axes.set(xlabel=CURVES[name].title, ylabel="G in percent", ylim=(low - rest, high + rest))
    axes.grid(alpha=0.3)


def _draw_points(axes: Axes, places: Sequence[float], rows: Sequence[dict[str, Any]], label: str | None = None) -> None:
    errors = [row["G_std"] or 0.0 for row in rows]
    axes.errorbar(places, [row["G"] for row in rows], yerr=errors, fmt="o-", color=_HERE, capsize=2, label=label)
