import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import annotation, make_root, polygon
from commands import command, error_line
from torch import nn
from train_cases import (
    CPU,
    TINY,
    Killed,
    assert_same_weights,
    killer,
    make_tiny,
    run_graph,
    run_segmentation,
    tiny_model,
    tiny_videos,
)

from datasets import VideoSequence
from datasets.cache import cached
from experiments.common import checkpoints
from experiments.common.presets import PRESETS, Preset
from experiments.train import command as train
from experiments.train import trainer as training_loop
from experiments.train.stages import graph as graph_stage
from experiments.train.stages import segmentation as segmentation_stage
from experiments.train.stages.graph import draw_clip, train_graph
from experiments.train.stages.segmentation import evaluate_segmentation, load_segmentation, train_segmentation
from stg_pyg.errors import InputError
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.backbones.registry import LITE0
from stg_pyg.nn.backbones.segmentation import SegmentationOutput


@pytest.mark.parametrize("workers", [0, 1])
def test_segmentation_resumes_bit_for_bit(tmp_path, monkeypatch, workers):
    undisturbed = tiny_model(0).segmentation
    run_segmentation(undisturbed, tmp_path / "a.pt")
    path = tmp_path / "b.pt"
    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "SAVE_EVERY_SECONDS", -1.0)
        patch.setattr(segmentation_stage, "optimisation_step", killer(segmentation_stage.optimisation_step, 3))
        with pytest.raises(Killed):
            run_segmentation(tiny_model(0).segmentation, path)
    assert checkpoints.load(path, "segmentation")["step"] == 3
    resumed = tiny_model(1).segmentation
    run_segmentation(resumed, path, resume=True, workers=workers)
    assert_same_weights(undisturbed, resumed)
    a, b = (checkpoints.load(tmp_path / name, "segmentation") for name in ("a.pt", "b.pt"))
    assert a["step"] == b["step"] == TINY.segmentation_steps
    for part in ("net", "average"):
        assert_same_weights(a[part], b[part])
    assert not resumed.training
    loaded = tiny_model(4).segmentation
    load_segmentation(loaded, path)
    assert_same_weights(loaded, resumed)


def test_graph_resumes_bit_for_bit(tmp_path, monkeypatch):
    undisturbed = tiny_model(0)
    run_graph(undisturbed, tmp_path / "a.pt")
    path = tmp_path / "b.pt"
    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "SAVE_EVERY_SECONDS", -1.0)
        patch.setattr(graph_stage, "train_clip", killer(graph_stage.train_clip, 2))
        with pytest.raises(Killed):
            run_graph(tiny_model(0), path)
    assert checkpoints.load(path, "graph")["step"] == 2
    resumed = tiny_model(1)
    resumed.segmentation.load_state_dict(tiny_model(0).segmentation.state_dict())
    run_graph(resumed, path, resume=True)
    assert_same_weights(undisturbed, resumed)
    assert not resumed.training


def test_graph_stage_trains_every_part_but_the_segmentation(tmp_path):
    model = tiny_model(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run_graph(model, tmp_path / "graph.pt", dataclasses.replace(TINY, graph_steps=6))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if name.startswith("segmentation.")]
    assert {name.split(".")[0] for name in changed} == {
        "feature_encoder",
        "key_encoder",
        "memory_attention",
        "node_gate",
    }
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    state = checkpoints.load(tmp_path / "graph.pt", "graph")["net"]
    assert not [name for name in state if name.startswith("segmentation.")]


PRETRAINED = dataclasses.replace(TINY, backbone=LITE0, lucid=LucidConfig(size=32, views=2, dream_share=0.5))


def test_a_network_with_a_backbone_resumes_bit_for_bit_and_learns_x_and_k(tmp_path, monkeypatch):
    def model(seed):
        torch.manual_seed(seed)
        return checkpoints.build_model(PRETRAINED)

    undisturbed, path = model(0).segmentation, tmp_path / "b.pt"
    before = {name: value.clone() for name, value in undisturbed.named_parameters()}
    log = run_segmentation(undisturbed, tmp_path / "a.pt", dataclasses.replace(PRETRAINED, segmentation_steps=50))
    assert {"features", "keys"} < log[0].keys()
    assert not [name for name, value in undisturbed.named_parameters() if torch.equal(value, before[name])]
    whole = model(0).segmentation
    run_segmentation(whole, tmp_path / "c.pt", PRETRAINED)
    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "SAVE_EVERY_SECONDS", -1.0)
        patch.setattr(segmentation_stage, "optimisation_step", killer(segmentation_stage.optimisation_step, 3))
        with pytest.raises(Killed):
            run_segmentation(model(0).segmentation, path, PRETRAINED)
    resumed = model(1).segmentation
    run_segmentation(resumed, path, PRETRAINED, resume=True)
    assert_same_weights(whole, resumed)


def test_the_graph_stage_leaves_x_and_k_of_a_backbone_alone(tmp_path):
    torch.manual_seed(0)
    model = checkpoints.build_model(PRETRAINED)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run_graph(model, tmp_path / "graph.pt", dataclasses.replace(PRETRAINED, graph_steps=6))
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"memory_attention", "node_gate"}


@pytest.mark.parametrize(
    "config", [{"spatial.node_gate": False}, {"temporal.enabled": False}, {"temporal.update": "paper"}]
)
def test_graph_stage_with_parts_off(tmp_path, config):
    preset = dataclasses.replace(TINY, config=TINY.config.replace(config), graph_steps=6)
    torch.manual_seed(0)
    model = checkpoints.build_model(preset)
    run_graph(model, tmp_path / "graph.pt", preset)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_finished_stages_are_left_alone(tmp_path, monkeypatch):
    net, model = tiny_model(0).segmentation, tiny_model(0)
    run_segmentation(net, tmp_path / "s.pt")
    run_graph(model, tmp_path / "g.pt")
    before = [(tmp_path / name).read_bytes() for name in ("s.pt", "g.pt")]
    monkeypatch.setattr(segmentation_stage, "optimisation_step", killer(lambda: None, 0))
    monkeypatch.setattr(graph_stage, "train_clip", killer(lambda: None, 0))
    other, other_model = tiny_model(1).segmentation, tiny_model(1)
    run_segmentation(other, tmp_path / "s.pt", resume=True)
    other_model.segmentation.load_state_dict(model.segmentation.state_dict())
    run_graph(other_model, tmp_path / "g.pt", resume=True)
    assert_same_weights(net, other)
    for name, value in model.named_parameters():
        if not name.startswith("segmentation."):
            assert torch.equal(value, other_model.get_parameter(name))
    assert [(tmp_path / name).read_bytes() for name in ("s.pt", "g.pt")] == before


def test_resume_refuses_what_does_not_fit(tmp_path):
    net, path = tiny_model(0).segmentation, tmp_path / "s.pt"
    run_segmentation(net, path)
    wider = checkpoints.build_model(dataclasses.replace(TINY, width=16)).segmentation
    with pytest.raises(InputError, match=r"s\.pt: made by another network configuration"):
        run_segmentation(wider, path, resume=True)
    with pytest.raises(InputError, match=r"s\.pt: not a graph checkpoint"):
        run_graph(tiny_model(0), path, resume=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"s\.pt: not a readable checkpoint"):
        run_segmentation(net, path, resume=True)


def test_training_is_reproducible_and_depends_on_the_seed(tmp_path):
    preset = dataclasses.replace(TINY, segmentation_steps=2)
    nets = []
    for seed in (2, 2, 3):
        net = tiny_model(0).segmentation
        run_segmentation(net, tmp_path / f"{len(nets)}.pt", preset, seed=seed)
        nets.append(net)
    assert_same_weights(nets[0], nets[1])
    assert not torch.equal(nets[0].mask_head.weight, nets[2].mask_head.weight)


def test_frames_in_memory_stay_as_they_are(tmp_path):
    videos = cached(list(tiny_videos()), 0.1)
    preset = dataclasses.replace(TINY, lucid=LucidConfig(size=32, dream_share=0.5), batch_size=12)
    before = [(video.image(t).copy(), video.labels(t).copy()) for video in videos for t in range(video.num_frames)]
    options = {"device": CPU}
    train_segmentation(tiny_model(0).segmentation, videos, preset, tmp_path / "s.pt", workers=0, **options)
    train_graph(tiny_model(0), videos, preset, tmp_path / "g.pt", **options)
    after = [(video.image(t), video.labels(t)) for video in videos for t in range(video.num_frames)]
    for (image, labels), (same_image, same_labels) in zip(before, after, strict=True):
        np.testing.assert_array_equal(image, same_image)
        np.testing.assert_array_equal(labels, same_labels)


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
    assert scores["without_q"] == 0
    assert scores["with_q"] == pytest.approx(200 / 3, abs=2)
    assert scores == evaluate_segmentation(Believer(), [Still()], TINY, every=5)


def test_no_crops_to_score():
    scores = evaluate_segmentation(Believer(), [], TINY)
    assert scores["crops"] == 0 and np.isnan(scores["with_q"])


def test_segmentation_stage_scores_crops(monkeypatch, tmp_path, capsys):
    make_tiny(monkeypatch)
    arguments = ("--stage", "segmentation", "--segmentation-steps", 2, "--workers", 0, "--out", tmp_path)
    assert command(monkeypatch, "train", *arguments) == 0
    scores = json.loads((tmp_path / "segmentation.json").read_text())
    assert scores["crops"] > 0 and 0 <= scores["without_q"] <= 100
    assert f"{scores['crops']} crops of test" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["segmentation", "detector"])
def test_coco_comes_first(monkeypatch, tmp_path, capsys, stage):
    make_tiny(monkeypatch)
    small = dataclasses.replace(
        TINY, coco_steps=3, detector_steps=2, detector_width=8, detector_size=32, detector_batch_size=1
    )
    monkeypatch.setitem(PRESETS, "synthetic-small", small)
    coco = make_root(tmp_path / "coco", [annotation(i, i, [polygon(4, 4, 20, 20)]) for i in range(2)])
    out = tmp_path / "out"
    run = ("train", "--stage", stage, "--segmentation-steps", 2, "--workers", 0, "--out", out)
    assert command(monkeypatch, *run, "--coco", tmp_path / "none") == 2
    assert "expected annotations/instances_train2017.json" in error_line(capsys)
    assert command(monkeypatch, *run, "--coco", coco) == 0
    first, second = (checkpoints.load(out / f"{stage}{phase}.pt", stage) for phase in ("_coco", ""))
    assert (first["step"], second["step"]) == (3, 2)
    weights = [name for name in second["net"] if name.endswith(("weight", "bias"))]
    average = "average" if stage == "segmentation" else "weights"
    distance = [(first[average][name] - second["net"][name]).abs().max().item() for name in weights]
    assert 0 < max(distance) < 1, "the second phase starts where the first one ended"
    before = (out / f"{stage}.pt").read_bytes()
    assert command(monkeypatch, *run, "--coco", coco, "--resume") == 0
    assert (out / f"{stage}.pt").read_bytes() == before
    (out / f"{stage}_coco.pt").unlink()
    assert command(monkeypatch, *run, "--coco", coco, "--resume") == 2
    assert "was not started from COCO" in error_line(capsys)


def test_paper_presets_take_weights(monkeypatch, tmp_path):
    made: list[Any] = []
    monkeypatch.setattr(train.Detector, "one_class", lambda weights: made.append(weights))
    paper = PRESETS["davis2016-paper"]
    for given, taken in ((None, "auto"), ("none", "none"), ("weights.pth", "weights.pth")):
        arguments = argparse.Namespace(weights=given, init=None, resume=False, out=tmp_path)
        train.build_detector(arguments, paper)
        assert made.pop() == taken


def test_clips_start_with_an_object():
    videos = tiny_videos()
    for seed in range(8):
        images, labels = draw_clip(videos, np.random.default_rng(seed), max_size=24)
        assert 2 <= len(images) == len(labels)
        assert labels[0].any()
        for image, label in zip(images, labels, strict=True):
            assert image.shape == (16, 24, 3) and label.shape == (16, 24)
            assert set(np.unique(label)) <= {0, 1, 2}


def test_the_second_phase_goes_on_from_the_first(monkeypatch, tmp_path):
    fine = LucidConfig(size=48, dream_share=0.5)
    make_tiny(monkeypatch)
    monkeypatch.setitem(
        PRESETS, "synthetic-small", dataclasses.replace(TINY, crop_size=48, fine_lucid=fine, fine_steps=3)
    )
    arguments = ("train", "--workers", 0, "--segmentation-steps", 4, "--graph-steps", 6, "--online-steps", 0)
    monkeypatch.setattr("experiments.train.command.score_table", lambda *_: None)
    out = tmp_path / "whole"
    assert command(monkeypatch, *arguments, "--out", out) == 0
    model, preset = checkpoints.load_model(out / "checkpoint.pt")
    assert preset.crop_size == preset.online_lucid.size == 48 and preset.online_lucid.dream_share == 0.3
    base, before = checkpoints.load_model(out / "checkpoint_base.pt")
    assert before.crop_size == before.online_lucid.size == 32
    first, second = (
        checkpoints.load(out / name, "segmentation") for name in ("segmentation.pt", "segmentation_fine.pt")
    )
    assert (first["step"], second["step"]) == (4, 3)
    for found, phase in ((base, first), (model, second)):
        expected = {name: v.half().float() if v.is_floating_point() else v for name, v in phase["average"].items()}
        assert_same_weights(found.segmentation, expected)
    assert not torch.equal(base.segmentation.mask_head.weight, model.segmentation.mask_head.weight)
    # The phases one by one, the second one stopped and resumed, come to the same end.
    out = tmp_path / "parts"
    assert command(monkeypatch, *arguments, "--out", out, "--stage", "segmentation", "--fine-steps", 0) == 0
    assert not (out / "segmentation_fine.pt").exists()
    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "SAVE_EVERY_SECONDS", -1.0)
        patch.setattr(segmentation_stage, "optimisation_step", killer(segmentation_stage.optimisation_step, 2))
        with pytest.raises(Killed):
            command(patch, *arguments, "--out", out, "--resume")
    assert command(monkeypatch, *arguments, "--out", out, "--resume") == 0
    assert (out / "checkpoint.pt").read_bytes() == (tmp_path / "whole" / "checkpoint.pt").read_bytes()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages, finished."""
    folder = tmp_path_factory.mktemp("begun")
    run_segmentation(tiny_model(0).segmentation, folder / "s.pt")
    run_graph(tiny_model(0), folder / "g.pt")
    return folder


def scaled(preset: Preset, **rates: float) -> Preset:
    return dataclasses.replace(preset, **{name: rate * getattr(preset, name) for name, rate in rates.items()})


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 3}, "seed"),
        ({"precision": torch.bfloat16}, "precision"),
        ({"origin": "others"}, "weights"),
        ({"preset": dataclasses.replace(TINY, name="other")}, "name"),
        ({"preset": dataclasses.replace(TINY, train_split="fit")}, "train_split"),
        ({"preset": dataclasses.replace(TINY, segmentation_steps=9, graph_steps=36)}, "steps"),
        ({"preset": dataclasses.replace(TINY, batch_size=2, graph_batch_size=3)}, "batch_size"),
        ({"preset": scaled(TINY, learning_rate=2, graph_learning_rate=2)}, "learning_rate"),
        ({"preset": dataclasses.replace(TINY, config=TINY.config.replace("spatial.conv", "mean"))}, "spatial.conv"),
    ],
)
def test_what_was_begun_with_other_options_is_refused(tmp_path, begun, changes, name):
    words = rf"\.pt: was begun with other settings \(.*{name}.*remove this file"
    for file, go_on, network in (
        ("s.pt", run_segmentation, tiny_model(0).segmentation),
        ("g.pt", run_graph, tiny_model(0)),
    ):
        shutil.copy(begun / file, tmp_path)
        if (file, name) == ("s.pt", "spatial.conv"):  # which the segmentation network knows nothing of
            go_on(network, tmp_path / file, resume=True, **changes)
        else:
            with pytest.raises(InputError, match=words):
                go_on(network, tmp_path / file, resume=True, **changes)
        assert (tmp_path / file).read_bytes() == (begun / file).read_bytes()
