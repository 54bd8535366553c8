import dataclasses

import numpy as np
import pytest
import torch
from stream_cases import (
    HEIGHT,
    PLAIN,
    WIDTH,
    RedRule,
    iou,
    label_map,
    picture,
    proposals,
    segmenter,
    square,
)

from stg_pyg import InputError, Proposals


def test_proposals_are_assigned_to_the_object_they_overlap():
    first, second = square(4, 4), square(40, 26)
    video = segmenter()
    video.step(picture(), masks=label_map(o3=first, o7=second))
    parts = [square(42, 26), square(6, 4), square(40, 4, 10), square(4, 6), square(41, 27)]
    result = video.step(picture(), proposals(*parts))
    of_first, of_second = result.frame.proposals
    assert torch.equal(of_first.masks, torch.stack([parts[1], parts[3]]))
    assert torch.equal(of_second.masks, torch.stack([parts[0], parts[4]]))
    assert result.output.batch.tolist() == [0, 0, 1, 1]


def foreign(*masks, feats=None):
    return Proposals.from_masks(torch.stack(masks), feats=feats)


def test_own_proposals_join_foreign_ones_with_features():
    config = PLAIN.replace("proposals.own_evidence", True)
    stream, mask = segmenter(config, RedRule()), square(10, 10)
    stream.step(picture(mask), masks=mask.numpy().astype(np.uint8))
    result = stream.step(picture(mask), foreign(mask, square(12, 10), feats=torch.ones(2, 5)))
    origins = result.frame.proposals[0].origin
    assert origins[:2] == ["", ""] and "q1" in origins[2:]


@pytest.mark.parametrize("again", [False, True])
def test_a_box_without_a_mask_is_segmented_and_a_mask_kept_unless_all_are_segmented_again(again):
    stream, mask = segmenter(PLAIN.replace("proposals.resegment", again), RedRule()), square(10, 10)
    stream.step(picture(mask), masks=mask.numpy().astype(np.uint8))
    given = Proposals(
        torch.tensor([[8.0, 8, 26, 26], [8.0, 8, 26, 26]]),
        torch.stack([torch.zeros(HEIGHT, WIDTH), square(9, 9, 16)]),
        torch.ones(2),
        has_mask=torch.tensor([False, True]),
    )
    masks = stream.step(picture(mask), given).frame.proposals[0].masks
    assert iou(masks[0] > 0.5, mask > 0.5) > 0.9 and torch.equal(masks[1], square(9, 9, 16)) != again


def test_given_features_are_x_and_the_likest_proposal_is_the_anchor():
    stream, mask = segmenter(PLAIN.replace("spatial.features", "given")), square(10, 10)
    far = square(40, 30)
    feats = torch.tensor([[1.0, 0], [0, 1.0]])
    stream.step(picture(mask), foreign(far, mask, feats=feats), mask.numpy().astype(np.uint8))
    result = stream.step(picture(mask), foreign(mask, square(12, 10), feats=feats))
    assert torch.equal(result.output.graphs.feat, feats)
    assert result.output.graphs.anchor.tolist() == [0, 1]


def test_given_features_must_be_given():
    stream, mask = segmenter(PLAIN.replace("spatial.features", "given")), square(10, 10)
    stream.step(picture(mask), masks=mask.numpy().astype(np.uint8))
    with pytest.raises(InputError, match="no features"):
        stream.step(picture(mask), foreign(mask))


def test_disjoint_proposals_do_not_vote_on_each_other():
    config = PLAIN.replace({"spatial.edge_iou": "mask", "spatial.alpha": 0.5, "spatial.num_steps": 1})
    whole, parts = square(10, 10), [square(10, 10), square(30, 10), square(10, 30)]
    for pruned, equal in ((0.0, False), (0.2, True)):
        stream = segmenter(config.replace("spatial.min_edge_iou", pruned))
        stream.step(picture(whole), masks=whole.numpy().astype(np.uint8))
        proposals = foreign(*[torch.maximum(part, 0 * part) for part in parts])
        nodes = stream.step(
            picture(whole), Proposals(torch.tensor([[10.0, 10, 24, 24]]).repeat(3, 1), proposals.masks, torch.ones(3))
        ).output.nodes
        assert torch.equal(nodes, torch.stack(parts)) == equal


def test_a_lost_object_is_found_among_foreign_proposals():
    stream, first = segmenter(PLAIN.replace("recovery.redetect", True)), square(5, 5)
    labels = first.numpy().astype(np.uint8)
    stream.step(picture(first), masks=labels)
    gone = picture()
    background = square(30, 28, 12)
    stream.step(gone, foreign(background))
    back = square(44, 30)
    described = dataclasses.replace(foreign(background, back), feats=torch.ones(2, 5))
    result = stream.step(picture(back), described)
    assert iou(result.labels == 1, back > 0.5) > 0.9
    assert result.frame.proposals[0].feats is None, "features of a detector are not X of the model"


def test_a_proposal_that_is_unlike_q_passes_if_it_looks_like_the_object():
    config = PLAIN.replace("assignment.min_mask_iou", 0.6)
    jumped, dull = square(18, 12), square(18, 12)
    for scene, expected in ((picture(jumped), 1), (picture(), 0)):
        stream, first = segmenter(config), square(10, 10)
        stream.step(picture(first), masks=first.numpy().astype(np.uint8))
        result = stream.step(scene, foreign(dull))
        assert len(result.frame.proposals[0]) == expected
