"""Region similarity J and contour accuracy F of DAVIS, and their statistics over frames, objects and sequences.

The numbers are those of ``davis2017-evaluation`` (Perazzi et al., CVPR 2016; Pont-Tuset et al., arXiv:1704.00675).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stg_pyg.errors import InputError
from stg_pyg.evaluation.contours import contour_f, tolerance, window_of

Masks = TypeVar("Masks", Tensor, NDArray[Any])
Statistics = dict[str, float]
ObjectScores = dict[str, Statistics]
LabelMap = NDArray[Any] | Tensor
FramePair = tuple[int, NDArray[Any], NDArray[Any]]
"""Index of a frame, its predicted and its annotated label map."""
STATISTICS = ("mean", "recall", "decay")


def region_similarity(prediction: Masks, target: Masks) -> Masks:
    r"""Region similarity J, the intersection over union of two masks.

    .. math::
        \mathcal{J}(M, G) = \frac{|M \cap G|}{|M \cup G|}, \qquad \mathcal{J}(\emptyset, \emptyset) = 1

    Args:
        prediction, target: [..., H, W] masks, bool or {0, 1}; arrays or tensors.

    Returns:
        [...] float64 in [0, 1], an array for arrays and a tensor for tensors.

    Raises:
        ValueError: shapes differ, or a mask is soft.
    """
    m, g = _binary(prediction, target)
    intersection = np.count_nonzero(m & g, axis=(-2, -1))
    union = np.count_nonzero(m | g, axis=(-2, -1))
    return _like(np.where(union == 0, 1.0, intersection / np.maximum(union, 1)), prediction)


def contour_accuracy(prediction: Masks, target: Masks, bound: float = 0.008) -> Masks:
    r"""Contour accuracy F: precision and recall of the one pixel wide contours of two masks, within a tolerance.

    .. math::
        \mathcal{F} = \frac{2 P_c R_c}{P_c + R_c}

    A contour pixel counts as found when the other contour has a pixel within a disk of
    :math:`\lceil \mathrm{bound} \cdot \sqrt{H^2 + W^2} \rceil` pixels.

    Args:
        prediction, target: as of :func:`region_similarity`.
        bound: tolerance as a fraction of the image diagonal; a value of 1 or more is in pixels.

    Returns:
        [...] float64 in [0, 1]; 1 when both masks have no contour, 0 when only one has none.
    """
    m, g = _binary(prediction, target)
    height, width = m.shape[-2:]
    radius = tolerance(height, width, bound)
    pairs = zip(m.reshape(-1, height, width), g.reshape(-1, height, width), strict=True)
    values = np.array([contour_f(a, b, radius) for a, b in pairs], dtype=np.float64)
    return _like(values.reshape(m.shape[:-2]), prediction)


def sequence_statistics(values: NDArray[Any] | Tensor | Sequence[float]) -> Statistics:
    """Mean, recall and decay of the per-frame scores [T] of one object.

    Recall is the fraction of frames with a score above 0.5; decay is the mean of the first quarter of the frames minus
    the mean of the last one (quarters share their border frames, as in DAVIS). NaN scores do not count; one is needed.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.size == 0:
        raise ValueError("statistics of no frames: give at least one score")
    edges = (np.round(np.linspace(1, len(scores), 5) + 1e-10) - 1).astype(int)
    first, last = scores[edges[0] : edges[1] + 1], scores[edges[3] : edges[4] + 1]
    return {
        "mean": _nanmean(scores),
        "recall": _nanmean((scores > 0.5).astype(np.float64)),
        "decay": _nanmean(first) - _nanmean(last),
    }


def score_sequence(
    prediction: Iterable[LabelMap],
    target: Iterable[LabelMap | None],
    obj_ids: Iterable[int] | None = None,
    skip_first_and_last: bool = True,
    given_at: Mapping[int, int] | None = None,
) -> dict[int, ObjectScores]:
    """J and F statistics of every object of one sequence; both inputs are read once, frame by frame.

    The objects are those of the annotated frames that are scored. An object counts from the first scored frame where
    the annotation or the prediction shows it; from there on, a frame where both lack it scores 1 and one where only
    one lacks it scores 0. With ``obj_ids`` given, exactly these are scored in every scored frame, which is what
    ``davis2017-evaluation`` does with the objects of the first frame.

    Args:
        prediction: label maps [H, W], 0 is background.
        target: label maps [H, W] of the same frames, None for a frame without annotation (not scored).
        obj_ids: objects to score; those of the annotation when None.
        skip_first_and_last: leave out the first (given) and the last annotated frame, as DAVIS does. Of two annotated
            frames only the first is left out, and a single one is scored.
        given_at: by object id, the index of the frame whose mask was given. Exactly these objects are scored, each in
            every annotated frame after its own, the last one too; ``obj_ids`` and ``skip_first_and_last`` do not count.

    Returns:
        ``{object id: {"J": {"mean", "recall", "decay"}, "F": {...}}}`` in [0, 1], sorted by id. An object without any
        frame to score is left out.

    Raises:
        InputError: the numbers of frames or the sizes of a frame differ.
    """
    pairs = _annotated_pairs(prediction, target)
    if given_at is None and skip_first_and_last:
        pairs = _inner_frames(pairs)
    known = given_at
    if known is None and obj_ids is not None:
        known = dict.fromkeys(map(int, obj_ids), -1)
    seen: set[int] = set()
    in_target: set[int] = set(known or ())
    scores: dict[int, list[tuple[float, float]]] = {}
    for t, predicted, annotated in pairs:
        if known is None:
            shown = _ids(annotated)
            in_target |= shown
            seen |= shown | _ids(predicted)
        else:
            seen = {i for i, given in known.items() if given < t}
        radius = tolerance(*predicted.shape)
        window = window_of((predicted != 0) | (annotated != 0))  # elsewhere no map has an object
        predicted, annotated = predicted[window], annotated[window]
        for i in seen:
            m, g = predicted == i, annotated == i
            intersection, total = np.count_nonzero(m & g), np.count_nonzero(m) + np.count_nonzero(g)
            j = intersection / (total - intersection) if total else 1.0
            scores.setdefault(i, []).append((j, contour_f(m, g, radius)))
    measured = {i: np.array(scores[i], dtype=np.float64).T for i in sorted(in_target) if i in scores}
    return {i: {"J": sequence_statistics(j), "F": sequence_statistics(f)} for i, (j, f) in measured.items()}


def summarize(results: Mapping[str, Mapping[int, ObjectScores]]) -> dict[str, Any]:
    """Scores of a data set in percent, in the form of ``metrics.json``, of what :func:`score_sequence` returns by name.

    ``{"J": {"mean", "recall", "decay"}, "F": {...}, "G", "sequences": {name: {"J", "F", "G"}}}``. As in DAVIS those of
    the data set are means over all objects of all sequences; those of a sequence are means over its objects. Sequences
    whose scored frames show no object are left out; it is an InputError where none is left.
    """
    objects = [scores for of_sequence in results.values() for scores in of_sequence.values()]
    if not objects:
        raise InputError("nothing to score: no annotated frame of any sequence shows an object; check the annotations")
    summary: dict[str, Any] = {m: {k: mean_percent(objects, m, k) for k in STATISTICS} for m in "JF"}
    summary["G"] = (summary["J"]["mean"] + summary["F"]["mean"]) / 2
    summary["sequences"] = {}
    for name, of_sequence in results.items():
        if of_sequence:
            j, f = (mean_percent(of_sequence.values(), m, "mean") for m in "JF")
            summary["sequences"][name] = {"J": j, "F": f, "G": (j + f) / 2}
    return summary


def mean_percent(objects: Iterable[ObjectScores], measure: str, statistic: str) -> float:
    """The mean of a statistic of J or F over objects, in percent."""
    return float(100 * np.mean([scores[measure][statistic] for scores in objects]))


def _annotated_pairs(prediction: Iterable[LabelMap], target: Iterable[LabelMap | None]) -> Iterator[FramePair]:
    end: Any = object()
    for index, (predicted, annotated) in enumerate(zip_longest(prediction, target, fillvalue=end)):
        if predicted is end or annotated is end:
            short, long = ("predicted", "annotated") if predicted is end else ("annotated", "predicted")
            raise InputError(f"only {index} frames are {short} but more are {long}: give one label map per frame")
        if annotated is None:
            continue
        m, g = _to_numpy(predicted), _to_numpy(annotated)
        if m.shape != g.shape or m.ndim != 2:
            raise InputError(
                f"frame {index}: the predicted label map has shape {m.shape}, the annotation {g.shape}; both must be "
                "height x width at the original size"
            )
        yield index, m, g


def _inner_frames(pairs: Iterator[FramePair]) -> Iterator[FramePair]:
    """All but the first and the last of three frames or more; of fewer, the last."""
    held, count = None, 0
    for pair in pairs:
        if held is not None and count > 1:
            yield held
        held, count = pair, count + 1
    if held is not None and count < 3:  # skipping would leave nothing
        yield held


def _ids(labels: NDArray[Any]) -> set[int]:
    if labels.dtype == np.uint8:
        return {int(i) for i in np.flatnonzero(np.bincount(labels.ravel(), minlength=1)) if i}
    return {int(i) for i in np.unique(labels) if i}


def _nanmean(values: NDArray[np.float64]) -> float:
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else float("nan")


def _to_numpy(masks: Any) -> NDArray[Any]:
    return masks.detach().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)


def _binary(prediction: LabelMap, target: LabelMap) -> list[NDArray[np.bool_]]:
    """Both as bool arrays of one shape."""
    arrays = [_to_numpy(masks) for masks in (prediction, target)]
    if arrays[0].shape != arrays[1].shape:
        raise ValueError(f"prediction has shape {arrays[0].shape} but target {arrays[1].shape}: they must be equal")
    if arrays[0].ndim < 2:
        raise ValueError(f"masks have shape {arrays[0].shape}: expected [..., H, W]")
    inside = [array if array.dtype == np.bool_ else array != 0 for array in arrays]
    if not all(array.dtype.kind != "f" or np.array_equal(array, i) for array, i in zip(arrays, inside, strict=True)):
        raise ValueError("masks are soft: J and F need bool or {0, 1}, compare with a threshold first")
    return inside


def _like(values: NDArray[Any], masks: Masks) -> Masks:
    result = np.asarray(values, dtype=np.float64)
    if isinstance(masks, Tensor):
        device = "cpu" if masks.device.type == "mps" else masks.device  # MPS has no float64
        return torch.from_numpy(result).to(device)
    return result
