"""The rows of experiments.benchmark as Markdown, CSV and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmark.frames import GRAPH_STAGES
from experiments.benchmark.measure import Row
from experiments.common.tabulate import columns_of, csv_text, markdown_table, write_figure
from stg_pyg.utils.images import write_text

WHERE = "device: {device} | objects: {objects} | frame: {height} x {width}"
SPREAD = "ms: {ms:.4g} [{ms_low:.3g}, {ms_high:.3g}]"
TABLES = {
    "rows": f"group: {{group}} | layer: {{layer}} | backend: {{backend}} | {WHERE} | proposals: {{proposals}} | "
    f"memory frames: {{memory_frames:d}} | l: {{steps}} | {SPREAD} | over copy: {{ratio_to_copy:.2f}} | "
    "over edgewise: {speedup_over_edgewise:.4g} | peak MiB: {peak_mb:.1f} | of: {input_mb:.1f}",
    "exponents": "growth in: {growth_in} | layer: {layer} | backend: {backend} | device: {device} | from: {sizes[0]} | "
    "times: {last_over_first:.2f} | exponent: {exponent:.2f} | of the last two: {last_exponent:.2f}",
    "frames": f"run: {{run}} | {WHERE} | nodes: {{nodes:.1f}} | {SPREAD} | frames/s: {{fps:.2f}} | "
    "graph layers: {graph_share:.1%} | over own: {ratio:.2f} [{ratio_low:.2f}, {ratio_high:.2f}] | "
    "IoU with own: {iou_with_own:.4f}",
    "scores": "graph: {part} | layer: {layer} | l: {steps:d} | own: {own} | J: {J:.1f} | F: {F:.1f} | G: {G:.1f} | "
    "ms of the stage: {ms:.2f} | ms a frame: {frame_ms:.0f} | videos: {videos} | online steps: {online_steps}",
    "growth": f"{WHERE} | proposals: {{proposals}} | frames: {{frames}} | memory frames: {{memory_frames}} | "
    "peak MiB: {peak_mb:.0f} | a hundred frames: {growth_mb_per_100_frames:+.2f} | s a frame: {seconds_per_frame:.2f}",
}
"""By key of ``benchmark.json``: heads and cells of its table."""


def write_tables(out: Path, result: Row) -> str:
    """Writes the tables and pictures of all parts that were measured; returns the tables as Markdown."""
    lines = ["# Benchmark", "The columns are explained in docs/benchmark.md."]
    for part, machine in result["machines"].items():
        lines.append(f"{part}: " + ", ".join(f"{key} {value}" for key, value in machine.items()))
    for key, columns in TABLES.items():
        if rows := result[key]:
            lines += [f"## {key.capitalize()}", table(rows, columns)]
            write_text(out / f"{key}.csv", csv_text([flat(row) for row in rows]))
    text = "\n\n".join(lines) + "\n"
    write_text(out / "benchmark.md", text)
    for name, key, draw in (
        ("benchmark", "rows", draw_layers),
        ("stages", "frames", draw_stages),
        ("growth", "growth", draw_growth),
    ):
        if result[key]:
            write_figure(out / f"{name}.png", draw, result)
    return text


def table(rows: Sequence[Row], columns: str) -> str:
    """A table with columns of their own for stages, in ms, and with why a row is empty."""
    stages = list(dict.fromkeys(name for row in rows for name in row.get("stages") or ()))
    columns += "".join(f" | {name}: {{stages[{name}]:.1f}}" for name in stages) + " | skipped: {skipped:s}"
    return markdown_table(rows, columns_of(columns))


def flat(row: Row) -> Row:
    """A row for CSV, with a column a stage."""
    stages = {f"{name}_ms": ms for name, ms in (row.get("stages") or {}).items()}
    return {key: value for key, value in row.items() if key != "stages"} | stages


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
    rows = result["frames"]
    found = dict.fromkeys(name for row in rows for name in row["stages"])
    names = sorted(found, key=lambda name: name not in GRAPH_STAGES)
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
        label = row["device"]
        if slope is not None:
            label += f": {slope:+.2f} MiB per 100 frames in the second half"
        axis.plot(row["sampled_at"], row["used_mb"], marker=".", linewidth=1, label=label)
    axis.set(xlabel="frame", ylabel="MiB in use", title="memory of a long video")
    axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    return figure
