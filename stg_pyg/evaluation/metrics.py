"""Region similarity J and contour accuracy F of DAVIS, and their statistics over frames, objects and sequences.

The numbers are those of ``davis2017-evaluation`` (Perazzi et al., CVPR 2016; Pont-Tuset et al., arXiv:1704.00675).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
FrameScore = tuple[float, float]
FramePair = tuple[int, NDArray[Any], NDArray[Any]]
"""Index of a frame, its predicted and its annotated label map."""


def region_similarity(prediction: Masks, target: Masks) -> Masks:
    r"""Region similarity J, the intersection over union of two masks.

    .. math::
        \mathcal{J}(M, G) = \frac{|M \cap G|}{|M \cup G|}, \qquad \mathcal{J}(\emptyset, \emptyset) = 1

    Args:
        prediction: [..., H, W] masks, bool or {0, 1}; array or tensor.
        target: [..., H, W] masks of the same shape.

    Returns:
        [...] float64 in [0, 1], an array for arrays and a tensor for tensors.

    Raises:
        ValueError: shapes differ, or a mask is soft.
    """
    m, g = _binary(prediction), _binary(target)
    _check_same_shape(m, g)
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
        prediction: [..., H, W] masks, bool or {0, 1}; array or tensor.
        target: [..., H, W] masks of the same shape.
        bound: tolerance as a fraction of the image diagonal; a value of 1 or more is in pixels.

    Returns:
        [...] float64 in [0, 1]; 1 when both masks have no contour, 0 when only one has none.

    Raises:
        ValueError: shapes differ, or a mask is soft.
    """
    m, g = _binary(prediction), _binary(target)
    _check_same_shape(m, g)
    height, width = m.shape[-2:]
    radius = tolerance(height, width, bound)
    pairs = zip(m.reshape(-1, height, width), g.reshape(-1, height, width), strict=True)
    values = np.array([contour_f(a, b, radius) for a, b in pairs], dtype=np.float64)
    return _like(values.reshape(m.shape[:-2]), prediction)


def sequence_statistics(values: NDArray[Any] | Tensor | Iterable[float]) -> Statistics:
    """Mean, recall and decay of the per-frame scores [T] of one object.

    Recall is the fraction of frames with a score above 0.5; decay is the mean of the first quarter of the frames minus
    the mean of the last one (quarters share their border frames, as in DAVIS). NaN scores do not count.

    Raises:
        ValueError: no scores.
    """
    scores = np.asarray(values if isinstance(values, np.ndarray | Tensor) else list(values), dtype=np.float64)
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
    if given_at is not None:
        return _scores_after(given_at, pairs)
    wanted = None if obj_ids is None else {int(i) for i in obj_ids}
    seen, in_target = set(wanted or ()), set(wanted or ())
    scores: dict[int, list[FrameScore]] = {}
    for _, predicted, annotated in _scored_frames(pairs, skip_first_and_last):
        if wanted is None:
            shown = _ids(annotated)
            in_target |= shown
            seen |= shown | _ids(predicted)
        _add_frame(scores, predicted, annotated, seen)
    return {i: _object_scores(scores[i]) for i in sorted(in_target) if i in scores}


def _scores_after(given_at: Mapping[int, int], pairs: Iterator[FramePair]) -> dict[int, ObjectScores]:
    scores: dict[int, list[FrameScore]] = {}
    for t, predicted, annotated in pairs:
        _add_frame(scores, predicted, annotated, [i for i, given in given_at.items() if given < t])
    return {i: _object_scores(scores[i]) for i in sorted(scores)}


def summarize(results: Mapping[str, Mapping[int, ObjectScores]]) -> dict[str, Any]:
    """Scores of a data set in percent, in the form of ``metrics.json``.

    Args:
        results: per sequence name what :func:`score_sequence` returns.

    Returns:
        ``{"J": {"mean", "recall", "decay"}, "F": {...}, "G", "sequences": {name: {"J", "F", "G"}}}``. As in DAVIS the
        numbers of the data set are means over all objects of all sequences; those of a sequence are means over its
        objects. A sequence whose scored frames show no object is left out.

    Raises:
        InputError: no sequence has an object.
    """
    objects = [scores for of_sequence in results.values() for scores in of_sequence.values()]
    if not objects:
        raise InputError("nothing to score: no annotated frame of any sequence shows an object; check the annotations")
    summary: dict[str, Any] = {m: {k: _percent(objects, m, k) for k in ("mean", "recall", "decay")} for m in "JF"}
    summary["G"] = (summary["J"]["mean"] + summary["F"]["mean"]) / 2
    summary["sequences"] = {name: _sequence_summary(r) for name, r in results.items() if r}
    return summary


def _sequence_summary(of_sequence: Mapping[int, ObjectScores]) -> dict[str, float]:
    scores = {m: _percent(list(of_sequence.values()), m, "mean") for m in "JF"}
    return {**scores, "G": (scores["J"] + scores["F"]) / 2}


def _percent(objects: list[ObjectScores], measure: str, statistic: str) -> float:
    return float(100 * np.mean([scores[measure][statistic] for scores in objects]))


def _object_scores(scores: list[FrameScore]) -> ObjectScores:
    j, f = np.array(scores, dtype=np.float64).T
    return {"J": sequence_statistics(j), "F": sequence_statistics(f)}


def _annotated_pairs(prediction: Iterable[LabelMap], target: Iterable[LabelMap | None]) -> Iterator[FramePair]:
    predictions, targets, end = iter(prediction), iter(target), object()
    index = 0
    while True:
        predicted, annotated = next(predictions, end), next(targets, end)
        if predicted is end and annotated is end:
            return
        if predicted is end or annotated is end:
            short, long = ("predicted", "annotated") if predicted is end else ("annotated", "predicted")
            raise InputError(f"only {index} frames are {short} but more are {long}: give one label map per frame")
        if annotated is not None:
            pair = index, _to_numpy(predicted), _to_numpy(annotated)
            _check_frame(*pair)
            yield pair
        index += 1


def _scored_frames(pairs: Iterator[FramePair], skip_first_and_last: bool) -> Iterator[FramePair]:
    if not skip_first_and_last:
        yield from pairs
        return
    held, count = None, 0
    for pair in pairs:
        if held is not None and count > 1:
            yield held
        held, count = pair, count + 1
    if held is not None and count < 3:  # skipping would leave nothing
        yield held


def _check_frame(index: int, predicted: NDArray[Any], annotated: NDArray[Any]) -> None:
    if predicted.shape != annotated.shape or predicted.ndim != 2:
        raise InputError(
            f"frame {index}: the predicted label map has shape {predicted.shape}, the annotation {annotated.shape}; "
            "both must be height x width at the original size"
        )


def _add_frame(
    scores: dict[int, list[FrameScore]], predicted: NDArray[Any], annotated: NDArray[Any], obj_ids: Iterable[int]
) -> None:
    """Appends J and F of the objects in one frame; the part of the frame where neither map has an object is cut off."""
    radius = tolerance(*predicted.shape)
    window = window_of((predicted != 0) | (annotated != 0))
    predicted, annotated = predicted[window], annotated[window]
    for obj_id in obj_ids:
        scores.setdefault(obj_id, []).append(_score_object(predicted == obj_id, annotated == obj_id, radius))


def _score_object(m: NDArray[np.bool_], g: NDArray[np.bool_], radius: int) -> FrameScore:
    intersection, total = np.count_nonzero(m & g), np.count_nonzero(m) + np.count_nonzero(g)
    return intersection / (total - intersection) if total else 1.0, contour_f(m, g, radius)


def _ids(labels: NDArray[Any]) -> set[int]:
    if labels.dtype == np.uint8:
        return {int(i) for i in np.flatnonzero(np.bincount(labels.ravel(), minlength=1)) if i}
    return {int(i) for i in np.unique(labels) if i}


def _nanmean(values: NDArray[np.float64]) -> float:
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else float("nan")


def _to_numpy(masks: Any) -> NDArray[Any]:
    return masks.detach().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)


def _binary(masks: LabelMap) -> NDArray[np.bool_]:
    array = _to_numpy(masks)
    if array.ndim < 2:
        raise ValueError(f"masks have shape {array.shape}: expected [..., H, W]")
    inside: NDArray[np.bool_] = array if array.dtype == np.bool_ else array != 0
    if np.issubdtype(array.dtype, np.floating) and not np.array_equal(array, inside):
        raise ValueError("masks are soft: J and F need bool or {0, 1}, compare with a threshold first")
    return inside


def _check_same_shape(m: NDArray[Any], g: NDArray[Any]) -> None:
    if m.shape != g.shape:
        raise ValueError(f"prediction has shape {m.shape} but target {g.shape}: they must be equal")


def _like(values: NDArray[Any], masks: Masks) -> Masks:
    result = np.asarray(values, dtype=np.float64)
    if isinstance(masks, Tensor):
        device = "cpu" if masks.device.type == "mps" else masks.device  # MPS has no float64
        return torch.from_numpy(result).to(device)
    return result
