"""Writes results beside the paper's as Markdown, CSV and a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.tables.paper_rows import OURS_IN_PAPER, TARGETS, YOUTUBE_VOS, Result, Target

_FIELDS = ("J", "F", "G", *YOUTUBE_VOS[:-1])
_SPEEDS = (0.03, 400.0)
"""Frames a second from left to right."""


def to_markdown(rows: Sequence[Result], footnotes: Sequence[str] = ()) -> str:
    """A table a benchmark, the rows measured here in bold and last."""
    parts: list[str] = []
    for target in TARGETS:
        names = [column.replace("_", " ") for column in target.columns]
        parts.append(f"## Table {target.table}: {target.title}\n")
        parts.append("| method | OL | " + " | ".join([*names, "FPS", ""]) + " |")
        parts.append("| --- " * (len(names) + 4) + "|")
        parts += [_line(row, target) for row in of_target(rows, target)]
        parts.append("")
    return "\n".join([*parts, *(f"{note}\n" for note in footnotes)]).rstrip() + "\n"


def to_csv(rows: Sequence[Result]) -> str:
    """One line a row, with all numbers as they are; empty where there is none."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "benchmark", "method", "source", "online_learning", *_FIELDS, "fps", "note"])
    for target in TARGETS:
        for row in of_target(rows, target):
            source = "measured" if row.ours else "paper"
            scores = [row.scores.get(name) for name in _FIELDS]
            start = [target.table, target.key, row.method, source, int(row.online)]
            writer.writerow([*start, *scores, row.fps, row.note])
    return file.getvalue()


def draw(rows: Sequence[Result]) -> np.ndarray:
    """The main score against frames a second, a panel a benchmark, as a picture uint8 [H, W, 3]."""
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(12.0, 7.0), dpi=110, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        for axes, target in zip(figure.subplots(2, 3).ravel(), TARGETS, strict=True):
            _panel(axes, target, of_target(rows, target))
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def of_target(rows: Sequence[Result], target: Target) -> list[Result]:
    """The rows of one benchmark, those measured here last."""
    return sorted((row for row in rows if row.target == target.key), key=lambda row: row.ours)


def _line(row: Result, target: Target) -> str:
    values = [_number(row.scores.get(name)) for name in target.columns]
    cells = [row.method, "✓" if row.online else "✗", *values, _number(row.fps, 2 if row.ours else 1), row.note]
    return "| " + " | ".join(f"**{cell}**" if row.ours and cell not in ("", "-") else cell for cell in cells) + " |"


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _panel(axes: Axes, target: Target, rows: Sequence[Result]) -> None:
    for row in rows:
        score = row.scores.get(target.main)
        if score is None:
            continue
        label = f"{row.method.split(' (this')[0]}{' + OL' if row.online else ''}"
        if row.ours and row.note:
            label += f" ({row.note.split(',')[0]})"
        if row.fps is not None:
            marker, size = ("*", 12) if row.ours else ("o", 5)
            axes.plot([row.fps], [score], marker=marker, markersize=size, color=_colour(row))
        elif row.method == OURS_IN_PAPER:  # its speed is not in the paper
            axes.axhline(score, color=_colour(row), linestyle="--")
        else:
            continue
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


def _colour(row: Result) -> str:
    if row.ours:
        return "tab:red"
    return "tab:green" if row.method == OURS_IN_PAPER else "tab:gray"
