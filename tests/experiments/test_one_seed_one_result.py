"""What is random depends on the seed and the step: with dropout, after a stop, and whatever ran before."""

import argparse
import copy
import dataclasses

import numpy as np
import pytest
import torch
from commands import command, error_line
from torch import nn
from train_cases import CPU, TINY, Killed, assert_same_weights, killer, run_graph, run_segmentation, tiny_model

from datasets import SyntheticVideos
from experiments import evaluate
from experiments.common import checkpoints
from experiments.common.presets import find_preset
from experiments.runs.job import Job
from experiments.runs.streams import given_masks, stream_labels
from experiments.train import trainer as loop
from experiments.train.stages import graph as graph_stage
from experiments.train.stages import segmentation as segmentation_stage
from experiments.train.stages.graph import train_clip
from stg_pyg import STGNet, VideoSegmenter
from stg_pyg.flow.sources import resolve_flow
from stg_pyg.learning import updates as online_updates
from stg_pyg.learning.first_frame import learn_online
from stg_pyg.learning.keys import learn_keys_online
from stg_pyg.learning.steps import drawn_from
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.backbones.deeplab import DeepLabV3Plus
from stg_pyg.nn.backbones.encoders import KeyEncoder, ResNetBackbone
from stg_pyg.video.grouped import GroupedSegmenter

VIDEO = SyntheticVideos("test", num_videos=1, num_frames=5, height=48, width=64, seed=7)[0]
FRAME = VIDEO.image(0), VIDEO.labels(0)


def graph_model():
    """A model whose keys draw numbers in every pass in training."""
    model = tiny_model(0)
    backbone = model.key_encoder.backbone
    backbone.layers = nn.Sequential(backbone.layers, nn.Dropout(0.2))
    return model


def large():
    torch.manual_seed(0)
    return DeepLabV3Plus.small(4)


STAGES = {
    "segmentation": (large, run_segmentation, segmentation_stage, "optimisation_step"),
    "graph": (graph_model, run_graph, graph_stage, "train_clip"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_with_dropout_resumes_bit_for_bit(stage, tmp_path, monkeypatch):
    make, run, module, step = STAGES[stage]
    whole, stopped, again, other = make(), make(), make(), make()
    torch.manual_seed(1)
    run(whole, tmp_path / "whole.pt")
    torch.manual_seed(2)
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", -1.0)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, step, killer(getattr(module, step), 2))
        run(stopped, tmp_path / "a.pt")
    run(again, tmp_path / "a.pt", resume=True)
    assert_same_weights(whole, again)
    run(other, tmp_path / "b.pt", seed=3)
    assert any(not torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))


def learned_online(seed):
    options = {"steps": 2, "batch_size": 2, "peak": 1e-3, "device": CPU, "seed": seed}
    return learn_online(large(), *FRAME, LucidConfig(size=32), **options)


def learned_keys(seed):
    model = graph_model()
    options = {"crop_size": 32, "margin": 0.2, "steps": 2, "peak": 1e-3, "device": CPU, "seed": seed}
    return learn_keys_online(model.key_encoder, model.memory_attention, *FRAME, **options)


TRUSTING = {"online.trusted_quality": -1.0, "online.trusted_agreement": -1.0}


def learned_in_updates(seed):
    model = tiny_model(0)
    model.config = model.config.replace({"online.update_every": 2, "online.update_steps": 1, **TRUSTING})
    model.segmentation = large()
    stream = VideoSegmenter(model.eval(), crop_size=32, seed=seed)
    with torch.no_grad():
        for t in range(3):
            stream.step(VIDEO.image(t), masks=FRAME[1] if t == 0 else None)
    assert stream.updates.state()["optimizer"]["state"], "it has learned"
    return stream.updates.net


@pytest.mark.parametrize("learn", [learned_online, learned_keys, learned_in_updates])
def test_learning_on_a_video_depends_on_the_seed_alone(learn):
    first = learn(5)
    torch.manual_seed(123)
    assert_same_weights(first, learn(5))
    other = learn(6)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_numbers_drawn_from_a_key():
    torch.manual_seed(0)
    following = torch.rand(2)
    torch.manual_seed(0)
    drawn = []
    for key in (2, 2, 3):
        with drawn_from(CPU, 1, key):
            drawn.append(torch.rand(2).tolist())
    assert torch.equal(torch.rand(2), following) and drawn[0] == drawn[1] != drawn[2]


def test_the_seed_of_a_command_reaches_the_updates(monkeypatch, tmp_path):
    seeds = []
    original = online_updates.OnlineUpdates.__init__

    def watched(self, *arguments):
        original(self, *arguments)
        seeds.append(self.seed)

    monkeypatch.setattr(online_updates.OnlineUpdates, "__init__", watched)
    model = tiny_model(0).eval()
    model.config = model.config.replace("online.update_every", 2)
    for options in ({}, {"online_seed": 4}):
        job = Job(None, TINY, "test", None, (), tmp_path, "cpu", seed=3, **options)
        next(stream_labels(job, VIDEO, given_masks(VIDEO), model, resolve_flow("dis")))
    GroupedSegmenter(model, crop_size=32, max_objects=1, seed=9)
    VideoSegmenter(model)
    assert seeds == [3, 4, 9, 0]


def test_the_graph_stage_leaves_the_statistics_of_the_encoders():
    torch.manual_seed(0)
    preset = dataclasses.replace(TINY, config=TINY.config.replace("temporal.key_size", 32))
    small = checkpoints.build_model(preset)
    model = STGNet(
        preset.config, small.feature_encoder, KeyEncoder(ResNetBackbone("resnet18", 4), grid=8), small.segmentation
    )
    before = copy.deepcopy(model.state_dict())
    train_clip(model, [VIDEO], preset, np.random.default_rng(0), False)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    norm = model.key_encoder.backbone.stem[1]
    assert not norm.training and float(norm.weight.grad.abs().sum()) > 0, "scales still learn"
    assert model.key_encoder.training


@pytest.mark.parametrize("trained, alpha", [("davis2017-paper", 0.1), ("davis2017-small", None)])
def test_alpha_of_a_benchmark_follows_the_size_of_the_networks(monkeypatch, trained, alpha):
    monkeypatch.setattr(evaluate.checkpoints, "load_model", lambda path: (None, find_preset(trained)))
    for benchmark in ("segtrack_v2", "youtube_objects-small", "davis2017", "synthetic"):
        chosen = evaluate.choose_preset(argparse.Namespace(checkpoint="c.pt", preset=benchmark))
        assert chosen.test_alpha == (None if benchmark in ("davis2017", "synthetic") else alpha)
        assert chosen.name == trained


def test_one_file_cannot_be_the_weights_of_three_networks(monkeypatch, capsys, tmp_path):
    path = tmp_path / "resnet101.pth"
    torch.save({}, path)
    arguments = ("--preset", "davis2016-paper", "--root", tmp_path / "none", "--out", tmp_path / "out")
    assert command(monkeypatch, "train", *arguments, "--weights", path) == 2
    line = error_line(capsys)
    assert line.startswith(f"error: --weights {path}: preset davis2016-paper starts from three networks")
    assert all(file in line for file in ("folder", "resnet101.pth", "resnet50.pth", "deeplabv3_resnet101.pth"))
    assert not (tmp_path / "out").exists()
