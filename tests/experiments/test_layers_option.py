"""The arguments --spatial-conv, --temporal-conv and --set, by which a model runs under another configuration."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from commands import command, error_line
from train_cases import TINY, make_tiny, masks_in

from experiments.common import checkpoints
from experiments.common.constants import check_weights, with_constants
from experiments.common.layers_option import check_layers, exchanged, with_layers
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


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("spatial.alpha=0.1", 0.1),
        ("spatial.alpha=1", 1),
        ("warping.gaps=1,2,4", (1, 2, 4)),
        ("warping.gaps=1,", (1,)),
        ("memory.frames=none", None),
        ("memory.frames=None", None),
        ("recovery.redetect=false", False),
        ("recovery.redetect=True", True),
        ("spatial.conv=GraphConv:aggr=mean", "GraphConv:aggr=mean"),
        ('temporal.update="paper"', "paper"),
        ("spatial.alpha", "no PATH=VALUE"),
        ("spatial.alhpa=0.1", "no constant spatial.alhpa; did you mean spatial.alpha"),
        ("spatial.alpha=much", "spatial.alpha = 'much' is no value"),
        ("warping.gaps=1", "warping.gaps = 1 is no value"),
        ("memory.cell=0", "memory.cell must be at least 1"),
    ],
)
def test_constants_as_they_are_written(change, value):
    path, config = change.partition("=")[0], STGConfig.small()
    if isinstance(value, str) and " " in value:
        with pytest.raises(InputError) as error:
            with_constants(config, [change])
        assert str(error.value).startswith(f"--set {change}: ") and value in str(error.value)
    else:
        assert with_constants(config, ["spatial.alpha=0.7", change]) == config.replace(
            {"spatial.alpha": 0.7, path: value}
        )


def test_names_go_into_the_configuration():
    assert with_layers(BASE, None, None) == BASE
    changed = with_layers(BASE, "gru", "joint")
    assert changed == BASE.replace({"spatial.conv": "gru", "temporal.conv": "joint"})
    for name in ("stg", "STG", "mask-propagation", "MaskPropagation"):
        config = with_layers(changed, name, None).replace("spatial.num_steps", 5)
        assert STGNet.untrained(config).spatial_conv.num_steps == 5, "its number of steps is the configuration's"
    for spatial, temporal, message in (
        ("nothing", None, "^--spatial-conv: unknown spatial layer 'nothing'; known names, the nearest first: "),
        (None, "nothing", "^--temporal-conv: unknown temporal layer 'nothing'; known names, the nearest first: "),
        ("SAGEConv", None, "^--spatial-conv: SAGEConv does not fit: "),
    ):
        with pytest.raises(InputError, match=message):
            with_layers(BASE, spatial, temporal)


@pytest.mark.parametrize("name", ["stg", "mean", "gru", "attention", "GraphConv", "GCNConv"])
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


def test_weights_of_other_layers_and_constants_are_none():
    ungated = STGNet.untrained(BASE.replace("temporal.update", "paper"))
    for name in ("memory_attention", "joint", "mean"):
        check_layers(STGNet.untrained(BASE), BASE.replace("temporal.conv", name), None)
        with pytest.raises(InputError, match=f"--temporal-conv {name}$"):  # whose gate is a weight
            check_layers(ungated, BASE.replace("temporal.conv", name), None)
    tag, cheb = (STGNet.untrained(BASE.replace("spatial.conv", name)) for name in ("TAGConv", "ChebConv:K=2"))
    assert set(cheb.spatial_conv.state_dict()) <= set(tag.spatial_conv.state_dict())
    with pytest.raises(InputError, match=r"ChebConv:K=2: x\.pt has no weights of this layer"):
        check_layers(tag, cheb.config, Path("x.pt"))
    check_layers(tag, BASE.replace("spatial.conv", "TAGConv:normalize=False"), Path("x.pt"))
    plain = BASE.without_learned_parts()
    model = checkpoints.build_model(TINY, plain)
    check_weights(model, TINY, plain.replace("spatial.alpha", 0.3), Path("c.pt"))
    with pytest.raises(InputError, match=r"^--set: c\.pt has no weights of node_gate"):
        check_weights(model, TINY, plain.replace("spatial.node_gate", True), Path("c.pt"))


def test_the_same_weights_run_under_other_constants():
    model = checkpoints.build_model(TINY)
    other = exchanged(model, TINY, TINY.config.replace({"spatial.alpha": 0.3, "spatial.node_gate": False}))
    assert other.config.spatial.alpha == 0.3 and other.node_gate is None and not other.training
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


def test_training_writes_the_layers_into_the_checkpoint(tiny, tmp_path, capsys):
    steps = ("--segmentation-steps", 2, "--online-steps", 0, "--workers", 0)
    layers = ("--spatial-conv", "attention", "--temporal-conv", "joint")
    assert command(tiny, "train", "--out", tmp_path, *steps, "--graph-steps", 0, *layers) == 2
    assert "--graph-steps 0: " in error_line(capsys), "a layer that has not seen a step is not stored"
    assert not (tmp_path / "checkpoint.pt").exists()
    assert command(tiny, "train", "--out", tmp_path, *steps, "--graph-steps", 6, *layers) == 0
    model, _ = checkpoints.load_model(tmp_path / "checkpoint.pt")
    assert (model.config.spatial.conv, model.config.temporal.conv) == ("attention", "joint")
    assert metrics_in(tmp_path)["config"]["spatial"]["conv"] == "attention"
    assert str(model.spatial_conv).startswith("AttentionPropagation")
    assert str(model.memory_attention).startswith("JointMemoryAttention")
    evaluate = ("--checkpoint", tmp_path / "checkpoint.pt", "--processes", 1, "--out", tmp_path / "again")
    assert command(tiny, "evaluate", *evaluate) == 0
    assert masks_in(tmp_path / "again") == masks_in(tmp_path / "temporal")


def test_evaluation_with_other_layers(tiny, tmp_path, checkpoint):
    done, run_row = [], scoring.run_row

    def counted(job, row, video, model, oracle):
        done.append((type(model.spatial_conv).__name__, type(model.memory_attention).__name__))
        return run_row(job, row, video, model, oracle)

    tiny.setattr(scoring, "run_row", counted)
    for layers, names in {
        ("stg", "memory_attention"): ("MaskPropagation", "MemoryAttention"),
        ("mean", "joint"): ("MeanPropagation", "JointMemoryAttention"),
    }.items():
        arguments = ("--spatial-conv", layers[0], "--temporal-conv", layers[1], "--processes", 1)
        for count in (2, 0):  # of two runs with the same layers the second finds both videos done
            done.clear()
            assert command(tiny, "evaluate", "--checkpoint", checkpoint, "--out", tmp_path, *arguments) == 0
            assert done == count * [names]
        config = metrics_in(tmp_path)["config"]
        assert (config["spatial"]["conv"], config["temporal"]["conv"]) == layers


def test_what_commands_refuse(tiny, capsys, tmp_path, checkpoint):
    def line(name: str, *arguments: object) -> str:
        assert command(tiny, name, "--out", tmp_path / "out", *arguments) == 2
        return error_line(capsys)

    assert line("evaluate", "--checkpoint", checkpoint, "--spatial-conv", "gru") == (
        f"error: --spatial-conv gru: {checkpoint} has no weights of this layer; "
        "train it with python -m experiments.train --spatial-conv gru"
    )
    proposals = ("--preset", "synthetic-small", "--proposals", tmp_path / "none.json")
    assert "gru: without --checkpoint there are no weights" in line("evaluate", *proposals, "--spatial-conv", "gru")
    temporal = line("evaluate", *proposals, "--temporal-conv", "joint")
    assert "--temporal-conv: there is no temporal graph without --checkpoint" in temporal
    for option in ("--spatial-conv", "--temporal-conv"):
        assert "layer 'nothing'; known names, the nearest first: " in line("train", option, "nothing")


def test_checkpoints_without_the_field_have_the_layer_of_the_paper(tiny, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    del content["config"]["temporal"]["conv"], content["config"]["memory"]["dtype"]
    torch.save(content, tmp_path / "old.pt")
    model, _ = checkpoints.load_model(tmp_path / "old.pt")
    assert model.config == STGConfig.from_dict(content["config"]) == BASE
    assert str(model.memory_attention).startswith("MemoryAttention")
