import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.runs.oracle import OracleScores, best_fusion, merge_oracles
from stg_pyg import Proposals


def stripes(*rows):
    mask = torch.zeros(8, 10)
    for row in rows:
        mask[row] = 1
    return mask


@pytest.mark.parametrize(
    ("masks", "truth"),
    [
        ([(0, 1), (2, 3), (3, 4, 5, 6, 7)], (0, 1, 2, 3)),  # a union of pieces
        ([(0, 1, 2, 5), (0, 1, 3, 6), (0, 2, 3, 7), (1, 2, 3, 4)], (0, 1, 2, 3)),  # a mean of loose masks
        ([(0, 1), (4, 5)], (0, 1)),  # one good mask is not spoiled
    ],
)
def test_the_best_fusion(masks, truth):
    assert best_fusion(torch.stack([stripes(*rows) for rows in masks]), stripes(*truth)) == 1.0
    assert best_fusion(torch.zeros(0, 8, 10), stripes(0)) == 0.0


def step(masks, labels, obj_ids=(3,)):
    return SimpleNamespace(
        frame=SimpleNamespace(proposals=[Proposals.from_masks(masks)]),
        output=object(),
        obj_ids=list(obj_ids),
        labels=labels,
        masks=torch.zeros(1, 8, 10),
    )


def test_scores_of_a_frame():
    scores = OracleScores()
    truth = (stripes(0, 1, 2, 3) * 3).to(torch.uint8)
    reached = (stripes(0, 1, 2) * 3).to(torch.uint8)
    scores.add(step(torch.stack([stripes(0, 1), stripes(2, 3)]), reached), truth.numpy())
    scores.add(step(torch.stack([stripes(0)]), reached), np.zeros((8, 10), np.uint8))
    scores.add(step(torch.stack([stripes(0)]), reached), None)
    assert scores.summary() == pytest.approx({"best": 50.0, "fusion": 100.0, "reached": 75.0})

    scores, truth = OracleScores(), stripes(0, 1, 2, 3)  # with proposals that were rejected
    outside = Proposals.from_masks(torch.stack([truth, stripes(6)]))
    scores.add(step(torch.zeros(0, 8, 10), truth.to(torch.uint8) * 3), (truth * 3).to(torch.uint8).numpy(), outside)
    assert scores.summary()["best"] == 100


def test_means_over_videos_leave_out_those_without_frames():
    nothing = OracleScores().summary()
    assert math.isnan(nothing["best"])
    merged = merge_oracles({"a": nothing, "b": {"best": 50.0, "fusion": 60.0, "reached": 40.0}})
    assert (merged["best"], merged["fusion"], merged["reached"]) == (50.0, 60.0, 40.0)
