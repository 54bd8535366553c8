import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stg_pyg.motion import LastBox, MotionModel


def literal(boxes, n):
    """Eq. 2 term by term, for histories of more than n boxes."""
    centers = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in boxes.tolist()]
    sizes = [(b[2] - b[0], b[3] - b[1]) for b in boxes.tolist()]
    t = len(boxes)
    c = [centers[t - 1][k] + sum(centers[r][k] - centers[r - 1][k] for r in range(t - n, t)) / n for k in (0, 1)]
    s = [sum(sizes[r][k] for r in range(t - n, t)) / n for k in (0, 1)]
    return [c[0] - s[0] / 2, c[1] - s[1] / 2, c[0] + s[0] / 2, c[1] + s[1] / 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_hand(dtype):
    # Centers (2, 2), (4, 2), (8, 4); sizes (2, 2), (4, 2), (4, 4).
    boxes = torch.tensor([[1, 1, 3, 3], [2, 1, 6, 3], [6, 2, 10, 6]], dtype=dtype)
    # n = 2: velocity (3, 1), center (11, 5), size (4, 3).
    predicted = MotionModel(n=2).predict(boxes)
    assert predicted.dtype == dtype
    assert predicted.tolist() == [9, 3.5, 13, 6.5]
    # n = 1: velocity (4, 2), center (12, 6), size (4, 4).
    assert MotionModel(n=1).predict(boxes).tolist() == [10, 4, 14, 8]


def test_short_history_uses_the_steps_there_are():
    boxes = torch.tensor([[1.0, 1, 3, 3], [2, 1, 6, 3], [6, 2, 10, 6]], dtype=torch.float64)
    # Velocity over both steps, mean size over the three boxes (10/3, 8/3).
    expected = [11 - 5 / 3, 5 - 4 / 3, 11 + 5 / 3, 5 + 4 / 3]
    torch.testing.assert_close(MotionModel().predict(boxes), torch.tensor(expected, dtype=torch.float64))


def test_one_box_has_no_velocity():
    box = torch.tensor([[3.0, 4, 9, 12]])
    assert torch.equal(MotionModel().predict(box), box[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_equals_the_printed_sums(n, extra, seed):
    boxes = torch.rand(n + extra, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 100
    expected = torch.tensor(literal(boxes, n), dtype=torch.float64)
    torch.testing.assert_close(MotionModel(n).predict(boxes), expected)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(1, 12),
    st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    st.tuples(st.integers(-99, 99), st.integers(-99, 99), st.integers(1, 40), st.integers(1, 40)),
)
def test_extrapolates_linear_tracks(length, n, velocity, start):
    x, y, w, h = start
    track = [[x + velocity[0] * t, y + velocity[1] * t] for t in range(length + 1)]
    boxes = torch.tensor([[a, b, a + w, b + h] for a, b in track], dtype=torch.float64)
    expected = boxes[-1] if length > 1 else boxes[0]
    torch.testing.assert_close(MotionModel(n).predict(boxes[:-1]), expected)


def test_only_the_last_steps_count():
    boxes = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)) * 50
    assert torch.equal(MotionModel(3).predict(boxes), MotionModel(3).predict(boxes[-4:]))
    assert not torch.equal(MotionModel(3).predict(boxes), MotionModel(3).predict(boxes[-3:]))


def test_integer_boxes_are_read_as_numbers():
    boxes = torch.tensor([[0, 0, 3, 3], [1, 0, 4, 3]])
    assert MotionModel().predict(boxes).tolist() == [2, 0, 5, 3]


@pytest.mark.parametrize("model", [MotionModel(), LastBox()])
@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 5)])
def test_wrong_histories_raise(model, shape):
    with pytest.raises(ValueError, match="past boxes"):
        model.predict(torch.zeros(shape))


def test_n_must_be_positive():
    with pytest.raises(ValueError, match="n must be"):
        MotionModel(0)


@pytest.mark.parametrize("model", [MotionModel(2), LastBox()])
def test_predict_many(model):
    histories = [torch.rand(t, 4) * 50 for t in (1, 3, 7)]
    many = model.predict_many(histories)
    assert many.shape == (3, 4)
    for row, boxes in zip(many, histories, strict=True):
        assert torch.equal(row, model.predict(boxes))
    assert model.predict_many([]).shape == (0, 4)


def test_last_box_ignores_motion():
    boxes = torch.tensor([[0.0, 0, 2, 2], [5, 5, 9, 9]])
    predicted = LastBox().predict(boxes)
    assert predicted.tolist() == [5, 5, 9, 9]
    predicted += 1
    assert boxes[-1].tolist() == [5, 5, 9, 9]


def test_repr():
    assert repr(MotionModel(4)) == "MotionModel(n=4)"
    assert repr(LastBox()) == "LastBox()"
