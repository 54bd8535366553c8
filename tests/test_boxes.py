import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stg_pyg.boxes import (
    box_area,
    box_center_size,
    box_iou,
    boxes_from_center_size,
    clip_boxes,
    expand_boxes,
    masks_to_boxes,
)

FLOATS = [torch.float32, torch.float64]


def test_masks_to_boxes_by_hand():
    masks = torch.zeros(4, 5, 7)
    masks[0, 1:4, 2:6] = 1
    masks[1, 4, 6] = 1
    masks[2, 0, 0] = masks[2, 4, 6] = 1
    expected = torch.tensor([[2.0, 1, 6, 4], [6, 4, 7, 5], [0, 0, 7, 5], [0, 0, 0, 0]])
    assert torch.equal(masks_to_boxes(masks), expected)
    assert torch.equal(masks_to_boxes(masks.bool()), expected)


def test_masks_to_boxes_threshold_is_strict():
    masks = torch.zeros(1, 4, 4)
    masks[0, 1, 1], masks[0, 2, 2] = 0.25, 0.75
    assert masks_to_boxes(masks, 0.2).tolist() == [[1, 1, 3, 3]]
    assert masks_to_boxes(masks, 0.25).tolist() == [[2, 2, 3, 3]]
    assert masks_to_boxes(masks).tolist() == [[2, 2, 3, 3]]


@pytest.mark.parametrize("dtype", FLOATS)
def test_masks_to_boxes_keeps_the_dtype(dtype):
    assert masks_to_boxes(torch.ones(1, 2, 3, dtype=dtype)).dtype == dtype
    assert masks_to_boxes(torch.ones(1, 2, 3, dtype=torch.bool)).dtype == torch.float32
    assert masks_to_boxes(torch.zeros(0, 2, 3, dtype=dtype)).shape == (0, 4)
    assert masks_to_boxes(torch.zeros(2, 0, 3, dtype=dtype)).tolist() == [[0] * 4] * 2


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_masks_to_boxes_agrees_with_the_coordinates(height, width, seed):
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) > 0.7
    y, x = mask.nonzero(as_tuple=True)
    expected = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0]
    assert masks_to_boxes(mask[None])[0].tolist() == [int(v) for v in expected]


@pytest.mark.parametrize("dtype", FLOATS)
def test_box_iou_by_hand(dtype):
    a = torch.tensor([[0, 0, 4, 4], [2, 2, 6, 6], [1, 1, 1, 1]], dtype=dtype)
    b = torch.tensor([[0, 0, 4, 4], [4, 0, 8, 4], [0, 0, 2, 2]], dtype=dtype)
    expected = torch.tensor([[1, 0, 4 / 16], [4 / 28, 4 / 28, 0], [0, 0, 0]], dtype=dtype)
    iou = box_iou(a, b)
    assert iou.dtype == dtype
    torch.testing.assert_close(iou, expected)


def test_box_iou_of_nothing_and_of_empty_boxes():
    assert box_iou(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert torch.equal(box_iou(torch.zeros(1, 4), torch.zeros(1, 4)), torch.zeros(1, 1))


def test_box_area_of_an_inverted_box_is_zero():
    assert box_area(torch.tensor([[0.0, 0, 2, 3], [4, 0, 2, 3], [4, 4, 2, 2]])).tolist() == [6, 0, 0]


def test_center_and_size_invert():
    boxes = torch.tensor([[1.0, 2, 5, 10]])
    center, size = box_center_size(boxes)
    assert center.tolist() == [[3, 6]] and size.tolist() == [[4, 8]]
    assert torch.equal(boxes_from_center_size(center, size), boxes)


def test_expand_and_clip():
    boxes = torch.tensor([[10.0, 20, 20, 40]])
    torch.testing.assert_close(expand_boxes(boxes, 0.1), torch.tensor([[9.0, 18, 21, 42]]))
    torch.testing.assert_close(expand_boxes(boxes, 0.1, min_size=16), torch.tensor([[7.0, 18, 23, 42]]))
    clipped = clip_boxes(torch.tensor([[-3.0, -2, 50, 60], [5, 6, 7, 8]]), height=30, width=40)
    assert clipped.tolist() == [[0, 0, 40, 30], [5, 6, 7, 8]]
