import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stg_pyg.model.motion import LastBox, MotionModel

SHORT = torch.tensor([[1.0, 1, 3, 3], [2, 1, 6, 3], [6, 2, 10, 6]], dtype=torch.float64)


def literal(boxes, n):
    """Eq. 2 term by term, for histories of more than n boxes."""
    centers = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in boxes.tolist()]
    sizes = [(b[2] - b[0], b[3] - b[1]) for b in boxes.tolist()]
    t = len(boxes)
    c = [centers[t - 1][k] + sum(centers[r][k] - centers[r - 1][k] for r in range(t - n, t)) / n for k in (0, 1)]
    s = [sum(sizes[r][k] for r in range(t - n, t)) / n for k in (0, 1)]
    return [c[0] - s[0] / 2, c[1] - s[1] / 2, c[0] + s[0] / 2, c[1] + s[1] / 2]


# Centers (2, 2), (4, 2), (8, 4); sizes (2, 2), (4, 2), (4, 4).
@pytest.mark.parametrize(
    ("model", "boxes", "expected"),
    [
        (MotionModel(n=2), SHORT, [9, 3.5, 13, 6.5]),  # velocity (3, 1), center (11, 5), size (4, 3)
        (MotionModel(n=1), SHORT, [10, 4, 14, 8]),  # velocity (4, 2), center (12, 6), size (4, 4)
        # A short history: velocity over both steps, mean size over all three boxes.
        (MotionModel(), SHORT, [11 - 5 / 3, 5 - 4 / 3, 11 + 5 / 3, 5 + 4 / 3]),
        (MotionModel(), SHORT[:1], [1, 1, 3, 3]),
        (MotionModel(), torch.tensor([[0, 0, 3, 3], [1, 0, 4, 3]]), [2, 0, 5, 3]),
        (LastBox(), SHORT, [6, 2, 10, 6]),
    ],
)
def test_by_hand(model, boxes, expected):
    for dtype in (torch.float32, torch.float64):
        predicted = model.predict(boxes.to(dtype))
        assert predicted.dtype == dtype
        torch.testing.assert_close(predicted, torch.tensor(expected, dtype=dtype))
    assert model.predict(boxes).tolist() == pytest.approx(expected)
    before = boxes.clone()
    model.predict(boxes).add_(1)
    assert torch.equal(boxes, before)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_equals_the_printed_sums(n, extra, seed):
    boxes = torch.rand(n + extra, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 100
    expected = torch.tensor(literal(boxes, n), dtype=torch.float64)
    torch.testing.assert_close(MotionModel(n).predict(boxes), expected)
    assert torch.equal(MotionModel(n).predict(boxes), MotionModel(n).predict(boxes[-n - 1 :]))


@pytest.mark.parametrize("model", [MotionModel(4), LastBox()])
def test_contract(model):
    histories = [torch.rand(t, 4) * 50 for t in (1, 3, 7)]
    many = model.predict_many(histories)
    assert many.shape == (3, 4) and model.predict_many([]).shape == (0, 4)
    assert all(torch.equal(row, model.predict(boxes)) for row, boxes in zip(many, histories, strict=True))
    for shape in ((0, 4), (4,), (2, 5)):
        with pytest.raises(ValueError, match="past boxes"):
            model.predict(torch.zeros(shape))
    with pytest.raises(ValueError, match="n must be"):
        MotionModel(0)
    assert repr(model) in ("MotionModel(n=4)", "LastBox()")
