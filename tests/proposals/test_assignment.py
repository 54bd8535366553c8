import pytest
import torch

from stg_pyg.proposals.assignment import assign_proposals

PREDICTED = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10]])


@pytest.mark.parametrize(
    ("boxes", "predicted", "options", "expected"),
    [
        # The third box meets the objects with 40 / 130 and 50 / 120.
        ([[0, 0, 10, 10], [9, 0, 18, 10], [6, 0, 13, 10], [30, 30, 40, 40]], PREDICTED, {}, [0, 1, 1, -1]),
        ([[18, 0, 20, 10]], PREDICTED, {}, [-1]),  # touching is no overlap
        ([[17.5, 9.5, 500, 500]], PREDICTED, {}, [1]),  # as printed, any overlap is enough
        ([[17.5, 9.5, 500, 500]], PREDICTED, {"min_iou": 0.01}, [-1]),
        ([[0, 0, 5, 10], [0, 0, 4, 10]], PREDICTED, {"min_iou": 0.5}, [0, -1]),  # the limit itself is enough
        ([[0, 0, 10, 10]], PREDICTED[[0, 0]], {}, [0]),  # ties go to the first object
        ([[0, 0, 10, 10], [8, 0, 18, 10]], torch.zeros(0, 4), {}, [-1, -1]),
        ([[0, 0, 10, 10], [8, 0, 18, 10]], torch.zeros(2, 4), {}, [-1, -1]),
        ([], PREDICTED, {}, []),
    ],
)
def test_the_box_rule_by_hand(boxes, predicted, options, expected):
    for dtype in (torch.float32, torch.float64):
        assigned = assign_proposals(torch.tensor(boxes, dtype=dtype).view(-1, 4), predicted.to(dtype), **options)
        assert assigned.dtype == torch.long and assigned.tolist() == expected


def test_mask_rule_compares_with_the_own_object():
    boxes = PREDICTED[[0, 0, 1]]
    q = torch.zeros(2, 4, 8)
    q[0, :, :4] = q[1, :, 4:] = 1
    masks = torch.stack([q[0], q[1], q[1]])
    masks[2, :2] = 0  # IoU 0.5 with its object
    for least, expected in ((0.0, [0, 0, 1]), (0.5, [0, -1, 1]), (0.6, [0, -1, -1])):
        for given in (masks, masks.bool()):
            assert assign_proposals(boxes, PREDICTED, min_mask_iou=least, masks=given, q=q).tolist() == expected
    with pytest.raises(ValueError, match="needs masks and q"):
        assign_proposals(PREDICTED, PREDICTED, min_mask_iou=0.1)
