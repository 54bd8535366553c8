"""The contract of all stages of training, and what is particular to segmentation and graph."""

import argparse
import copy
import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from coco_files import annotation, make_root, polygon
from commands import command, error_line
from torch import nn
from train_cases import (
    CPU,
    PRETRAINED,
    TINY,
    Killed,
    assert_same_weights,
    kill_after,
    make_tiny,
    run_detector,
    run_graph,
    run_segmentation,
    tiny_detector,
    tiny_model,
    tiny_videos,
)

from datasets import VideoSequence
from datasets.cache import cached
from experiments.common import checkpoints
from experiments.common.presets import PRESETS
from experiments.train import command as train
from experiments.train.stages.detector import load_detector
from experiments.train.stages.graph import draw_clip, make_optimizer, printed_schedule, train_graph
from experiments.train.stages.segmentation import evaluate_segmentation, load_segmentation, train_segmentation
from experiments.train.trainer import Stage
from stg_pyg.errors import InputError
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.backbones.segmentation import SegmentationOutput


class Case(NamedTuple):
    make: Callable[[int], Any]
    run: Callable[..., list[dict[str, float]]]
    kind: str
    spoiled: Callable[[Any], torch.Tensor]
    """A weight that makes a loss not finite,"""
    words: str
    """and what is said of it."""
    options: Mapping[str, Any] = MappingProxyType({})


def graph_model(seed: int) -> nn.Module:
    model = tiny_model(seed)
    model.segmentation.load_state_dict(tiny_model(0).segmentation.state_dict())
    return model


QUALITY = (lambda net: net.quality_head[-1].bias, r"segmentation, step 1: the loss is not finite \(quality is nan")
STAGES = {
    "segmentation": Case(lambda seed: tiny_model(seed).segmentation, run_segmentation, "segmentation", *QUALITY),
    "backbone": Case(
        lambda seed: tiny_model(seed, PRETRAINED).segmentation,
        run_segmentation,
        "segmentation",
        *QUALITY,
        {"preset": PRETRAINED},
    ),
    "graph": Case(
        graph_model,
        run_graph,
        "graph",
        lambda model: next(model.node_gate.parameters()),
        r"graph, (frame|step) 1: the loss is not finite \(.*gate is nan",
    ),
    "detector": Case(
        tiny_detector,
        run_detector,
        "detector",
        lambda net: net.model.backbone.context.bias,
        r"detector, step 1: the loss is not finite \(loss_\w+ is nan",
    ),
}


@pytest.mark.parametrize(("stage", "workers"), [("segmentation", 1), ("backbone", 0), ("graph", 0), ("detector", 1)])
def test_a_stage_resumes_bit_for_bit_and_is_left_alone_when_finished(tmp_path, monkeypatch, stage, workers):
    make, run, kind, _, _, options = STAGES[stage]
    undisturbed, resumed, again, path = make(0), make(1), make(2), tmp_path / "b.pt"
    log = run(undisturbed, tmp_path / "a.pt", **options)
    assert any(not torch.equal(x, y) for x, y in zip(undisturbed.parameters(), make(0).parameters(), strict=True))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 2)
        run(make(0), path, **options)
    assert checkpoints.load(path, kind)["step"] == 2
    workers = {} if stage == "graph" else {"workers": workers}
    assert run(resumed, path, resume=True, **options, **workers) == log
    a, b = (checkpoints.load(tmp_path / name, kind) for name in ("a.pt", "b.pt"))
    assert a["step"] == b["step"] > 2 and a["recent"] == b["recent"] != []
    for part in {"net", "average", "weights"} & a.keys():
        assert_same_weights(a[part], b[part])
    before = path.read_bytes()
    kill_after(monkeypatch, 0)
    run(again, path, resume=True, **options)
    assert path.read_bytes() == before
    for net in (resumed, again):
        assert_same_weights(undisturbed, net)
        assert not net.training
    if stage == "detector":
        assert_same_weights(load_detector(path), resumed)
    elif kind == "segmentation":
        load_segmentation(loaded := make(4), path)
        assert_same_weights(loaded, resumed)


@pytest.mark.parametrize("stage", ["segmentation", "graph", "detector"])
def test_every_stage_says_which_term_is_not_finite(tmp_path, stage):
    make, run, _, spoiled, words, options = STAGES[stage]
    net = make(0)
    nn.init.constant_(spoiled(net), float("nan"))
    with pytest.raises(InputError, match=f"^{words}.*; nothing of this step is .*lower the learning rate"):
        run(net, tmp_path / "s.pt", **options)
    assert not list(tmp_path.iterdir())


def test_a_backbone_learns_all_with_x_and_k(tmp_path):
    net = tiny_model(0, PRETRAINED).segmentation
    before = {name: value.clone() for name, value in net.named_parameters()}
    run_segmentation(net, tmp_path / "a.pt", dataclasses.replace(PRETRAINED, segmentation_steps=12))
    assert {"features", "keys"} < checkpoints.load(tmp_path / "a.pt", "segmentation")["recent"][0].keys()
    assert not [name for name, value in net.named_parameters() if torch.equal(value, before[name])]


PARTS = {"feature_encoder", "key_encoder", "memory_attention", "node_gate"}


@pytest.mark.parametrize(
    ("preset", "config", "parts"),
    [
        (TINY, {}, PARTS),
        (PRETRAINED, {}, {"memory_attention", "node_gate"}),
        (TINY, {"spatial.node_gate": False}, PARTS - {"node_gate"}),
        (TINY, {"temporal.enabled": False}, {"feature_encoder", "node_gate"}),
        (TINY, {"temporal.update": "paper"}, PARTS - {"memory_attention"}),
    ],
)
def test_the_graph_stage_trains_every_part_but_the_segmentation(tmp_path, preset, config, parts):
    preset = dataclasses.replace(preset, config=preset.config.replace(config), graph_steps=6)
    model = tiny_model(0, preset)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run_graph(model, tmp_path / "graph.pt", preset)
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == parts and all(bool(value.isfinite().all()) for value in model.state_dict().values())
    state = checkpoints.load(tmp_path / "graph.pt", "graph")["net"]
    assert not [name for name in state if name.startswith("segmentation.")]


def test_resume_refuses_what_does_not_fit(tmp_path):
    net, path = tiny_model(0).segmentation, tmp_path / "s.pt"
    run_segmentation(net, path)
    before = path.read_bytes()
    wider = tiny_model(0, dataclasses.replace(TINY, width=16)).segmentation
    with pytest.raises(InputError, match=r"s\.pt: made by another network configuration"):
        run_segmentation(wider, path, resume=True)
    with pytest.raises(InputError, match=r"s\.pt: not a graph checkpoint"):
        run_graph(tiny_model(0), path, resume=True)
    for changes, name in (({"seed": 3}, "seed"), ({"preset": dataclasses.replace(TINY, batch_size=2)}, "batch_size")):
        with pytest.raises(InputError, match=rf"s\.pt: was begun with other settings \({name}\).*remove this file"):
            run_segmentation(net, path, resume=True, **changes)
    other = dataclasses.replace(TINY, config=TINY.config.replace("spatial.conv", "mean"))
    run_segmentation(net, path, other, resume=True)  # the segmentation network knows nothing of it
    assert path.read_bytes() == before
    path.write_bytes(before[:-100])
    with pytest.raises(InputError, match=r"s\.pt: not a readable checkpoint"):
        run_segmentation(net, path, resume=True)
    checkpoints.save(path, {"kind": "detector", "step": 1})
    with pytest.raises(InputError, match=r"s\.pt: .*no detector"):
        load_detector(path)


def test_frames_in_memory_stay_as_they_are(tmp_path):
    videos = cached(list(tiny_videos()), 0.1)
    preset = dataclasses.replace(TINY, lucid=LucidConfig(size=32, dream_share=0.5), batch_size=12)
    before = [(video.image(t).copy(), video.labels(t).copy()) for video in videos for t in range(video.num_frames)]
    train_segmentation(tiny_model(0).segmentation, videos, preset, tmp_path / "s.pt", workers=0, device=CPU)
    train_graph(tiny_model(0), videos, preset, tmp_path / "g.pt", device=CPU)
    after = [(video.image(t), video.labels(t)) for video in videos for t in range(video.num_frames)]
    for pair, same in zip(before, after, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(pair, same, strict=True))


class Believer(nn.Module):
    """Returns Q as its mask."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor, q: torch.Tensor) -> SegmentationOutput:
        assert images.shape[1:] == (3, 32, 32) and q.shape[1:] == (32, 32)
        return SegmentationOutput(20 * q - 10, q.new_zeros(len(q)))


class Still(VideoSequence):
    """Nothing moves, frame 5 is not annotated, and object 3 is gone from the frame that Q of frame 9 comes from."""

    name, frame_names = "still", [str(t) for t in range(14)]

    def image(self, t: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)

    def labels(self, t: int) -> np.ndarray | None:
        labels = np.zeros((48, 64), np.uint8)
        labels[10:30, 8:28] = 1
        if t not in (4, 5):
            labels[10:40, 40:60] = 3
        return None if t == 13 else labels


def test_crops_are_scored_with_and_without_q():
    scores = evaluate_segmentation(Believer(), [Still()], TINY, every=5)
    # Frame 4 has object 1, frame 9 both, and Q of object 3 is empty there.
    assert scores["crops"] == 3 and list(scores["videos"]) == ["still"]
    assert scores["without_q"] == 0 and scores["with_q"] == pytest.approx(200 / 3, abs=2)
    assert scores == evaluate_segmentation(Believer(), [Still()], TINY, every=5)
    scores = evaluate_segmentation(Believer(), [], TINY)
    assert scores["crops"] == 0 and np.isnan(scores["with_q"])


@pytest.mark.parametrize("stage", ["segmentation", "detector"])
def test_one_stage_with_coco_first(monkeypatch, tmp_path, capsys, stage):
    make_tiny(monkeypatch)
    monkeypatch.setitem(PRESETS, "synthetic-small", dataclasses.replace(TINY, coco_steps=3, detector_size=32))
    coco = make_root(tmp_path / "coco", [annotation(i, i, [polygon(4, 4, 20, 20)]) for i in range(2)])
    out = tmp_path / "out"
    run = ("train", "--stage", stage, "--segmentation-steps", 2, "--detector-steps", 2, "--workers", 0, "--out", out)
    assert command(monkeypatch, *run, "--coco", tmp_path / "none") == 2
    assert "expected annotations/instances_train2017.json" in error_line(capsys)
    assert command(monkeypatch, *run, "--coco", coco) == 0
    said = {"segmentation": " crops of test: J ", "detector": "| IoU | 1 proposal |"}
    assert said[stage] in capsys.readouterr().out
    names = {f"{stage}{end}" for end in (".pt", "_coco.pt", ".json", "_log.json", "_coco_log.json")}
    assert {p.name for p in out.iterdir()} == names | ({"detector.md"} if stage == "detector" else set())
    scores = json.loads((out / f"{stage}.json").read_text())
    assert scores["crops"] > 0 if stage == "segmentation" else 0 <= scores["recall"]["0.7"]["50"] <= 100
    first, second = (checkpoints.load(out / f"{stage}{phase}.pt", stage) for phase in ("_coco", ""))
    assert (first["step"], second["step"]) == (3, 2)
    average = first["average" if stage == "segmentation" else "weights"]
    distance = [(average[n] - x).abs().max().item() for n, x in second["net"].items() if n.endswith(("weight", "bias"))]
    assert 0 < max(distance) < 1, "the second phase starts where the first one ended"
    before = (out / f"{stage}.pt").read_bytes()
    assert command(monkeypatch, *run, "--coco", coco, "--resume") == 0
    assert (out / f"{stage}.pt").read_bytes() == before
    (out / f"{stage}_coco.pt").unlink()
    assert command(monkeypatch, *run, "--coco", coco, "--resume") == 2
    assert "was not started from COCO" in error_line(capsys)
    assert command(monkeypatch, *run, "--weights", "auto") == 2 and "--weights auto" in error_line(capsys)


def test_paper_presets_take_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(train.Detector, "one_class", lambda weights, imagenet, **_: (weights, imagenet))
    for given, taken in ((None, "auto"), ("none", "none"), ("weights.pth", "weights.pth")):
        for coco in (None, tmp_path):  # before COCO the paper has the weights of ImageNet
            arguments = argparse.Namespace(weights=given, init=None, resume=False, out=tmp_path, coco=coco, stage="all")
            arguments.detector_size = None
            assert train.build_detector(arguments, PRESETS["davis2016-paper"]) == (taken, coco is not None)


def test_the_recipes_of_the_graph():
    """As printed: Adam at 0.1, a tenth less every ten epochs, one rate for all, gradients as they are."""
    printed, own = PRESETS["davis2016-paper"], PRESETS["davis2016-paper"].with_recipe("own")
    model = tiny_model(0)
    optimizer, limit = make_optimizer(model, printed)
    assert type(optimizer) is torch.optim.Adam and limit == math.inf
    assert {(group["weight_decay"], group["factor"]) for group in optimizer.param_groups} == {(0, 1.0)}
    schedule = printed_schedule(tiny_videos(), batch_size=2)  # 16 frames are an epoch, 12 a step
    stage = Stage("graph", model, optimizer, 99, printed.graph_learning_rate, 2, lambda *_: None, schedule=schedule)
    rates = {step: stage.rate_of(step) for step in (0, 13, 14, 26, 27)}
    assert rates == pytest.approx({0: 0.1, 13: 0.1, 14: 0.09, 26: 0.09, 27: 0.081})
    optimizer, limit = make_optimizer(model, own)
    assert type(optimizer) is torch.optim.AdamW and limit == 1.0
    assert [group["factor"] for group in optimizer.param_groups] == [1.0, 10.0]


def test_segmentation_as_printed(tmp_path):
    """One step of Adam at a constant rate moves every weight with a gradient by that rate; nothing is averaged."""
    preset = dataclasses.replace(TINY, recipe="printed", learning_rate=1e-3, segmentation_steps=1)
    net = tiny_model(0).segmentation
    before = copy.deepcopy(net.state_dict())
    run_segmentation(net, tmp_path / "s.pt", preset)
    moved = torch.cat([(p.detach() - before[name]).abs().flatten() for name, p in net.named_parameters()])
    assert float(moved.max()) == pytest.approx(1e-3, rel=1e-3) and float(moved.median()) == pytest.approx(1e-3, rel=0.1)
    content = checkpoints.load(tmp_path / "s.pt", "segmentation")
    assert "average" not in content
    other = tiny_model(1).segmentation
    load_segmentation(other, tmp_path / "s.pt")
    assert_same_weights(other, net)


def test_gradients_that_are_not_finite_stop_the_graph(tmp_path):
    model = tiny_model(0)
    weight = next(model.key_encoder.parameters())
    weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(InputError, match=r"graph, step 1: .*norm of the gradient is nan"):
        run_graph(model, tmp_path / "g.pt")
    assert not (tmp_path / "g.pt").exists()


def test_clips_start_with_an_object():
    for seed in range(8):
        images, labels, _, _ = draw_clip(tiny_videos(), np.random.default_rng(seed), max_size=24)
        assert 2 <= len(images) == len(labels) and labels[0].any()
        assert all(x.shape == (16, 24, 3) and y.shape == (16, 24) for x, y in zip(images, labels, strict=True))
        assert set(np.unique(labels)) <= {0, 1, 2}


def test_the_second_phase_goes_on_from_the_first(monkeypatch, tmp_path):
    fine = LucidConfig(size=48, dream_share=0.5)
    make_tiny(monkeypatch)
    preset = dataclasses.replace(TINY, crop_size=48, fine_lucid=fine, fine_steps=3)
    monkeypatch.setitem(PRESETS, "synthetic-small", preset)
    arguments = ("train", "--workers", 0, "--segmentation-steps", 4, "--graph-steps", 6, "--online-steps", 0)
    monkeypatch.setattr("experiments.train.command.score_table", lambda *_: None)
    out = tmp_path / "whole"
    assert command(monkeypatch, *arguments, "--out", out) == 0
    model, preset = checkpoints.load_model(out / "checkpoint.pt")
    assert preset.crop_size == preset.online_lucid.size == 48 and preset.online_lucid.dream_share == 0.3
    base, before = checkpoints.load_model(out / "checkpoint_base.pt")
    assert before.crop_size == before.online_lucid.size == 32
    phases = [checkpoints.load(out / f"segmentation{end}.pt", "segmentation") for end in ("", "_fine")]
    assert [phase["step"] for phase in phases] == [4, 3]
    for found, phase in zip((base, model), phases, strict=True):
        expected = {name: v.half().float() if v.is_floating_point() else v for name, v in phase["average"].items()}
        assert_same_weights(found.segmentation, expected)
    assert not torch.equal(base.segmentation.mask_head.weight, model.segmentation.mask_head.weight)
    # The phases one by one, the second one stopped and resumed, come to the same end.
    out = tmp_path / "parts"
    assert command(monkeypatch, *arguments, "--out", out, "--stage", "segmentation", "--fine-steps", 0) == 0
    assert not (out / "segmentation_fine.pt").exists()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(patch, 2)
        command(patch, *arguments, "--out", out, "--resume")
    assert command(monkeypatch, *arguments, "--out", out, "--resume") == 0
    assert (out / "checkpoint.pt").read_bytes() == (tmp_path / "whole" / "checkpoint.pt").read_bytes()
