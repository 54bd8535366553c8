"""The results of experiments.benchmark as Markdown and as a picture."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

NOTES = """- Time is the median over repetitions that take turns with all other rows of a table, with the quartiles in
  brackets; a call of more than 2 seconds runs once. A call of less than 0.1 seconds, and the copy beside it, run once
  before they are timed, so that memory is warm for both.
- `copy` is the time over that to copy the tensors that the call must read and write. `region`: the windows of the
  objects are read out of the frames and written to one new tensor. `region+frame`: they are read and written into new
  frames of zeros. All others: the masks of full frames are copied to new ones. `memory_attention`: all inputs.
  Rows of a table that copy the same tensors are compared with the fastest median of these copies.
- `region` is the compact form with boxes given, `region+find` finds them from the masks, which reads all frames.
- `peak` is the most memory in MiB that PyTorch's allocator held at once for the call, the result counted, inputs not:
  from its allocation events, which the profiler records, on the CPU, from its statistics on CUDA.
- Growth exponents are slopes of log time over log size: 1 is linear.
"""
GROUPS = {
    "main": "Backends",
    "layer": "Layers",
    "size": "Frame sizes",
    "object": "Objects",
    "proposal": "Proposals",
    "pixel": "Pixels of the windows",
    "memory": "Memory frames",
}


def markdown(result: dict[str, Any]) -> str:
    """The report as Markdown."""
    machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    parts = ["# Graph layers\n", f"{machine}.\n", NOTES]
    for group, title in GROUPS.items():
        rows = [row for row in result["rows"] if row["group"] == group]
        if rows:
            parts += [f"## {title}\n", _table(rows)]
    parts += ["## Growth\n", _growth(result["growth"])]
    return "\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    head = "| layer | backend | device | objects | nodes | frame | l | ms | copy | speedup over edgewise | peak |"
    lines = [head, "| --- | --- | --- " + "| ---: " * 8 + "|"]
    for row in rows:
        nodes = f"{row['memory_frames']} frames" if row["memory_frames"] else row["proposals"]
        cells = [row["layer"], row["backend"], row["device"], row["objects"], nodes]
        cells += [f"{row['height']} x {row['width']}", row["steps"], *_measured(row)]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _measured(row: dict[str, Any]) -> list[str]:
    if row["skipped"]:
        return [f"skipped: {row['skipped']}", "", "", ""]
    spread = f" [{row['ms_low']:.3g}, {row['ms_high']:.3g}]" if row["repetitions"] > 1 else " (once)"
    speedup = f"{row['speedup_over_edgewise']:.4g}" if row["speedup_over_edgewise"] else ""
    return [f"{row['ms']:.4g}{spread}", f"{row['ratio_to_copy']:.2f}", speedup, f"{row['peak_mb']:.1f}"]


def _growth(growth: list[dict[str, Any]]) -> str:
    lines = [
        "| in | layer | backend | device | from | to | exponent |",
        "| --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    for fit in growth:
        names = [fit["growth_in"].replace("_", " "), fit["layer"], fit["backend"], fit["device"]]
        cells = [*names, fit["sizes"][0], fit["sizes"][-1], f"{fit['exponent']:.2f}"]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def draw(result: dict[str, Any]) -> np.ndarray:
    """Backends at the main size, and time over size for every sweep, as uint8 [H, W, 3]."""
    sweeps = list(dict.fromkeys(fit["growth_in"] for fit in result["growth"]))
    columns = math.ceil((1 + len(sweeps)) / 2)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(4.2 * columns, 7.0), dpi=120, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.subplots(2, columns, squeeze=False).ravel()
        _draw_backends(axes[0], [row for row in result["rows"] if row["group"] == "main" and row["ms"]])
        for axis, sweep in zip(axes[1:], sweeps, strict=False):
            for fit in result["growth"]:
                if fit["growth_in"] == sweep:
                    label = f"{fit['layer']} {fit['backend']}, {fit['device']} ({fit['exponent']:.2f})"
                    axis.loglog(fit["sizes"], fit["ms"], marker="o", label=label)
            axis.set(xlabel=sweep.replace("_", " "), ylabel="ms", title="time, with the growth exponent")
            axis.grid(alpha=0.3, which="both")
            axis.legend(fontsize=8)
        for axis in axes[1 + len(sweeps) :]:
            axis.axis("off")
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_backends(axis: Any, rows: list[dict[str, Any]]) -> None:
    names = [f"{row['backend']}, l={row['steps']}, {row['device']}" for row in rows]
    axis.barh(range(len(rows)), [row["ms"] for row in rows])
    for place, row in enumerate(rows):
        axis.annotate(f" {row['ratio_to_copy']:.3g} x copy", (row["ms"], place), va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), names)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.margins(x=0.35)
    axis.set(xlabel="ms", title="backends of Eq. 5")
