"""Every preset from training to scores on a tiny copy of its data set.

The networks of the paper presets are replaced by smaller ones of the same code, as ResNet-101 takes minutes here.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from commands import command
from train_cases import InProcess

from datasets.fixtures import write_fixture
from experiments.common import checkpoints
from experiments.common.presets import PRESETS, Preset
from experiments.runs import scoring
from experiments.runs.rows import table_rows
from experiments.train import command as train
from stg_pyg import STGConfig, STGNet
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.backbones.deeplab import DeepLabV3Plus
from stg_pyg.nn.backbones.encoders import KeyEncoder, ProposalEncoder, ResNetBackbone

REAL = [name for name in PRESETS if not name.startswith("synthetic")]
TRAINABLE = [name for name in REAL if not PRESETS[name].test_only]
TEST_ONLY = [name for name in REAL if PRESETS[name].test_only]


def reduced(name: str) -> Preset:
    """The preset with crops, batches and steps of a test."""
    preset = PRESETS[name]
    steps = min(preset.config.online.steps, 1)
    config = preset.config.replace({"temporal.key_size": 32, "online.steps": steps, "online.batch": 2})
    changes = {"config": config, "crop_size": 32, "lucid": LucidConfig(size=32), "batch_size": 2, "width": 8}
    if preset.fine is not None:
        changes |= {"fine_lucid": LucidConfig(size=32, dream_share=0.5), "fine_steps": 2}
    return dataclasses.replace(preset, segmentation_steps=2, graph_steps=6, **changes)


def light_paper(config=None, features=None, keys=None, segmentation=None, grid=None, backbone=None) -> STGNet:
    model = STGNet(
        config or STGConfig.paper(),
        ProposalEncoder(ResNetBackbone("resnet18", 5, features), mode="roi", pool="avg", size=16),
        KeyEncoder(ResNetBackbone("resnet18", 4, keys), grid=8),
        None if segmentation is None else DeepLabV3Plus.small(8),
    )
    model.made_of = {"name": "paper", "grid": grid, "backbone": backbone}
    return model


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    for name in REAL:
        monkeypatch.setitem(PRESETS, name, reduced(name))
    monkeypatch.setattr(STGNet, "paper", light_paper)
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(
        train, "table_rows", lambda config: [row for row in table_rows(config) if row.name == "temporal"]
    )


def data_of(name: str, folder: Path) -> Path:
    dataset = PRESETS[name].dataset
    return write_fixture("davis2016" if dataset == "composed" else dataset, folder, size=(48, 64))


@pytest.mark.parametrize("name", TRAINABLE)
def test_from_training_to_scores(name, monkeypatch, tmp_path):
    root, out = data_of(name, tmp_path / "data"), tmp_path / "run"
    splits = ("--val-split", "train") if PRESETS[name].dataset in ("composed", "youtube_vos") else ()
    arguments = ("--preset", name, "--root", root, "--out", out, "--workers", 0, "--weights", "none", *splits)
    arguments += ("--proposals", "none")  # those of a detector: test_paper_pipeline
    assert command(monkeypatch, "train", *arguments) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["sequences"] and 0 <= metrics["G"] <= 100
    assert metrics["config"]["selection"]["thr"] == PRESETS[name].config.selection.thr


@pytest.mark.parametrize("name", TEST_ONLY)
def test_a_model_from_elsewhere_is_scored(name, monkeypatch, tmp_path):
    size = PRESETS[name].size
    origin = PRESETS[f"davis2017-{size}"]
    checkpoints.save_model(tmp_path / "c.pt", checkpoints.build_model(origin), origin, seed=0)
    root, out = data_of(name, tmp_path / "data"), tmp_path / "run"
    arguments = (
        "--preset",
        name,
        "--root",
        root,
        "--checkpoint",
        tmp_path / "c.pt",
        "--out",
        out,
        "--proposals",
        "none",
    )
    assert command(monkeypatch, "evaluate", *arguments) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["protocol"]["objects"] > 0
    assert metrics["config"]["spatial"]["alpha"] == 0.1
    assert command(monkeypatch, "train", "--preset", name, "--root", root, "--out", tmp_path / "train") == 2


def test_a_second_training_starts_from_the_first(monkeypatch, tmp_path):
    """Pre-training on YouTube-VOS, then DAVIS, from configuration alone."""
    name = "davis2017-small"
    first = PRESETS["youtube_vos-small"]
    model = checkpoints.build_model(first)
    checkpoints.save_model(tmp_path / "c.pt", model, first, seed=0)
    started = []

    def note(net, *args, **options):
        started.append({key: value.clone() for key, value in net.state_dict().items()})
        return []

    monkeypatch.setattr(train, "train_segmentation", note)
    monkeypatch.setattr(train, "score_segmentation", lambda *_: None)
    root = data_of(name, tmp_path / "data")
    arguments = ("--preset", name, "--root", root, "--out", tmp_path / "run", "--stage", "segmentation", "--workers", 0)
    assert command(monkeypatch, "train", *arguments, "--init", tmp_path / "c.pt") == 0
    state = started[0]  # what the first of the two phases starts from
    for key, value in model.segmentation.state_dict().items():
        assert torch.equal(state[key], value.half().float() if value.is_floating_point() else value), key
    paper = ("--preset", "davis2017-paper", "--root", root, "--out", tmp_path / "other", "--init", tmp_path / "c.pt")
    assert command(monkeypatch, "train", *paper, "--workers", 0) == 2
