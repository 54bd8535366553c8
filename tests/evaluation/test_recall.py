import json

import pytest
import torch

from stg_pyg.evaluation.recall import RecallTable, box_recall

EXACT, HALF, SIXTY, FAR = [0.0, 0, 10, 10], [0.0, 0, 10, 5], [0.0, 0, 10, 6], [50.0, 50, 60, 60]


def recall(boxes, scores, true_boxes=(EXACT,), **options):
    return box_recall(
        [torch.tensor(boxes).reshape(-1, 4)], [torch.tensor(scores)], [torch.tensor(true_boxes)], **options
    ).recall


@pytest.mark.parametrize(
    ("boxes", "scores", "truth", "thresholds", "expected"),
    [
        ([HALF], [0.9], [EXACT], (0.5, 0.51), ((1,), (0,))),  # a threshold is met by equality
        ([EXACT, FAR, SIXTY], [0.1, 0.9, 0.5], [EXACT], (0.5, 0.7), ((0, 1, 1), (0, 0, 1))),  # the best scores count
        ([FAR, EXACT], [0.5, 0.5], [EXACT], (0.5,), ((0, 1),)),  # equal scores in order
        ([EXACT, FAR], [0.5, 0.5], [EXACT], (0.5,), ((1, 1),)),
        ([EXACT], [1.0], [EXACT, SIXTY], (0.5, 0.7), ((1,), (0.5,))),  # one proposal may cover two true boxes
    ],
)
def test_by_hand(boxes, scores, truth, thresholds, expected):
    assert recall(boxes, scores, truth, thresholds=thresholds, counts=range(1, 1 + len(boxes))) == expected


def test_every_true_box_weighs_the_same_over_all_frames():
    boxes = [torch.tensor([EXACT]), torch.zeros(0, 4), torch.tensor([FAR])]
    scores = [torch.ones(1), torch.zeros(0), torch.ones(1)]
    truth = [torch.tensor([EXACT, FAR, FAR]), torch.tensor([EXACT]), torch.zeros(0, 4)]
    table = box_recall(boxes, scores, truth)
    assert table.num_boxes == 4 and table.at(0.5, 1) == table.at(0.7, 50) == 1 / 4
    nothing = box_recall([], [], [])
    assert nothing.num_boxes == 0 and nothing.at(0.5, 1) != nothing.at(0.5, 1)


def test_forms():
    table = RecallTable((0.5, 0.75), (1, 5), ((0.25, 0.5), (0.0, 0.125)), 8)
    assert json.loads(json.dumps(table.to_dict())) == {
        "recall": {"0.5": {"1": 25.0, "5": 50.0}, "0.75": {"1": 0.0, "5": 12.5}},
        "boxes": 8,
    }
    rows = "| IoU | 1 proposal | 5 proposals |", "| --- | --- | --- |", "| 0.5 | 25.0 | 50.0 |", "| 0.75 | 0.0 | 12.5 |"
    assert tuple(table.to_markdown().splitlines()) == rows


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="1 frames of boxes, 0 of scores"):
        box_recall([torch.tensor([EXACT])], [], [torch.tensor([EXACT])])
    with pytest.raises(ValueError, match="1 boxes have 2 scores"):
        recall([EXACT], [0.5, 0.6])
