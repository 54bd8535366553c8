"""J and F of single frames, and the frames of a sequence that deserve a look."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from stg_pyg.errors import InputError
from stg_pyg.evaluation.contours import contour_f, tolerance
from stg_pyg.evaluation.metrics import region_similarity
from stg_pyg.utils.images import UInt8Array

WORST, APART = 12, 2
"""Frames in the list of the worst, and how many beside one of them are left out, being the same failure."""
STRIP = 6
"""Frames in a strip."""
OCCLUDED = 0.5
"""An object counts as occluded where less than this share of its usual area is visible."""
Series = dict[int, list[float | None]]
"""Of every object a value in every frame, None where there is none."""


@dataclass
class SequenceScores:
    """J and F in [0, 1] where a frame is annotated, and areas in pixels, of the annotation if there is one."""

    j: Series = field(default_factory=dict)
    f: Series = field(default_factory=dict)
    areas: dict[int, list[int]] = field(default_factory=dict)
    num_frames: int = 0

    def add(self, result: UInt8Array, truth: UInt8Array | None) -> None:
        """The next frame, with its object ids [H, W] and the annotated ones.

        Raises:
            InputError: the sizes differ.
        """
        visible = result if truth is None else truth
        if visible.shape != result.shape:
            (h, w), (height, width) = result.shape, visible.shape
            raise InputError(f"masks of {w} x {h} pixels and annotations of {width} x {height} are not of one video")
        for obj_id in sorted({*np.unique([result, visible]).tolist(), *self.j} - {0}):
            m, g = result == obj_id, visible == obj_id
            score = None if truth is None else (float(region_similarity(m, g)), contour_f(m, g, tolerance(*g.shape)))
            self.j.setdefault(obj_id, [None] * self.num_frames).append(score and score[0])
            self.f.setdefault(obj_id, [None] * self.num_frames).append(score and score[1])
            self.areas.setdefault(obj_id, [0] * self.num_frames).append(int(np.count_nonzero(g)))
        self.num_frames += 1

    def forget_before(self, given: dict[int, int]) -> None:
        """Takes out the scores of frames where an object is not known yet."""
        for series in (self.j, self.f):
            for obj_id in given.keys() & series:
                series[obj_id] = [None if t < given[obj_id] else v for t, v in enumerate(series[obj_id])]

    def means(self) -> Series:
        """Of J and F; empty without any annotation."""
        pairs = {i: zip(self.j[i], self.f[i], strict=True) for i in self.j}
        means: Series = {i: [None if j is None or f is None else (j + f) / 2 for j, f in pairs[i]] for i in pairs}
        return means if any(value is not None for row in means.values() for value in row) else {}


def lowest(series: Series, given: dict[int, int]) -> list[tuple[int, int]]:
    """(frame, object) of the lowest values, without frames up to the one that an object is given in, each frame once
    and no two of them within APART frames."""
    values = ((v, t, i) for i, row in series.items() for t, v in enumerate(row) if v is not None)
    return apart((v, t, i) for v, t, i in values if t > given.get(i, -1))


def apart(values: Iterable[tuple[float, int, int]]) -> list[tuple[int, int]]:
    """The same of (value, frame, object)."""
    found: list[tuple[int, int]] = []
    for _, t, obj_id in sorted(values):
        if len(found) < WORST and all(abs(t - other) > APART for other, _ in found):
            found.append((t, obj_id))
    return found


def moments(scores: SequenceScores, given: dict[int, int], worst: Iterable[int]) -> dict[int, str]:
    """Why each frame is in a strip like those of Figures 4-5 of the paper: it is given, the worst, or an occlusion;
    empty for those evenly between."""
    last = scores.num_frames - 1
    found = {t: "worst" for t in list(worst)[:1]} | {0: "given" if 0 in given.values() else ""}
    for t in _occlusions(scores):
        if len(found) < STRIP - 2 and all(abs(t - other) > max(1, last // 20) for other in found):
            found[t] = "occlusion"
    while len(found) < min(STRIP, last + 1):
        candidates = [t for t in range(last + 1) if t not in found]
        found[max(candidates, key=lambda t: min(abs(t - other) for other in found))] = ""
    return dict(sorted(found.items()))


def _occlusions(scores: SequenceScores) -> list[int]:
    """Frames with the least visible share of an object, one for each time that it is occluded, the least first."""
    found: list[tuple[float, int]] = []
    for areas in scores.areas.values():
        share = np.array(areas, np.float64) / max(float(np.median([a for a in areas if a] or [1])), 1.0)
        hidden = np.flatnonzero(share < OCCLUDED)
        parts = np.split(hidden, np.flatnonzero(np.diff(hidden) > 1) + 1)
        found += [min((float(share[t]), int(t)) for t in part) for part in parts if len(part)]
    return [t for _, t in sorted(found)]
