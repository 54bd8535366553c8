"""The rows of experiments.benchmark as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from experiments.benchmark.measure import Row

WHERE = "device: {device} | objects: {objects} | frame: {height} x {width}"
SPREAD = "ms: {ms:.4g} [{ms_low:.3g}, {ms_high:.3g}]"
TABLES = {
    "rows": f"group: {{group}} | layer: {{layer}} | backend: {{backend}} | {WHERE} | proposals: {{proposals}} | "
    f"memory frames: {{memory_frames:d}} | l: {{steps}} | {SPREAD} | over copy: {{ratio_to_copy:.2f}} | "
    "over edgewise: {speedup_over_edgewise:.4g} | parts: {parts} | peak MiB: {peak_mb:.1f} | of: {input_mb:.1f}",
    "exponents": "growth in: {growth_in} | layer: {layer} | backend: {backend} | device: {device} | from: {sizes[0]} | "
    "times: {last_over_first:.2f} | exponent: {exponent:.2f} | of the last two: {last_exponent:.2f}",
    "frames": f"run: {{run}} | {WHERE} | nodes: {{nodes:.1f}} | {SPREAD} | frames/s: {{fps:.2f}} | "
    "graph layers: {graph_share:.1%} | over own: {ratio:.2f} [{ratio_low:.2f}, {ratio_high:.2f}] | "
    "IoU with own: {iou_with_own:.4f} | first pass s: {prepare_seconds:.0f}",
    "scores": "graph: {part} | layer: {layer} | l: {steps:d} | own: {own} | J: {J:.1f} | F: {F:.1f} | G: {G:.1f} | "
    "ms of the stage: {ms:.2f} | ms a frame: {frame_ms:.0f} | videos: {videos} | online steps: {online_steps}",
    "growth": f"{WHERE} | proposals: {{proposals}} | frames: {{frames}} | memory frames: {{memory_frames}} | "
    "peak MiB: {peak_mb:.0f} | a hundred frames: {growth_mb_per_100_frames:+.2f} | s a frame: {seconds_per_frame:.2f}",
}
"""By key of ``benchmark.json``: heads and cells of its table."""


def markdown(result: Row) -> str:
    """The tables of all parts that were measured."""
    lines = ["# Benchmark", "The columns are explained in docs/benchmark.md."]
    for part, machine in result["machines"].items():
        lines.append(f"{part}: " + ", ".join(f"{key} {value}" for key, value in machine.items()))
    for key, columns in TABLES.items():
        if result[key]:
            lines += [f"## {key.capitalize()}", markdown_table(result[key], columns)]
    return "\n\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Row], columns: str) -> str:
    """A table; a cell without a value is empty. Stages have columns of their own, in ms."""
    stages = list(dict.fromkeys(name for row in rows for name in row.get("stages") or ()))
    columns += "".join(f" | {name}: {{stages[{name}]:.1f}}" for name in stages) + " | skipped: {skipped:s}"
    heads, cells = zip(*(column.split(": ", 1) for column in columns.split(" | ")), strict=True)
    lines = [heads, ["---"] * len(heads), *([filled(cell, row) for cell in cells] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(template: str, row: Row) -> str:
    """The text of a cell, or none where a value is missing."""
    try:
        return template.format(**row)
    except (KeyError, TypeError):
        return ""


def csv_text(rows: Sequence[Row]) -> str:
    """The rows with a column a value, stages too."""
    flat = [{**row, **{f"{name}_ms": ms for name, ms in (row.get("stages") or {}).items()}} for row in rows]
    text = io.StringIO()
    heads = dict.fromkeys(key for row in flat for key in row if key != "stages")
    writer = csv.DictWriter(text, list(heads), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()
