"""The rows of experiments.benchmark as pictures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmark.frames import GRAPH_STAGES
from experiments.benchmark.measure import Row
from stg_pyg.utils.images import write_atomic


def write_pictures(out: Path, result: Row) -> None:
    """Draws all parts that were measured."""
    pictures = (
        ("benchmark", "rows", draw_layers),
        ("stages", "frames", draw_stages),
        ("growth", "growth", draw_growth),
    )
    for name, key, draw in pictures:
        if result[key]:
            with matplotlib.rc_context({"font.size": 9, "figure.constrained_layout.use": True}):
                write_atomic(out / f"{name}.png", functools.partial(draw(result).savefig, dpi=110))


def draw_layers(result: Row) -> Figure:
    """Backends at the main size, and time over size for every sweep."""
    sweeps = list(dict.fromkeys(fit["growth_in"] for fit in result["exponents"]))
    lines = 1 + len(sweeps) // 3
    figure = Figure(figsize=(15.6, 4 * lines))
    first, *others = figure.subplots(lines, 3, squeeze=False).ravel()
    rows = [row for row in result["rows"] if row["group"] == "main" and row["ms"]]
    bars = first.barh([f"{row['backend']}, {row['device']}" for row in rows], [row["ms"] for row in rows])
    first.bar_label(bars, [f" {row['ratio_to_copy']:.3g} x copy" for row in rows])
    first.invert_yaxis()
    first.margins(x=0.35)
    first.set(xscale="log", xlabel="ms", title="backends of Eq. 5")
    for axis, sweep in zip(others, sweeps, strict=False):
        draw_sweep(axis, [fit for fit in result["exponents"] if fit["growth_in"] == sweep])
    for axis in others[len(sweeps) :]:
        axis.axis("off")
    return figure


def draw_sweep(axis: Axes, fits: Sequence[Row]) -> None:
    """Time over size."""
    for fit in fits:
        label = f"{fit['layer']} {fit['backend']}, {fit['device']}: {fit['exponent'] or 0:.2f}"
        axis.loglog(fit["sizes"], fit["ms"], marker="o", label=label)
    ticks = sorted({size for fit in fits for size in fit["sizes"]})
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set(xlabel=fits[0]["growth_in"].replace("_", " "), ylabel="ms", title="growth, with exponents")
    axis.grid(alpha=0.3, which="both")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * (high / low) ** (0.09 * (len(fits) + 1)))  # room for the legend
    axis.legend(fontsize=8, loc="upper left")


def draw_stages(result: Row) -> Figure:
    """Stacked bars of the stages of a frame; graph layers in red."""
    rows = [row for row in result["frames"] if row["ms"]]
    names = sorted(
        dict.fromkeys(name for row in rows for name in row["stages"]), key=lambda name: name not in GRAPH_STAGES
    )
    reds, others = matplotlib.colormaps["Reds"], matplotlib.colormaps["tab20b"]
    figure = Figure(figsize=(12, 1.6 + 0.4 * len(rows)))
    axis, left = figure.subplots(), np.zeros(len(rows))
    for n, name in enumerate(names):
        widths = np.array([row["stages"].get(name, 0.0) for row in rows])
        colour = reds(0.9 - 0.12 * n) if name in GRAPH_STAGES else others(n)
        bars = axis.barh(range(len(rows)), widths, left=left, color=colour, label=name)
        left += widths
    axis.bar_label(bars, [f" {row['fps']:.2f} frames/s, graph layers {row['graph_share']:.1%}" for row in rows])
    axis.set_yticks(range(len(rows)), [f"{row['run']}, {row['objects']} obj., {row['device']}" for row in rows])
    axis.invert_yaxis()
    axis.set(xlabel="ms a frame", title="stages of a frame; graph layers in red", xlim=(0, 1.4 * left.max()))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def draw_growth(result: Row) -> Figure:
    """Memory over the frames of a long video."""
    figure = Figure(figsize=(7, 4))
    axis = figure.subplots()
    for row in result["growth"]:
        slope = row["growth_mb_per_100_frames"]
        label = (
            row["device"] if slope is None else f"{row['device']}: {slope:+.2f} MiB per 100 frames in the second half"
        )
        axis.plot(row["sampled_at"], row["used_mb"], marker=".", linewidth=1, label=label)
    axis.set(xlabel="frame", ylabel="MiB in use", title="memory of a long video")
    axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return figure
