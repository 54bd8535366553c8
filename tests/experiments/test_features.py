"""The command that measures how X and K tell objects apart."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from commands import command
from train_cases import TINY, make_tiny

from experiments import features
from experiments.common import checkpoints
from experiments.features import Measured, summary


def test_it_runs_and_is_refused_without_frames(monkeypatch, tmp_path):
    make_tiny(monkeypatch)
    config = TINY.config.without_learned_parts()
    preset = dataclasses.replace(TINY, backbone="tf_efficientnet_lite0", crop_size=32, config=config)
    checkpoints.save_model(tmp_path / "c.pt", checkpoints.build_model(preset), preset, 0)
    words = ("--preset", "synthetic", "--split", "val", "--checkpoint", tmp_path / "c.pt", "--out", tmp_path / "out")
    assert command(monkeypatch, "features", *words, "--every", 2) == 0
    values = json.loads((tmp_path / "out/features.json").read_text())
    assert values["graphs"] > 0 and 0 <= values["auc_same_other"] <= 1 and 0 <= values["retrieval_iou"] <= 100
    assert command(monkeypatch, "features", *words, "--every", 0) == 2


def test_the_summary_of_ideal_features():
    measured = Measured()
    measured.first = list(torch.eye(3))
    measured.later = [x.repeat(4, 1) for x in torch.eye(3)]
    iou = np.array([0.1, 0.2, 0.8, 0.9])
    measured.nodes = [(iou, iou, 1 - iou)] * 3
    measured.edges = [(np.array([0.8, 0.1]), np.array([1.0, 0.25]))]
    values = summary(measured)
    assert values["auc_same_other"] == 1 and values["cosine_same"] == 1 and values["cosine_other"] == 0
    assert values["anchor_right"] == pytest.approx(0.85) and values["anchor_wrong"] == pytest.approx(0.15)
    assert (values["edge_right_right"], values["edge_right_wrong"]) == (1.0, 0.25)
    assert values["rank_anchor"] == pytest.approx(1) and values["rank_score"] == pytest.approx(-1)
    assert math.isnan(values["retrieval_iou"])


def test_retrieval_of_the_same_window_is_its_mask():
    torch.manual_seed(0)
    keys, value = torch.randn(1, 32, 8, 8), (torch.rand(1, 8, 8) > 0.5).float()
    assert features.retrieval_iou(keys, value, keys, value) == 1
    assert features.retrieval_iou(keys, value, torch.randn(1, 32, 8, 8), value) < 0.9
