"""One sequence as a report stores it: frames, outlines of masks, scores, and how frames came about."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.report.budget import Budget, choose_frames, fit, pack_details, pack_pictures, shrink
from experiments.report.folder import Run
from experiments.report.pictures import Pictures
from experiments.report.scores import Moment, SequenceScores, lowest, moments
from experiments.report.shapes import Shape, label_outlines
from experiments.report.strips import Cell, draw_strip
from experiments.report.trace import Detail, detail_of_proposals, detail_of_trace, pack_bytes
from stg_pyg.encoded import ProposalSource
from stg_pyg.io import UInt8Array, natural_sort_key, read_label_map
from stg_pyg.trace_files import FrameTrace, read_trace

Size = tuple[int, int]


@dataclass
class SequencePage:
    """What the page holds of one sequence."""

    name: str
    content: dict[str, Any]
    """Plain values for JSON."""
    notes: list[str]
    """What was left out, for the reader of the page."""


@dataclass
class _Frames:
    """What is gathered of the frames that are shown, in order."""

    size: Size
    names: list[str] = field(default_factory=list)
    jpegs: list[bytes] = field(default_factory=list)
    result: list[dict[int, Shape]] = field(default_factory=list)
    truth: list[dict[int, Shape] | None] = field(default_factory=list)
    details: list[Detail | None] = field(default_factory=list)
    doubts: list[tuple[float, int, int]] = field(default_factory=list)
    """(score of the chosen node, position, object)."""

    def add(
        self,
        name: str,
        image: UInt8Array | None,
        result: UInt8Array | None,
        truth: UInt8Array | None,
        detail: Detail | None,
    ) -> None:
        self.names.append(name)
        if image is not None:
            self.jpegs.append(shrink(fit(image, self.size)))
        self.result.append({} if result is None else label_outlines(result))
        self.truth.append(None if truth is None else label_outlines(truth))
        self.details.append(detail)

    def doubt(self, trace: FrameTrace) -> None:
        """Notes the scores of the chosen nodes of the frame added last."""
        for obj_id, node in zip(trace.obj_ids, trace.selected, strict=True):
            if node >= 0:
                self.doubts.append((float(trace.total[node]), len(self.names) - 1, obj_id))

    def page(self, name: str, budget: Budget, total: int, **content: Any) -> SequencePage:
        """The page of the sequence, of whose ``total`` frames these are shown; ``content`` is added to it."""
        notes, shown = [], len(self.names)
        if shown < total:
            notes.append(f"{shown} of {total} frames are shown, the worst ones among them.")
        if 0 < len(self.jpegs) < shown:
            notes.append(f"No pictures are shown, as {shown - len(self.jpegs)} frames have none.")
        details, cells = pack_details(self.details, budget.detail_chars, notes)
        outlines = json.dumps({"result": self.result, "truth": self.truth}, separators=(",", ":")).encode()
        values = {
            "name": name,
            "size": self.size,
            "frames": self.names,
            "pictures": pack_pictures(self.jpegs if len(self.jpegs) == shown else [], budget.picture_chars),
            "outlines": pack_bytes(outlines),
            "details": details,
            "cells": cells,
        }
        return SequencePage(name, values | content, notes)


def build_sequence(run: Run, name: str, pictures: Pictures, budget: Budget) -> SequencePage:
    """The page of a sequence of masks.

    Raises:
        InputError: a mask, an annotation, a frame or a trace cannot be read, or they do not fit together.
    """
    folder = run.masks[name]
    stems = (path.stem for path in folder.glob("*.png") if not path.name.startswith("."))
    names = sorted(stems, key=natural_sort_key)
    scores = SequenceScores()
    for frame in names:
        scores.add(read_label_map(folder / f"{frame}.png"), pictures.truth(frame))
    given = given_frames(scores, names, pictures)
    scores.forget_before(given)
    sure = {i: [row.get(frame) for frame in names] for i, row in run.confidence(name).items()}
    worst = scores.worst(given) if scores.annotated else unsure(sure, given)
    chosen = {moment.frame: moment for moment in moments(scores, given)}
    kept = choose_frames(len(names), budget.frames, [*(t for t, _ in worst), *chosen])

    height, width = read_label_map(folder / f"{names[0]}.png").shape
    frames, strip = _Frames((height, width)), []
    for t, image in zip(kept, pictures.frames([names[t] for t in kept]), strict=True):
        labels, truth = read_label_map(folder / f"{names[t]}.png"), pictures.truth(names[t])
        trace = read_trace(path) if (path := run.trace(name, names[t])).is_file() else None
        detail = None if trace is None else detail_of_trace(trace, frames.size)
        frames.add(names[t], image, labels, truth, detail)
        if trace is not None:
            frames.doubt(trace)
        if t in chosen:
            strip.append(strip_cell(image, labels, truth, caption(chosen[t], names[t], scores)))

    place = {t: i for i, t in enumerate(kept)}
    listed = [(place[t], obj_id) for t, obj_id in worst]
    if not listed:
        listed = lowest(frames.doubts)
    return frames.page(
        name,
        budget,
        len(names),
        scores={i: {"J": _percent(scores.j[i], kept), "F": _percent(scores.f[i], kept)} for i in scores.j},
        annotated=scores.annotated,
        confidence={i: _percent(row, kept) for i, row in sure.items()},
        given={i: place[t] for i, t in given.items() if t in place},
        worst=listed,
        means=run.scores.get(name),
        strip=base64.b64encode(draw_strip(name, strip)).decode(),
    )


def build_proposals(
    source: ProposalSource, name: str, names: Sequence[str], size: Size, pictures: Pictures, budget: Budget
) -> SequencePage:
    """The page of a sequence of which only proposals are known.

    Raises:
        InputError: proposals or frames cannot be read.
    """
    kept = [names[t] for t in choose_frames(len(names), budget.frames, [])]
    frames = _Frames(size)
    for frame, image in zip(kept, pictures.frames(kept), strict=True):
        frames.add(frame, image, None, pictures.truth(frame), detail_of_proposals(source.frame(name, frame, size)))
    nothing = {"scores": {}, "annotated": False, "confidence": {}, "given": {}, "worst": [], "means": None, "strip": ""}
    return frames.page(name, budget, len(names), **nothing)


def given_frames(scores: SequenceScores, names: Sequence[str], pictures: Pictures) -> dict[int, int]:
    """The frame that each object was given in; the first that shows it where nobody knows."""
    position = {name: t for t, name in enumerate(names)}
    known = {i: position[name] for i, name in pictures.first_frame_of.items() if name in position}
    if known:
        return known
    return {i: next((t for t, area in enumerate(areas) if area), 0) for i, areas in scores.areas.items()}


def unsure(sure: dict[int, list[float | None]], given: dict[int, int]) -> list[tuple[int, int]]:
    """(frame, object) of the least confidence after an object was given, 0 where it has no pixel."""
    rows = ((i, t, value) for i, row in sure.items() for t, value in enumerate(row) if t > given.get(i, -1))
    return lowest((value or 0.0, t, i) for i, t, value in rows)


def strip_cell(image: UInt8Array | None, labels: UInt8Array, truth: UInt8Array | None, text: str) -> Cell:
    """A frame of the strip, grey where there is no picture."""
    size = labels.shape[0], labels.shape[1]
    return np.full((*size, 3), 225, np.uint8) if image is None else fit(image, size), labels, truth, text


def caption(moment: Moment, name: str, scores: SequenceScores) -> str:
    """What stands under a frame of a strip."""
    values = [value for series in scores.j.values() if (value := series[moment.frame]) is not None]
    j = f"J {100 * sum(values) / len(values):.0f}" if values and moment.reason != "given" else ""
    return "   ".join(part for part in (name, moment.reason, j) if part)


def _percent(series: Sequence[float | None], kept: Sequence[int]) -> list[float | None]:
    return [None if (value := series[t]) is None else round(100 * value, 2) for t in kept]
