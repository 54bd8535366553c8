"""One sequence as a report stores it: frames, outlines of masks, scores, and how frames came about."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from experiments.report.details import Shape, detail_of_proposals, detail_of_trace, outline, pack_json
from experiments.report.folder import Pictures, Run
from experiments.report.scores import SequenceScores, Series, apart, lowest, moments
from stg_pyg.utils.images import UInt8Array

MOST_FRAMES = 600
PICTURE_CHARS, DETAIL_CHARS = 15_000_000, 9_000_000
"""Of all sequences of a page together, so that it stays below 30 MB."""
FRAME_SHARE = 0.7
"""Most of the details that is not the attention of single places."""
LEVELS = ((640, 70), (560, 65), (480, 60), (400, 55), (320, 50))
"""Longer side and JPEG quality of the frames, from the first that fits the budget."""


def build_sequence(run: Run, name: str, pictures: Pictures, count: int) -> tuple[dict[str, Any], list[str]]:
    """What the page holds of a sequence, one of ``count`` that share its room, and notes on what was left out.

    Raises:
        InputError: a mask, an annotation, a frame or a trace cannot be read, or they do not fit together.
    """
    names, scores, result, truth = run.frame_names(name), SequenceScores(), [], []
    for frame in names:
        labels, annotation = run.labels(name, frame), pictures.truth(name, frame)
        scores.add(labels, annotation if run.stored is None else None)
        result.append(label_outlines(labels))
        truth.append(None if annotation is None else label_outlines(annotation))
    size = labels.shape
    first = pictures.first_frame_of(name)
    given = {i: names.index(frame) for i, frame in first.items() if frame in names}
    given = given or {i: next((t for t, area in enumerate(row) if area), 0) for i, row in scores.areas.items()}
    scores.forget_before(given)
    sure: Series = {i: [row.get(frame) for frame in names] for i, row in run.confidence(name).items()}
    means = scores.means()
    worst = lowest(means or {i: [value or 0.0 for value in row] for i, row in sure.items()}, given)
    reasons = moments(scores, given, [t for t, _ in worst] if means else [])
    kept = choose_frames(len(names), max(8, MOST_FRAMES // count), [*(t for t, _ in worst), *reasons])
    place = {t: i for i, t in enumerate(kept)}
    frames = [names[t] for t in kept]

    notes = [f"{len(kept)} of {len(names)} frames are shown, the worst ones among them."] * (len(kept) < len(names))
    jpegs = [shrink(Image.fromarray(image)) for image in pictures.frames(name, frames) if image is not None]
    if 0 < len(jpegs) < len(frames):
        notes.append(f"No pictures are shown, as {len(frames) - len(jpegs)} frames have none.")
        jpegs = []
    details, doubts = [], []
    for i, frame in enumerate(frames):
        trace = run.trace(name, frame)
        if trace is not None:
            details.append(detail_of_trace(trace, size))
            chosen = zip(trace.selected, trace.obj_ids, strict=True)
            doubts += [(float(trace.total[node]), i, obj_id) for node, obj_id in chosen if node >= 0]
        else:
            details.append(detail_of_proposals(run.stored.frame(name, frame, size)) if run.stored else ("", ""))
    most = DETAIL_CHARS // count
    shown = thin([text for text, _ in details], round(FRAME_SHARE * most), "How frames came about", notes)
    cells = [text if kept else "" for kept, (_, text) in zip(shown, details, strict=True)]
    content: dict[str, Any] = {
        "name": name,
        "size": size,
        "frames": frames,
        "pictures": pack_pictures(jpegs, PICTURE_CHARS // count),
        "outlines": pack_json({"result": [result[t] for t in kept], "truth": [truth[t] for t in kept]}),
        "details": shown,
        "cells": thin(cells, most - sum(map(len, shown)), "The attention of single places", notes),
        "scores": {i: {"J": _percent(scores.j[i], kept), "F": _percent(scores.f[i], kept)} for i in scores.j},
        "annotated": bool(means),
        "confidence": {i: _percent(row, kept) for i, row in sure.items()},
        "given": {i: place[t] for i, t in given.items() if t in place},
        "worst": [(place[t], obj_id) for t, obj_id in worst] or apart(doubts),
        "means": run.scores.get(name),
        "moments": [(place[t], reason) for t, reason in reasons.items() if scores.j],
    }
    return content, notes


def choose_frames(count: int, most: int, wanted: Sequence[int]) -> list[int]:
    """Frames that are shown: all, or evenly many with the first, the last and those that are wanted."""
    if count <= most:
        return list(range(count))
    even = np.linspace(0, count - 1, max(most - len(set(wanted)), 2)).round().astype(int)
    return sorted({*even.tolist(), *wanted})


def shrink(picture: Image.Image, level: tuple[int, int] = LEVELS[0]) -> bytes:
    """A picture as a JPEG, with a longer side and a quality of ``level`` at most."""
    side, quality = level
    picture.thumbnail((side, side), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def pack_pictures(jpegs: Sequence[bytes], most: int) -> list[str]:
    """JPEGs of the first level as base64, of a lower level where they would take more than ``most`` characters."""
    for level in LEVELS[1:]:
        if sum(map(len, jpegs)) * 4 / 3 <= most:
            break
        jpegs = [shrink(Image.open(io.BytesIO(jpeg)), level) for jpeg in jpegs]
    return [base64.b64encode(jpeg).decode() for jpeg in jpegs]


def thin(texts: Sequence[str], most: int, what: str, notes: list[str]) -> list[str]:
    """Texts 0, stride, 2 stride, ... with the least stride that they fit into ``most`` characters with, and a note;
    empty ones in place of the others."""
    stride = next((n for n in range(1, len(texts)) if sum(map(len, texts[::n])) <= most), max(len(texts), 1))
    if stride > 1:
        notes.append(f"{what} is kept of one frame in {stride}.")
    return ["" if i % stride else text for i, text in enumerate(texts)]


def label_outlines(labels: UInt8Array) -> dict[int, Shape]:
    """The outline of every object of a label map [H, W], by id."""
    return {int(i): outline(labels == i) for i in np.unique(labels) if i}


def _percent(series: Sequence[float | None], kept: Sequence[int]) -> list[float | None]:
    return [None if (value := series[t]) is None else round(100 * value, 2) for t in kept]
