"""J and F of single frames, and the frames of a sequence that deserve a look."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from stg_pyg.contours import contour_f, tolerance
from stg_pyg.errors import InputError
from stg_pyg.io import UInt8Array
from stg_pyg.metrics import region_similarity

WORST, APART = 12, 2
"""Frames in the list of the worst, and how many beside one of them are left out, being the same failure."""
STRIP = 6
"""Frames in a strip."""
OCCLUDED = 0.5
"""An object counts as occluded where less than this share of its usual area is visible."""


@dataclass
class SequenceScores:
    """J and F in [0, 1] of every object in every frame, None where nothing is annotated; areas in pixels."""

    j: dict[int, list[float | None]] = field(default_factory=dict)
    f: dict[int, list[float | None]] = field(default_factory=dict)
    areas: dict[int, list[int]] = field(default_factory=dict)
    """Of the annotation, or of the result where there is none."""
    num_frames: int = 0

    def add(self, result: UInt8Array, truth: UInt8Array | None) -> None:
        """The next frame, with its object ids [H, W] and the annotated ones.

        Raises:
            InputError: the sizes differ.
        """
        if truth is not None and truth.shape != result.shape:
            (h, w), (height, width) = result.shape, truth.shape
            raise InputError(f"masks of {w} x {h} pixels and annotations of {width} x {height} are not of one video")
        visible = result if truth is None else truth
        seen = set(np.unique([result, visible]).tolist())
        for obj_id in sorted((seen | set(self.j)) - {0}):
            j, f = (None, None) if truth is None else frame_score(result == obj_id, truth == obj_id)
            self.j.setdefault(obj_id, [None] * self.num_frames).append(j)
            self.f.setdefault(obj_id, [None] * self.num_frames).append(f)
            area = int(np.count_nonzero(visible == obj_id))
            self.areas.setdefault(obj_id, [0] * self.num_frames).append(area)
        self.num_frames += 1

    def forget_before(self, given: dict[int, int]) -> None:
        """Takes out the scores of frames where an object is not known yet."""
        for obj_id, start in given.items():
            for series in (self.j.get(obj_id, []), self.f.get(obj_id, [])):
                series[:start] = [None] * min(start, len(series))

    @property
    def annotated(self) -> bool:
        return any(value is not None for series in self.j.values() for value in series)

    def worst(self, given: dict[int, int]) -> list[tuple[int, int]]:
        """(frame, object), the lowest mean of J and F first, see :func:`lowest`, without frames that are given.

        Args:
            given: index of the frame that each object is given in.
        """
        return lowest(
            ((j + f) / 2, t, obj_id)
            for obj_id, series in self.j.items()
            for t, (j, f) in enumerate(zip(series, self.f[obj_id], strict=True))
            if j is not None and f is not None and t > given.get(obj_id, -1)
        )


def lowest(values: Iterable[tuple[float, int, int]]) -> list[tuple[int, int]]:
    """(frame, object) of the lowest of (value, frame, object), each frame once, no two of them within APART frames."""
    found: list[tuple[int, int]] = []
    for _, t, obj_id in sorted(values):
        if len(found) < WORST and all(abs(t - other) > APART for other, _ in found):
            found.append((t, obj_id))
    return found


def frame_score(result: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """J and F of two bool masks [H, W]."""
    return float(region_similarity(result, truth)), contour_f(result, truth, tolerance(*truth.shape))


def moments(scores: SequenceScores, given: dict[int, int]) -> dict[int, str]:
    """Why each frame is in a strip like those of Figures 4-5 of the paper: it is given, the worst, or an occlusion;
    empty for those evenly between."""
    last = scores.num_frames - 1
    found = {0: "given" if 0 in given.values() else ""}
    for t, _ in scores.worst(given)[:1]:
        found.setdefault(t, "worst")
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
        for part in np.split(hidden, np.flatnonzero(np.diff(hidden) > 1) + 1):
            if len(part):
                t = int(part[share[part].argmin()])
                found.append((float(share[t]), t))
    return [t for _, t in sorted(found)]
