import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import blob_labels, moving_video, official
from skimage.morphology import disk
from vos_benchmark.utils import _seg2bmap

from stg_pyg.errors import InputError
from stg_pyg.evaluation.metrics import (
    contour_accuracy,
    region_similarity,
    score_sequence,
    sequence_statistics,
    summarize,
)


def reference_f(m: np.ndarray, g: np.ndarray, bound: float = 0.008) -> float:
    """F of the whole frame, written out without cropping."""
    element = disk(int(np.ceil(bound * np.linalg.norm(m.shape)))).astype(np.uint8)
    contour_m, contour_g = _seg2bmap(m), _seg2bmap(g)
    near_m, near_g = (cv2.dilate(c.astype(np.uint8), element) for c in (contour_m, contour_g))
    n_m, n_g = contour_m.sum(), contour_g.sum()
    if n_m == 0 or n_g == 0:
        precision, recall = (1, 1) if n_m == n_g else (1, 0)
    else:
        precision, recall = (contour_m * near_g).sum() / n_m, (contour_g * near_m).sum() / n_g
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def test_region_similarity_by_hand():
    m, g = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    m[0, :2, :2], g[0, :2, 1:3] = True, True
    np.testing.assert_array_equal(region_similarity(m, g), [2 / 6, 1.0])
    assert region_similarity(m[0], np.zeros((4, 4), bool)) == 0


def test_contour_accuracy_by_hand():
    m, empty = np.zeros((2, 40, 40), bool)
    m[10:20, 10:20] = True
    # A mask that fills the frame has no contour, as in the official code.
    for a, b, expected in ((m, empty, 0), (empty, m, 0), (empty, empty, 1), (~empty, empty, 1), (~empty, m, 0)):
        assert contour_accuracy(a, b) == expected
    aside = np.roll(m, 3, axis=1)  # a bound of one or more is in pixels
    assert contour_accuracy(m, aside, bound=3) == 1 > contour_accuracy(m, aside, bound=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 90), st.sampled_from([0.008, 0.03, 0.1]))
def test_cropping_changes_nothing(seed, height, width, bound):
    rng = np.random.default_rng(seed)
    labels = blob_labels(rng, height, width, 2)
    m = labels == 1
    g = np.roll(m, rng.integers(-5, 6, 2), (0, 1)) if rng.random() < 0.7 else labels == 2
    assert contour_accuracy(m, g, bound) == reference_f(m, g, bound)


@pytest.mark.parametrize("measure", [region_similarity, contour_accuracy])
def test_kinds_shapes_and_dtypes(measure):
    labels = moving_video(0, 6, 1)
    m, g = (labels[:3] == 1).reshape(3, 1, 60, 90), (labels[3:] == 1).reshape(3, 1, 60, 90)
    expected = measure(m, g)
    assert expected.shape == (3, 1) and expected.dtype == np.float64
    for dtype in (torch.bool, torch.uint8, torch.float32):
        result = measure(torch.from_numpy(m).to(dtype), torch.from_numpy(g).to(dtype))
        assert isinstance(result, torch.Tensor) and result.dtype == torch.float64
        np.testing.assert_array_equal(result.numpy(), expected)
    assert measure(m[:0], g[:0]).shape == (0, 1)
    for a, b, message in ((m, g[..., 1:], "must be equal"), (m * 0.4, g, "threshold")):
        with pytest.raises(ValueError, match=message):
            measure(a, b)


def test_statistics():
    for length in (*range(1, 12), 17, 40, 1001):
        values = np.random.default_rng(length).random(length)
        edges = [int(np.round(1 + k * (length - 1) / 4 + 1e-10)) - 1 for k in range(5)]
        result = sequence_statistics(values)
        assert result["mean"] == pytest.approx(sum(values) / length)
        assert result["recall"] == pytest.approx(sum(v > 0.5 for v in values) / length)
        assert result["decay"] == pytest.approx(values[: edges[1] + 1].mean() - values[edges[3] :].mean())
    assert sequence_statistics([1.0, 1.0, 0.5, 0.0, 0.0]) == {"mean": 0.5, "recall": 0.4, "decay": 1.0}
    assert sequence_statistics(torch.tensor([0.8])) == {"mean": pytest.approx(0.8), "recall": 1.0, "decay": 0.0}
    with pytest.raises(ValueError, match="no frames"):
        sequence_statistics([])


def several():
    return {f"v{k}": (moving_video(10 + k, 6, k), moving_video(10 + k, 6, k)[::-1].copy()) for k in range(1, 4)}


def absent_late_and_invented():
    target, prediction = moving_video(3, 8, 3), moving_video(4, 8, 3)
    target[4:6][target[4:6] == 1] = 0  # absent for two frames in the annotation
    prediction[5:][prediction[5:] == 2] = 0  # lost
    target[:4][target[:4] == 3] = 0  # appears late
    prediction[:2][prediction[:2] == 3] = 0  # claimed too early
    prediction[2][:5, :5] = 9  # not an object
    return {"a": (prediction, target), "b": (np.zeros_like(target), target), "c": (target, target)}


def non_contiguous():
    ids = np.array([0, 7, 200], np.uint8)
    return {"a": (ids[moving_video(6, 5, 2)], ids[moving_video(5, 5, 2)])}


@pytest.mark.parametrize(("case", "skip"), [(several, False), (absent_late_and_invented, True), (non_contiguous, True)])
def test_official_scores(tmp_path, case, skip):
    videos = case()
    g, j, f, objects = official(tmp_path, videos, skip)
    ours = {name: score_sequence(p, t, skip_first_and_last=skip) for name, (p, t) in videos.items()}
    summary = summarize(ours)
    np.testing.assert_allclose([summary["G"], summary["J"]["mean"], summary["F"]["mean"]], [g, j, f], atol=0.01)
    for name, (j_of, f_of) in objects.items():
        assert sorted(ours[name]) == sorted(j_of)
        for obj_id, scores in ours[name].items():
            assert 100 * scores["J"]["mean"] == pytest.approx(j_of[obj_id], abs=0.01)
            assert 100 * scores["F"]["mean"] == pytest.approx(f_of[obj_id], abs=0.01)


@pytest.mark.parametrize(("num_frames", "scored"), [(1, [0]), (2, [1]), (3, [1]), (5, [1, 2, 3])])
def test_frames_that_count(num_frames, scored):
    target = np.zeros((num_frames, 10, 10), np.uint8)
    target[:, 2:6, 2:6] = 1
    for t in range(num_frames):
        prediction = target.copy()
        prediction[t] = 0
        expected = 1 - (t in scored) / len(scored)
        assert score_sequence(prediction, target)[1]["J"]["mean"] == pytest.approx(expected)


def test_streams_given_objects_and_frames_without_annotation():
    target, prediction = moving_video(7, 9, 2), moving_video(8, 9, 2)
    given = score_sequence(prediction, target, obj_ids=[1, 9])
    assert given[9]["J"]["mean"] == 1 and given.keys() == {1, 9}, "in every scored frame"
    sparse = (frame if t % 2 == 0 else None for t, frame in enumerate(target))
    expected = score_sequence(prediction[::2], target[::2])
    assert score_sequence((torch.from_numpy(p) for p in prediction), sparse) == expected


def test_input_errors():
    target = moving_video(9, 4, 1)
    for predicted, annotated, message in (
        (target[:3], target, "only 3 frames are predicted"),
        ([*target, target[0]], target, "only 4 frames are annotated"),
        (target[:, ::2], target, r"frame 0.*original size"),
    ):
        with pytest.raises(InputError, match=message):
            score_sequence(predicted, annotated)
    with pytest.raises(InputError, match="nothing to score"):
        summarize({"a": {}})
