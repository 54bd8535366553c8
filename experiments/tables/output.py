"""Results beside the paper's as Markdown, CSV and a plot."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.tabulate import csv_text, markdown_table
from experiments.tables.paper_rows import OURS_IN_PAPER, TARGETS, YOUTUBE_VOS, Result, Target

_SPEEDS = (0.03, 400.0)
"""Frames a second from left to right."""


def to_markdown(rows: Sequence[Result], footnote: str) -> str:
    """A table a benchmark, the rows measured here in bold and last."""
    parts = []
    for target in TARGETS:
        scores = {name.replace("_", " "): f"{{{name}:.1f}}" for name in target.columns}
        scores[target.main] += "{spread}"
        speeds = {"FPS": "{fps:.3g}", "FPS of steps": "{fps_steps:.3g}"}
        columns = {"method": "{method}", "OL": "{online}"} | scores | speeds | {"": "{note}"}
        shown = [
            {**vars(row), **row.scores, "bold": row.ours}
            | {"spread": "" if row.spread is None else f" ± {row.spread:.1f}"}
            for row in of_target(rows, target)
        ]
        parts.append(f"## Table {target.table}: {target.title}\n\n{markdown_table(shown, columns)}\n")
    return "\n".join([*parts, f"{footnote}\n"])


def to_csv(rows: Sequence[Result]) -> str:
    """One line a row, with all numbers as they are; empty where there is none."""
    lines = []
    for target in TARGETS:
        for row in of_target(rows, target):
            line = {"table": target.table, "benchmark": target.key, "method": row.method}
            line |= {"source": "measured" if row.ours else "paper", "online_learning": int(row.online)}
            line |= {name: row.scores.get(name) for name in ("J", "F", "G", *YOUTUBE_VOS[:-1])}
            lines.append(line | {"std": row.spread, "fps": row.fps, "fps_steps": row.fps_steps, "note": row.note})
    return csv_text(lines)


def draw(rows: Sequence[Result]) -> Figure:
    """The main score against frames a second, a panel a benchmark."""
    figure = Figure(figsize=(12.0, 7.0))
    for axes, target in zip(figure.subplots(2, 3).ravel(), TARGETS, strict=True):
        _panel(axes, target, of_target(rows, target))
    return figure


def of_target(rows: Sequence[Result], target: Target) -> list[Result]:
    """The rows of one benchmark, those measured here last."""
    return sorted((row for row in rows if row.target == target.key), key=lambda row: row.ours)


def _panel(axes: Axes, target: Target, rows: Sequence[Result]) -> None:
    for row in rows:
        paper = row.method == OURS_IN_PAPER
        score, colour = row.scores.get(target.main), "tab:red" if row.ours else "tab:green" if paper else "tab:gray"
        if score is None or (row.fps is None and not paper):
            continue
        label = f"{row.method.split(' (this')[0]}{' + OL' if row.online else ''}"
        if row.ours and row.note:
            label += f" ({row.note.split(',')[0]})"
        if row.fps is not None:
            marker, size = ("*", 12) if row.ours else ("o", 5)
            axes.plot([row.fps], [score], marker=marker, markersize=size, color=colour)
        else:  # the paper does not print its speed
            axes.axhline(score, color=colour, linestyle="--")
        place = (row.fps if row.fps is not None else _SPEEDS[0], score)
        axes.annotate(label, place, xytext=(5, 4), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.minorticks_off()
    speeds = [row.fps for row in rows if row.fps]
    axes.set_xlim(min([_SPEEDS[0], *(speed / 2 for speed in speeds)]), max([_SPEEDS[1], *(2 * s for s in speeds)]))
    axes.margins(y=0.15)
    axes.set(title=target.title, xlabel="frames a second", ylabel=f"{target.main} in percent")
    axes.grid(alpha=0.3)
