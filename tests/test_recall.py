import json

import pytest
import torch

from stg_pyg.recall import RecallTable, box_recall

TRUE = torch.tensor([[0.0, 0, 10, 10]])
EXACT, HALF, SIXTY, FAR = [0.0, 0, 10, 10], [0.0, 0, 10, 5], [0.0, 0, 10, 6], [50.0, 50, 60, 60]


def recall(boxes, scores, true_boxes=TRUE, **options):
    return box_recall([torch.tensor(boxes).reshape(-1, 4)], [torch.tensor(scores)], [true_boxes], **options)


def test_a_threshold_is_met_by_equality():
    table = recall([HALF], [0.9], thresholds=(0.5, 0.51), counts=(1,))
    assert table.recall == ((1.0,), (0.0,))


def test_only_the_best_scores_count():
    table = recall([EXACT, FAR, SIXTY], [0.1, 0.9, 0.5], thresholds=(0.5, 0.7), counts=(1, 2, 3))
    assert table.recall == ((0.0, 1.0, 1.0), (0.0, 0.0, 1.0))


def test_equal_scores_are_taken_in_order():
    assert recall([FAR, EXACT], [0.5, 0.5], counts=(1,)).at(0.5, 1) == 0
    assert recall([EXACT, FAR], [0.5, 0.5], counts=(1,)).at(0.5, 1) == 1


def test_every_true_box_weighs_the_same_over_all_frames():
    boxes = [torch.tensor([EXACT]), torch.zeros(0, 4), torch.tensor([FAR])]
    scores = [torch.ones(1), torch.zeros(0), torch.ones(1)]
    truth = [torch.tensor([EXACT, FAR, FAR]), torch.tensor([EXACT]), torch.zeros(0, 4)]
    table = box_recall(boxes, scores, truth)
    assert table.num_boxes == 4
    assert table.at(0.5, 1) == table.at(0.7, 50) == 1 / 4


def test_one_proposal_may_cover_two_true_boxes():
    assert recall([EXACT], [1.0], torch.tensor([EXACT, SIXTY]), counts=(1,)).recall == ((1.0,), (0.5,))


def test_no_true_boxes():
    table = box_recall([], [], [])
    assert table.num_boxes == 0 and table.at(0.5, 1) != table.at(0.5, 1)


def test_forms():
    table = RecallTable((0.5, 0.75), (1, 5), ((0.25, 0.5), (0.0, 0.125)), 8)
    assert json.loads(json.dumps(table.to_dict())) == {
        "recall": {"0.5": {"1": 25.0, "5": 50.0}, "0.75": {"1": 0.0, "5": 12.5}},
        "boxes": 8,
    }
    assert table.to_markdown().splitlines() == [
        "| IoU | 1 proposal | 5 proposals |",
        "| --- | --- | --- |",
        "| 0.5 | 25.0 | 50.0 |",
        "| 0.75 | 0.0 | 12.5 |",
    ]


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="1 frames of boxes, 0 of scores"):
        box_recall([TRUE], [], [TRUE])
    with pytest.raises(ValueError, match="1 boxes have 2 scores"):
        recall([EXACT], [0.5, 0.6])
