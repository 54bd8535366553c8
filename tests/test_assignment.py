import pytest
import torch

from stg_pyg.assignment import assign_proposals

PREDICTED = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_highest_iou_wins(dtype):
    boxes = torch.tensor(
        [[0, 0, 10, 10], [9, 0, 18, 10], [6, 0, 13, 10], [30, 30, 40, 40], [10, 20, 12, 22]], dtype=dtype
    )
    # The third box meets the objects with 40 / 130 and 50 / 120.
    assigned = assign_proposals(boxes, PREDICTED.to(dtype))
    assert assigned.dtype == torch.long
    assert assigned.tolist() == [0, 1, 1, -1, -1]


def test_touching_boxes_do_not_overlap():
    assert assign_proposals(torch.tensor([[18.0, 0, 20, 10]]), PREDICTED).tolist() == [-1]


def test_as_printed_any_overlap_is_enough():
    sliver = torch.tensor([[17.5, 9.5, 500, 500]])
    assert assign_proposals(sliver, PREDICTED).tolist() == [1]
    assert assign_proposals(sliver, PREDICTED, min_iou=0.01).tolist() == [-1]


def test_min_iou_accepts_the_limit_itself():
    boxes = torch.tensor([[0.0, 0, 5, 10], [0, 0, 4, 10]])  # IoU 0.5 and 0.4 with the first object
    assert assign_proposals(boxes, PREDICTED, min_iou=0.5).tolist() == [0, -1]


def test_ties_go_to_the_first_object():
    twice = PREDICTED[[0, 0]]
    assert assign_proposals(PREDICTED[:1], twice).tolist() == [0]


def test_mask_rule_compares_with_the_own_object():
    boxes = PREDICTED[[0, 0, 1]]
    q = torch.zeros(2, 4, 8)
    q[0, :, :4] = 1
    q[1, :, 4:] = 1
    masks = torch.stack([q[0], q[1], q[1]])
    masks[2, :2] = 0  # IoU 0.5 with its object
    options = {"masks": masks, "q": q}
    assert assign_proposals(boxes, PREDICTED, **options).tolist() == [0, 0, 1]
    assert assign_proposals(boxes, PREDICTED, min_mask_iou=0.5, **options).tolist() == [0, -1, 1]
    assert assign_proposals(boxes, PREDICTED, min_mask_iou=0.6, **options).tolist() == [0, -1, -1]
    assert assign_proposals(boxes, PREDICTED, min_mask_iou=0.6, masks=masks.bool(), q=q).tolist() == [0, -1, -1]


def test_mask_rule_needs_masks():
    with pytest.raises(ValueError, match="needs masks and q"):
        assign_proposals(PREDICTED, PREDICTED, min_mask_iou=0.1)


def test_nothing_to_assign():
    assert assign_proposals(torch.zeros(0, 4), PREDICTED).shape == (0,)
    assert assign_proposals(PREDICTED, torch.zeros(0, 4)).tolist() == [-1, -1]
    assert assign_proposals(PREDICTED, torch.zeros(2, 4)).tolist() == [-1, -1]
