"""Frames, options and scores of experiments.benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.benchmark.streams import GRAPH_STAGES, REST
from experiments.benchmark.table import table

Row = dict[str, Any]
FRAME_NOTES = f"""- `own`: the segmentation network makes the proposals. `stored`: those that it has made in a
  run before come from outside, as `experiments.proposals` stores them (binary, run-length encoded); the network does
  not run, and an object takes every proposal whose box meets its own most, as in the paper. Both take turns, frame by
  frame. No updates while the video runs.
- Objects are the first ones of the first frame, the others are background, so that all rows see the same frames.
- ms a frame: mean over the timed frames with the quartiles in brackets; nodes: mean number of proposals of a frame.
- Stages are means in ms a frame, without the stages inside of them; `{REST}` is what belongs to none. `graph layers`
  is the share of {", ".join(GRAPH_STAGES)} in the whole. The crops of a search for a lost object are in
  `segment` and make single frames slow, which the quartiles show.
"""
OPTION_NOTES = """- All rows take turns, frame by frame, with the network's own proposals; `ratio` is the time over
  that of the plain run, with the quartiles of the ratios of single frames. `plain again` shows what noise does.
- `IoU` is that of the label maps with those of the plain run, mean over frames and objects.
- Compiling takes place before and is not in the times; it takes less where PyTorch has kept what it compiled before.
"""
SCORE_NOTES = """- The same networks and constants for all rows but the layer itself, with the network's own
  proposals; `*`: the layer of the checkpoint, which its learned gates were trained with.
- `ms` is the time of the spatial or temporal stage, `whole` that of everything, both a frame on one thread.
- `G` is the mean of J and F in percent.
"""


def frames_markdown(rows: Sequence[Row]) -> str:
    """The table of frames and that of their stages."""
    head = (
        "proposals",
        "device",
        "objects",
        "nodes",
        "frame",
        "frames",
        "ms a frame",
        "frames a second",
        "graph layers",
    )
    lines = []
    for row in rows:
        cells = [row["proposals"], row["device"], row["objects"], f"{row['nodes']:.1f}", _size(row), row["frames"]]
        spread = f"{row['ms']:.4g} [{row['ms_low']:.3g}, {row['ms_high']:.3g}]"
        lines.append([*cells, spread, f"{row['fps']:.2f}", f"{100 * row['graph_share']:.1f} %"])
    parts = [_where(rows[0]), FRAME_NOTES, table(head, lines, 2), "### Stages\n", _stages(rows)]
    return "\n".join(parts)


def stage_names(rows: Sequence[Row]) -> list[str]:
    """All stages, those of the graph layers first, then by the largest time, the rest last."""
    largest: dict[str, float] = {}
    for row in rows:
        for name, value in row["stages"].items():
            largest[name] = max(value, largest.get(name, 0.0))
    others = sorted((n for n in largest if n not in (*GRAPH_STAGES, REST)), key=lambda n: -largest[n])
    return [*(n for n in GRAPH_STAGES if n in largest), *others, *([REST] if REST in largest else [])]


def _stages(rows: Sequence[Row]) -> str:
    names = stage_names(rows)
    head = ("proposals", "device", "objects", *names)
    lines = []
    for row in rows:
        values = (row["stages"].get(name) for name in names)
        cells = ("" if value is None else f"{value:.1f}" for value in values)
        lines.append([row["proposals"], row["device"], row["objects"], *cells])
    return table(head, lines, 2)


def options_markdown(rows: Sequence[Row]) -> str:
    """The table of options."""
    head = ("option", "device", "objects", "ms a frame", "ratio", "IoU", "compiling, s")
    lines: list[list[Any]] = []
    for row in rows:
        cells = [row["option"], row["device"], row["objects"]]
        if row["skipped"]:
            lines.append([*cells, f"skipped: {row['skipped']}", "", "", ""])
            continue
        ratio = f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
        seconds = None if row["prepare_seconds"] is None else f"{row['prepare_seconds']:.0f}"
        lines.append([*cells, f"{row['ms']:.4g}", ratio, f"{row['iou_with_plain']:.4f}", seconds])
    return "\n".join([_where(rows[0]), OPTION_NOTES, table(head, lines, 2)])


def scores_markdown(rows: Sequence[Row]) -> str:
    """The table of layers on the split."""
    first = rows[0]
    lines: list[list[Any]] = []
    for row in rows:
        name = row["layer"] + (f", l = {row['steps']}" if row["steps"] else "") + (" *" if row["own"] else "")
        cells = [row["part"], name, row["device"]]
        if row["skipped"]:
            lines.append([*cells, f"skipped: {row['skipped']}", "", "", "", ""])
        else:
            scores = [f"{row[key]:.1f}" for key in ("J", "F", "G")]
            lines.append([*cells, *scores, f"{row['ms']:.2f}", f"{row['frame_ms']:.0f}"])
    head = ("graph", "layer", "device", "J", "F", "G", "ms", "whole")
    where = f"{first['videos']} videos of {first['split']}, {first['online_steps']} steps of online learning.\n"
    return "\n".join([where, SCORE_NOTES, table(head, lines, 3)])


def _where(row: Row) -> str:
    return f"{row['clip']}: {row['source']}; checkpoint {row['checkpoint']}.\n"


def _size(row: Row) -> str:
    return f"{row['height']} x {row['width']}"
