"""The results of experiments.benchmark as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.benchmark.frame_report import stage_names
from experiments.benchmark.streams import GRAPH_STAGES

Row = dict[str, Any]
CLIFF_MB = 32
"""Results beyond this are mapped anew for every call by glibc."""
_REDS, _OTHERS = "Reds", "tab20c"
_COLUMNS = 3


def draw_layers(result: Row) -> np.ndarray:
    """Backends at the main size, and time over size for every sweep, as uint8 [H, W, 3]."""
    sweeps = list(dict.fromkeys(fit["growth_in"] for fit in result["growth"]))
    lines = math.ceil((1 + len(sweeps)) / _COLUMNS)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(5.2 * _COLUMNS, 4.0 * lines), dpi=110, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
        _draw_backends(axes[0], [row for row in result["rows"] if row["group"] == "main" and row["ms"]])
        for axis, sweep in zip(axes[1:], sweeps, strict=False):
            _draw_sweep(axis, sweep, [fit for fit in result["growth"] if fit["growth_in"] == sweep])
        for axis in axes[1 + len(sweeps) :]:
            axis.axis("off")
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_stages(frames: Sequence[Row]) -> np.ndarray:
    """Stacked bars of the stages of a frame, one a row of ``frames``, as uint8 [H, W, 3]; graph layers in red."""
    names = stage_names(frames)
    labels = [f"{row['proposals']}, {row['objects']} obj., {row['device']}" for row in frames]
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(11, 1.6 + 0.55 * len(frames)), dpi=110, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axis = figure.subplots()
        left = np.zeros(len(frames))
        for name, colour in zip(names, _colours(names), strict=True):
            widths = np.array([row["stages"].get(name, 0.0) for row in frames])
            axis.barh(range(len(frames)), widths, left=left, color=colour, label=name, edgecolor="white", linewidth=0.4)
            left += widths
        for place, row in enumerate(frames):
            text = f" {row['fps']:.2f} frames/s, graph layers {100 * row['graph_share']:.1f} %"
            axis.annotate(text, (left[place], place), va="center", fontsize=8)
        axis.set_yticks(range(len(frames)), labels)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.45 * left.max())
        size = f"{frames[0]['height']} x {frames[0]['width']}"
        axis.set(xlabel="ms a frame", title=f"stages of a frame of {size}; graph layers in red")
        axis.legend(ncols=1, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_backends(axis: Any, rows: Sequence[Row]) -> None:
    if not rows:
        axis.axis("off")
        return
    names = [f"{row['backend']}, {row['device']}" for row in rows]
    axis.barh(range(len(rows)), [row["ms"] for row in rows])
    for place, row in enumerate(rows):
        axis.annotate(f" {row['ratio_to_copy']:.3g} x copy", (row["ms"], place), va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), names)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.margins(x=0.35)
    case = "".join(f", {r['objects']} x {r['proposals']}, {r['height']} x {r['width']}, l = 2" for r in rows[:1])
    axis.set(xlabel="ms", title=f"backends of Eq. 5{case}")


def _draw_sweep(axis: Any, sweep: str, fits: Sequence[Row]) -> None:
    hollow = False
    for fit in fits:
        label = f"{fit['layer']} {fit['backend']}, {fit['device']}: {fit['exponent']:.2f}"
        (line,) = axis.loglog(fit["sizes"], fit["ms"], marker="o", label=label)
        large = [n for n, size in enumerate(fit["result_mb"]) if size > CLIFF_MB and fit["device"] == "cpu"]
        sizes, times = ([fit[key][n] for n in large] for key in ("sizes", "ms"))
        axis.loglog(sizes, times, "o", color=line.get_color(), markerfacecolor="white")
        hollow |= bool(large)
    ticks = sorted({size for fit in fits for size in fit["sizes"]})
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_xticks([], minor=True)
    note = f"; hollow: results > {CLIFF_MB} MiB" if hollow else ""
    axis.set(xlabel=sweep.replace("_", " "), ylabel="ms", title=f"growth, with exponents{note}")
    axis.grid(alpha=0.3, which="both")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * (high / low) ** (0.09 * (len(fits) + 1)))  # room for the legend
    axis.legend(fontsize=8, loc="upper left")


def _colours(names: Sequence[str]) -> list[Any]:
    graph = [name for name in names if name in GRAPH_STAGES]
    reds = matplotlib.colormaps[_REDS](np.linspace(0.9, 0.5, max(1, len(graph))))
    others = matplotlib.colormaps[_OTHERS]
    palette = iter([n for n in range(20) if not 4 <= n < 8])  # without its oranges, which look like the reds
    return [reds[graph.index(n)] if n in graph else others(next(palette, 19)) for n in names]
