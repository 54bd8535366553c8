"""The results of experiments.benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.benchmark.frame_report import frames_markdown, options_markdown, scores_markdown
from experiments.benchmark.table import table

Row = dict[str, Any]
NOTES = """- Time is the median over repetitions that take turns with all other rows of a table, with the quartiles in
  brackets; a call of more than 1 second runs once. A call of less than 0.1 seconds, and the copy beside it, run once
  before they are timed, so that memory is warm for both.
- `copy` is the time over that to copy the tensors that the call must read and write. `region`: the windows of the
  objects are read out of the frames and written to one new tensor. `region+frame`: they are read and written into new
  frames of zeros. All others: the masks of full frames are copied to new ones. Temporal layers: all inputs.
  Rows of a table that copy the same tensors are compared with the fastest median of these copies.
- `region` is the compact form with boxes given, `region+find` finds them from the masks, which reads all frames.
- `edgewise` forms its messages for as many objects at once as fit into the memory, one part after the other.
- `peak` is the most memory in MiB that PyTorch's allocator held at once for the call, the result counted, inputs not:
  from its allocation events, which the profiler records, on the CPU, from its statistics on CUDA.
"""
CLAIM_NOTES = """What is due is due for 8 objects x 20 proposals and frames of 480 x 854 pixels; each line says what was
measured.
"""
GROWTH_NOTES = """Exponents are slopes of log time over log size: 1 is linear; `last` is that between the two largest
sizes. `results` are the MiB that the smallest and the largest call return. On the CPU with glibc, memory of more than
32 MiB is mapped anew for every call and given back after it, so that each page costs a fault: where results cross that
size, time jumps once and the exponent is larger than that of the computation.
"""
GROUPS = {
    "main": "Backends",
    "layer": "Layers",
    "size": "Frame sizes",
    "step": "Steps",
    "object": "Objects",
    "proposal": "Proposals",
    "pixel": "Pixels of the window",
    "memory": "Memory frames",
}


def markdown(result: Row) -> str:
    """The report; parts that were not measured are left out."""
    parts = ["# Benchmark\n", _machines(result["machines"])]
    if result["claims"]:
        parts += ["## Claims\n", CLAIM_NOTES, _claims(result["claims"])]
    if result["rows"]:
        parts.append(NOTES)
    for group, title in GROUPS.items():
        rows = [row for row in result["rows"] if row["group"] == group]
        if rows:
            parts += [f"## {title}\n", _layers(rows)]
    if result["growth"]:
        parts += ["## Growth\n", GROWTH_NOTES, _growth(result["growth"])]
    if result["frames"]:
        parts += ["## Frames\n", frames_markdown(result["frames"])]
    if result["options"]:
        parts += ["## Options\n", options_markdown(result["options"])]
    if result["scores"]:
        parts += ["## Scores of layers\n", scores_markdown(result["scores"])]
    return "\n".join(parts)


def _machines(machines: dict[str, Row]) -> str:
    by_text: dict[str, list[str]] = {}
    for part, values in machines.items():
        by_text.setdefault(", ".join(f"{key} {value}" for key, value in values.items()), []).append(part)
    return "\n".join(f"{', '.join(parts)}: {text}." for text, parts in by_text.items()) + "\n"


def _claims(claims: Sequence[Row]) -> str:
    verdict = {True: "yes", False: "**no**", None: "not measured"}
    lines = []
    for claim in claims:
        value = "" if claim["value"] is None else f"{claim['value']:.3g}"
        name = claim["claim"] + (f" ({claim['case']})" if claim["case"] else "")
        lines.append(
            (
                name,
                claim["device"],
                claim["detail"],
                value,
                f"{claim['sense']} {claim['due']:g}",
                verdict[claim["holds"]],
            )
        )
    return table(("claim", "device", "measured", "value", "due", "holds"), lines, 3)


def _layers(rows: Sequence[Row]) -> str:
    head = (
        "layer",
        "backend",
        "device",
        "objects",
        "nodes",
        "frame",
        "l",
        "ms",
        "copy",
        "speedup over edgewise",
        "peak",
    )
    lines = []
    for row in rows:
        nodes = f"{row['memory_frames']} frames" if row["memory_frames"] else row["proposals"]
        cells = [row["layer"], row["backend"], row["device"], row["objects"], nodes]
        lines.append([*cells, f"{row['height']} x {row['width']}", row["steps"], *_measured(row)])
    return table(head, lines, 3)


def _measured(row: Row) -> list[str]:
    if row["skipped"]:
        return [f"skipped: {row['skipped']}", "", "", ""]
    spread = f" [{row['ms_low']:.3g}, {row['ms_high']:.3g}]" if row["repetitions"] > 1 else " (once)"
    if row["parts"] > 1:
        spread += f", {row['parts']} parts"
    speedup = f"{row['speedup_over_edgewise']:.4g}" if row["speedup_over_edgewise"] else ""
    return [f"{row['ms']:.4g}{spread}", f"{row['ratio_to_copy']:.2f}", speedup, f"{row['peak_mb']:.1f}"]


def _growth(growth: Sequence[Row]) -> str:
    lines = []
    for fit in growth:
        results = " to ".join(f"{fit['result_mb'][i]:.3g}" for i in (0, -1))
        names = (fit["growth_in"].replace("_", " "), fit["layer"], fit["backend"], fit["device"])
        numbers = (fit["sizes"][0], fit["sizes"][-1], results, f"{fit['exponent']:.2f}", f"{fit['last_exponent']:.2f}")
        lines.append((*names, *numbers))
    return table(("in", "layer", "backend", "device", "from", "to", "results", "exponent", "last"), lines, 4)
