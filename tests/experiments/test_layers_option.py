import dataclasses
import json
from pathlib import Path

import pytest
import torch
from commands import command, error_line
from train_cases import TINY, make_tiny, masks_in

from experiments.common import checkpoints
from experiments.common.layers_option import check_layers, with_layers
from experiments.runs import scoring
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.model.stgnet import STGNet

BASE = TINY.config.replace("online.steps", 0)


@pytest.fixture
def tiny(monkeypatch):
    make_tiny(monkeypatch)
    return monkeypatch


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the paper's layers."""
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    torch.manual_seed(0)
    preset = dataclasses.replace(TINY, config=BASE)
    checkpoints.save_model(path, checkpoints.build_model(preset), preset, 0)
    return path


def metrics_in(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_names_go_into_the_configuration():
    assert with_layers(BASE, None, None) == BASE
    changed = with_layers(BASE, "gru", "joint")
    assert changed == BASE.replace({"spatial.conv": "gru", "temporal.conv": "joint"})
    for name in ("stg", "STG", "mask-propagation", "MaskPropagation"):
        steps = STGNet.untrained(
            with_layers(changed, name, None).replace("spatial.num_steps", 5)
        ).spatial_conv.num_steps
        assert steps == 5, "its number of steps is the configuration's"
    for spatial, temporal, message in (
        ("nothing", None, "^--spatial-conv: unknown spatial layer 'nothing'; known names, the nearest first: "),
        (None, "nothing", "^--temporal-conv: unknown temporal layer 'nothing'; known names, the nearest first: "),
        ("SAGEConv", None, "^--spatial-conv: SAGEConv does not fit: "),
    ):
        with pytest.raises(InputError, match=message):
            with_layers(BASE, spatial, temporal)


@pytest.mark.parametrize("name", ["stg", "symmetric", "mean", "gru", "edge_mlp", "attention", "GraphConv", "GCNConv"])
def test_only_layers_whose_weights_are_there_pass(name):
    plain, own = STGNet.untrained(BASE), STGNet.untrained(BASE.replace("spatial.conv", name))
    check_layers(own, own.config, None)
    check_layers(plain, own.config.replace("spatial.enabled", False), None)
    if not list(own.spatial_conv.parameters()):
        return check_layers(plain, own.config, None)
    with pytest.raises(InputError, match=f"^--spatial-conv {name}: x.pt has no weights of this layer; train it with "):
        check_layers(plain, own.config, Path("x.pt"))
    other = STGNet.untrained(BASE.replace("spatial.conv", "LEConv"))
    with pytest.raises(InputError, match=f"^--spatial-conv {name}: without --checkpoint there are no weights"):
        check_layers(other, own.config, None)


def test_the_gate_of_the_temporal_layer_is_a_weight():
    ungated = STGNet.untrained(BASE.replace("temporal.update", "paper"))
    for name in ("memory_attention", "joint", "mean"):
        check_layers(STGNet.untrained(BASE), BASE.replace("temporal.conv", name), None)
        with pytest.raises(InputError, match=f"--temporal-conv {name}$"):
            check_layers(ungated, BASE.replace("temporal.conv", name), None)


def test_training_writes_the_layers_into_the_checkpoint(tiny, tmp_path):
    layers = ("--spatial-conv", "attention", "--temporal-conv", "joint")
    steps = ("--segmentation-steps", 2, "--graph-steps", 6, "--online-steps", 0, "--workers", 0)
    assert command(tiny, "train", "--out", tmp_path, *steps, *layers) == 0
    model, _ = checkpoints.load_model(tmp_path / "checkpoint.pt")
    assert (model.config.spatial.conv, model.config.temporal.conv) == ("attention", "joint")
    assert metrics_in(tmp_path)["config"]["spatial"]["conv"] == "attention"
    assert str(model.spatial_conv).startswith("AttentionPropagation")
    assert str(model.memory_attention).startswith("JointMemoryAttention")
    evaluate = ("--checkpoint", tmp_path / "checkpoint.pt", "--processes", 1, "--out", tmp_path / "again")
    assert command(tiny, "evaluate", *evaluate) == 0
    assert masks_in(tmp_path / "again") == masks_in(tmp_path / "temporal")


def test_a_layer_that_has_not_seen_a_step_is_not_stored(tiny, tmp_path, capsys):
    steps = ("--segmentation-steps", 2, "--graph-steps", 0, "--online-steps", 0, "--workers", 0)
    assert command(tiny, "train", "--out", tmp_path, *steps, "--spatial-conv", "attention") == 2
    assert "--graph-steps 0: " in error_line(capsys) and not (tmp_path / "checkpoint.pt").exists()
    assert command(tiny, "train", "--out", tmp_path, *steps, "--spatial-conv", "mean") == 0
    assert (tmp_path / "checkpoint.pt").is_file()


def test_evaluation_with_other_layers(tiny, tmp_path, checkpoint):
    out, done = tmp_path / "out", []
    run_row = scoring.run_row

    def counted(job, row, video, model, oracle):
        done.append((type(model.spatial_conv).__name__, type(model.memory_attention).__name__))
        return run_row(job, row, video, model, oracle)

    tiny.setattr(scoring, "run_row", counted)
    base = ("--checkpoint", checkpoint, "--processes", 1, "--out", out)
    classes = {
        ("stg", "memory_attention"): ("MaskPropagation", "MemoryAttention"),
        ("mean", "memory_attention"): ("MeanPropagation", "MemoryAttention"),
        ("stg", "joint"): ("MaskPropagation", "JointMemoryAttention"),
    }
    for layers, names in classes.items():
        arguments = ("--spatial-conv", layers[0], "--temporal-conv", layers[1])
        for count in (2, 0):  # of two runs with the same layers the second finds both videos done
            done.clear()
            assert command(tiny, "evaluate", *base, *arguments) == 0
            assert done == count * [names]
        config = metrics_in(out)["config"]
        assert (config["spatial"]["conv"], config["temporal"]["conv"]) == layers
    done.clear()
    assert command(tiny, "evaluate", *base) == 0
    assert done == 2 * [classes["stg", "memory_attention"]]


def test_what_evaluation_refuses(tiny, capsys, tmp_path, checkpoint):
    def line(*arguments: object) -> str:
        assert command(tiny, "evaluate", "--checkpoint", checkpoint, "--out", tmp_path, *arguments) == 2
        return error_line(capsys)

    assert line("--spatial-conv", "gru") == (
        f"error: --spatial-conv gru: {checkpoint} has no weights of this layer; "
        "train it with python -m experiments.train --spatial-conv gru"
    )
    assert "unknown temporal layer 'gru'; known names, the nearest first: " in line("--temporal-conv", "gru")
    assert "unknown spatial layer 'joint'; known names, the nearest first: " in line("--spatial-conv", "joint")


def test_without_a_checkpoint_nothing_learned_takes_part(tiny, capsys, tmp_path):
    proposals = ("--preset", "synthetic-small", "--proposals", tmp_path / "none.json", "--out", tmp_path)
    assert command(tiny, "evaluate", *proposals, "--spatial-conv", "gru") == 2
    assert "--spatial-conv gru: without --checkpoint there are no weights of this layer" in error_line(capsys)
    assert command(tiny, "evaluate", *proposals, "--temporal-conv", "joint") == 2
    assert "--temporal-conv: there is no temporal graph without --checkpoint" in error_line(capsys)


@pytest.mark.parametrize("option", ["--spatial-conv", "--temporal-conv"])
def test_training_refuses_unknown_names(tiny, capsys, tmp_path, option):
    assert command(tiny, "train", "--out", tmp_path / "out", option, "nothing") == 2
    assert "layer 'nothing'; known names, the nearest first: " in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_checkpoints_without_the_field_have_the_layer_of_the_paper(tiny, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    del content["config"]["temporal"]["conv"], content["config"]["memory"]["dtype"]
    torch.save(content, tmp_path / "old.pt")
    model, _ = checkpoints.load_model(tmp_path / "old.pt")
    assert model.config == STGConfig.from_dict(content["config"]) == BASE
    assert str(model.memory_attention).startswith("MemoryAttention")


def test_weights_of_another_convolution_are_none():
    tag, cheb = (STGNet.untrained(BASE.replace("spatial.conv", name)) for name in ("TAGConv", "ChebConv:K=2"))
    assert set(cheb.spatial_conv.state_dict()) <= set(tag.spatial_conv.state_dict())
    with pytest.raises(InputError, match=r"ChebConv:K=2: x\.pt has no weights of this layer"):
        check_layers(tag, cheb.config, Path("x.pt"))
    check_layers(tag, BASE.replace("spatial.conv", "TAGConv:normalize=False"), Path("x.pt"))
