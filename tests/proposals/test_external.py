import pytest
import torch

from stg_pyg import Proposals, STGConfig
from stg_pyg.proposals.outside import (
    accepted,
    assembled,
    assign_proposals,
    feature_of_mask,
    joined,
    proposals_of_objects,
)
from stg_pyg.proposals.rle import EncodedProposals

PAPER = STGConfig.paper()


def block(x0, y0, x1, y1, size=(40, 60)):
    mask = torch.zeros(size)
    mask[y0:y1, x0:x1] = 1
    return mask


def of(*masks, **fields):
    return Proposals.from_masks(torch.stack(masks), **fields)


def test_each_object_gets_its_proposals_also_of_encoded_ones():
    left, right, far = block(2, 2, 12, 12), block(40, 20, 55, 35), block(20, 2, 25, 8)
    proposals = of(left, right, far)
    p = torch.tensor([[40.0, 20, 55, 35], [0.0, 0, 13, 13]])
    q = torch.stack([right, left])
    for given in (proposals, EncodedProposals.from_proposals(proposals)):
        first, second = proposals_of_objects(given, p, q, PAPER)
        assert torch.equal(first.masks.float(), right[None]) and torch.equal(second.masks.float(), left[None])


PREDICTED = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10]])


@pytest.mark.parametrize(
    ("boxes", "predicted", "expected"),
    [
        # The third box meets the objects with 40 / 130 and 50 / 120.
        ([[0, 0, 10, 10], [9, 0, 18, 10], [6, 0, 13, 10], [30, 30, 40, 40]], PREDICTED, [0, 1, 1, -1]),
        ([[18, 0, 20, 10]], PREDICTED, [-1]),  # touching is no overlap
        ([[17.5, 9.5, 500, 500]], PREDICTED, [1]),  # as printed, any overlap is enough
        ([[0, 0, 10, 10]], PREDICTED[[0, 0]], [0]),  # ties go to the first object
        ([[0, 0, 10, 10], [8, 0, 18, 10]], torch.zeros(0, 4), [-1, -1]),
        ([[0, 0, 10, 10], [8, 0, 18, 10]], torch.zeros(2, 4), [-1, -1]),
        ([], PREDICTED, []),
    ],
)
def test_the_box_rule_by_hand(boxes, predicted, expected):
    assigned = assign_proposals(torch.tensor(boxes, dtype=torch.float32).view(-1, 4), predicted)
    assert assigned.dtype == torch.long and assigned.tolist() == expected


def test_most_nodes_are_those_nearest_to_p_in_their_order():
    masks = [block(x, 0, x + 10, 10) for x in (8, 0, 4, 2)]
    config = PAPER.replace("assignment.max_nodes", 2)
    (own,) = proposals_of_objects(of(*masks), torch.tensor([[0.0, 0, 10, 10]]), masks[1][None], config)
    assert own.boxes[:, 0].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, [True, True, True, True]),
        ({"assignment.min_box_iou": 0.5}, [True, True, False, True]),
        ({"assignment.min_mask_iou": 0.6}, [True, False, False, True]),  # a box without a mask is not rejected by it
    ],
)
def test_rejection_by_box_and_by_mask(rule, expected):
    q, p = block(0, 0, 10, 10), torch.tensor([0.0, 0, 10, 10])
    proposals = of(block(0, 0, 10, 10), block(0, 0, 10, 5), block(9, 9, 30, 30))
    boxes = torch.cat([proposals.boxes, p[None]])
    known = torch.tensor([True, True, True, False])
    proposals = Proposals(boxes, torch.cat([proposals.masks, 0 * q[None]]), torch.ones(4), has_mask=known)
    assert accepted(proposals, p, q, PAPER.replace(rule)).tolist() == expected


def test_pieces_inside_q_are_put_together():
    q = block(0, 0, 20, 20)
    upper, lower, other = block(0, 0, 20, 8), block(0, 8, 22, 20), block(15, 0, 60, 40)
    result = assembled(of(upper, lower, other, scores=torch.tensor([1.0, 0.5, 0.1])), q, 0.8)
    assert len(result) == 4 and result.origin == ["", "", "", "assembled"]
    assert torch.equal(result.masks[3], torch.maximum(upper, lower))
    areas = upper.sum(), lower.sum()
    assert result.scores[3] == pytest.approx(float((areas[0] + 0.5 * areas[1]) / (areas[0] + areas[1])))

    masks = torch.stack([block(0, 0, 10, 5), block(0, 5, 10, 10)]).bool()
    result = assembled(Proposals.from_masks(masks), block(0, 0, 10, 10), 0.8)
    assert result.masks.dtype == torch.bool and torch.equal(result.masks[2], block(0, 0, 10, 10).bool())
    for share in (1.0, 0.99):  # of two pieces that are inside there is one
        pieces = of(block(0, 0, 20, 20), block(15, 15, 60, 40))
        assert assembled(pieces, block(0, 0, 20, 20), share) is pieces


def test_the_feature_of_the_likest_proposal_stands_for_a_given_mask():
    feats = torch.tensor([[1.0, 0], [0, 1.0]])
    proposals = of(block(0, 0, 10, 10), block(0, 0, 30, 30), feats=feats)
    default = torch.full((3,), 7.0)
    assert feature_of_mask(proposals, block(0, 0, 10, 9), default).tolist() == [1, 0]
    assert feature_of_mask(proposals, block(40, 20, 50, 30), default).tolist() == [0, 0]
    assert feature_of_mask(of(block(0, 0, 10, 10)), block(0, 0, 10, 10), default) is default


def test_scores_of_outside_proposals_are_scaled_to_the_own_ones():
    outside = of(block(0, 0, 9, 9), block(0, 0, 5, 5), scores=torch.tensor([1.0, 0.5]))
    own = of(block(0, 0, 10, 10), block(2, 0, 10, 10), scores=torch.tensor([0.5, 0.7]))
    assert joined(outside, own).scores.tolist() == pytest.approx([0.8, 0.4, 0.5, 0.7])
    assert len(joined(outside.select([]), own)) == 2 and len(joined(outside, own.select([]))) == 2
