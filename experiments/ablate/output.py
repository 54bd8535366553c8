"""The results of experiments.ablate as Markdown and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.ablate.rows import CURVES
from experiments.common.tabulate import columns_of, markdown_table

_HERE, _PAPER = "tab:red", "tab:gray"
_LEAST_SPAN = 4.0
"""Points of G from one side of a panel to the other, so that noise looks like it."""
_FAR = 15.0
"""Points of G from the full model beyond which a configuration is only named at the edge of its panel."""
SCORES = "J: {J:.1f} | F: {F:.1f} | G: {G:.1f}{spread}"
PAPER = columns_of(
    "#: {number:d} | Mo: {mo} | SG: {sg} | alpha: {alpha:g} | l: {l:d} | lambda1: {lambda1:g} | TG: {tg} | OL: {ol} | "
    f"FT: {{ft}} | +ytb: {{ytb}} | {SCORES} | G, paper: {{paper_G:.1f}} | against: row {{compared_to:d}} | "
    "change: {change:+.1f} | change, paper: {paper_change:+.1f} | s/frame: {seconds_per_frame:.2f} | note: {note}"
)
OWN = columns_of(f"configuration: {{label}} | {SCORES} | change: {{change:+.1f}} | s/frame: {{seconds_per_frame:.2f}}")


def to_markdown(result: dict[str, Any]) -> str:
    """Table 4 beside the paper's, the other configurations, the curves, and G of every sequence."""
    parts = [f"# Ablation on {result['split']} of {result['dataset']}\n", _about(result)]
    if result["rows"]:
        rows = [{**row, "ft": "as C"} if row["ft"] is None else row for row in result["rows"]]
        parts += ["## Table 4\n", _table(rows, PAPER)]
    if result["own"]:
        parts += ["## The full model without its parts\n", _table(result["own"], OWN)]
    if result["curves"]:
        parts.append("## Curves\n")
    for name, curve in result["curves"].items():
        points = [{**point, "bold": point["value"] == curve["own"]} for point in curve["points"]]
        parts.append(_table(points, {CURVES[name].title: "{value}"} | columns_of(SCORES)))
    if measured := [row for row in [*result["rows"], *result["own"]] if row["G"] is not None]:
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


def _table(rows: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> str:
    shown = []
    for row in rows:
        changes = {name: round(row[name], 1) + 0.0 for name in ("change", "paper_change") if row.get(name) is not None}
        spread = "" if row["G_std"] is None else f" ± {row['G_std']:.1f}"
        shown.append({**row, **changes, "spread": spread})
    return markdown_table(shown, columns) + "\n"


def _sequence_table(rows: Sequence[dict[str, Any]]) -> str:
    columns = {"": "{label}"} | {name: f"{{scores[{i}]:.1f}}" for i, name in enumerate(rows[0]["sequences"])}
    labels = [f"{row['number']}: {row['step']}" if "number" in row else row["label"] for row in rows]
    shown = [{"label": label, "scores": [*row["sequences"].values()]} for label, row in zip(labels, rows, strict=True)]
    return markdown_table(shown, columns) + "\n"


def draw(result: dict[str, Any]) -> Figure:
    """G of the rows beside the paper's, of the other configurations, and over each constant."""
    tables, curves = [kind for kind in ("rows", "own") if result[kind]], result["curves"]
    heights = [4.5] * bool(tables) + [3.6 * math.ceil(len(curves) / 3)] * bool(curves)
    figure = Figure(figsize=(13.0, 0.4 + sum(heights)))
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
    return figure


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
    margin = 0.15 * (high - low)
    axes.errorbar(values, range(len(rows)), xerr=errors, fmt="o", color=_HERE, capsize=2)
    if rows[0]["name"] == "full":
        axes.axvline(full, color=_HERE, alpha=0.4, linestyle=":")
    for place, value in enumerate(values):  # what is far is named at the edge, so that the others can be told apart
        at, side = (min(max(value, low), high), place), "◂ " if value < low else "▸ " if value > high else ""
        axes.annotate(f"{side}{value:.1f}", at, (0, 4), textcoords="offset points", ha="center", fontsize=7)
    axes.set_xlim(low - margin, high + margin)
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
