import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import box_iou as reference_iou

from stg_pyg.ops.boxes import (
    box_area,
    box_center_size,
    box_iou,
    boxes_from_center_size,
    clip_boxes,
    masks_to_boxes,
)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.sampled_from([0.25, 0.5]), st.integers(0, 2**32 - 1))
def test_masks_to_boxes_are_the_extremes_of_the_pixels_above_the_threshold(height, width, threshold, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, (3, height, width), generator=generator) / 4 * (torch.arange(3) < 2)[:, None, None]
    expected = []
    for mask in values > threshold:  # strictly: quarters meet it
        y, x = mask.nonzero(as_tuple=True)
        expected.append([int(v) for v in (x.min(), y.min(), x.max() + 1, y.max() + 1)] if len(x) else [0] * 4)
    for masks, dtype in (
        (values, torch.float32),
        (values.double(), torch.float64),
        (values > threshold, torch.float32),
    ):
        boxes = masks_to_boxes(masks, threshold)
        assert boxes.dtype == dtype and boxes.tolist() == expected
    assert torch.equal(masks_to_boxes(values), masks_to_boxes(values, 0.5))
    assert masks_to_boxes(values[:0]).shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_box_iou(dtype):
    a = torch.tensor([[0, 0, 4, 4], [2, 2, 6, 6], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=dtype)
    b = torch.tensor([[0, 0, 4, 4], [4, 0, 8, 4], [0, 0, 2, 2], [0, 0, 0, 0]], dtype=dtype)
    by_hand = torch.tensor([[1, 0, 1 / 4, 0], [4 / 28, 4 / 28, 0, 0], [0] * 4, [0] * 4], dtype=dtype)
    torch.testing.assert_close(box_iou(a, b), by_hand)
    boxes = torch.rand(8, 4, dtype=dtype) * 10
    boxes[:, 2:] += boxes[:, :2]
    expected = [[reference_iou(x, y) for y in boxes.double().numpy()] for x in boxes[:5].double().numpy()]
    torch.testing.assert_close(box_iou(boxes[:5], boxes), torch.tensor(expected, dtype=dtype))
    assert box_iou(a[:0], b).shape == (0, 4)


def test_areas_centers_margins_and_borders():
    assert box_area(torch.tensor([[0.0, 0, 2, 3], [4, 0, 2, 3], [4, 4, 2, 2]])).tolist() == [6, 0, 0]
    boxes = torch.tensor([[1.0, 2, 5, 10]])
    center, size = box_center_size(boxes)
    assert center.tolist() == [[3, 6]] and size.tolist() == [[4, 8]]
    assert torch.equal(boxes_from_center_size(center, size), boxes)
    clipped = clip_boxes(torch.tensor([[-3.0, -2, 50, 60], [5, 6, 7, 8]]), height=30, width=40)
    assert clipped.tolist() == [[0, 0, 40, 30], [5, 6, 7, 8]]
