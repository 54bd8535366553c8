import dataclasses
import os
import pickle
import re
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.common import checkpoints
from experiments.common.presets import PRESETS
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.model.checkpoint import FORMAT

PRESET = dataclasses.replace(PRESETS["synthetic-small"], backbone=None, width=16)
CONTENT = {"kind": "graph", "step": 3, "log": [{"loss": 0.5}], "state": {"w": torch.arange(6.0).view(2, 3)}}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A small model, written once."""
    path = tmp_path_factory.mktemp("model") / "checkpoint.pt"
    torch.manual_seed(1)
    config = PRESET.config.replace({"spatial.num_steps": 3, "warping.gaps": (1, 3), "online.steps": 7})
    checkpoints.save_model(path, checkpoints.build_model(PRESET, config), dataclasses.replace(PRESET, config=config), 5)
    return path


def refused(load, *arguments) -> str:
    with pytest.raises(InputError) as error:
        load(*arguments)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{arguments[-2]}: ")
    return str(error.value)


def test_round_trip(tmp_path):
    path = tmp_path / "graph.pt"
    for step in (3, 4):
        checkpoints.save(path, {**CONTENT, "step": step})
        content = checkpoints.load(path, "graph")
        assert (content["step"], content["log"]) == (step, CONTENT["log"])
        assert torch.equal(content["state"]["w"], CONTENT["state"]["w"])
        assert os.listdir(tmp_path) == ["graph.pt"]


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_what_is_no_checkpoint_of_that_kind(tmp_path):
    path, sprung = tmp_path / "graph.pt", tmp_path / "sprung"
    for missing in (path, tmp_path):
        message = refused(checkpoints.load, missing, "graph")
        assert "no such checkpoint" in message and "experiments.train" in message
    checkpoints.save(path, CONTENT)
    assert "not a segmentation checkpoint" in refused(checkpoints.load, path, "segmentation")
    whole = path.read_bytes()
    for broken in (b"", b"anything but a checkpoint", whole[:-200], pickle.dumps(Trap(sprung), protocol=2)):
        path.write_bytes(broken)
        assert "not a readable checkpoint" in refused(checkpoints.load, path, "graph")
    for content in ({**CONTENT, "format": "stg_pyg-0"}, CONTENT["state"], torch.zeros(3)):
        torch.save(content, path)
        message = refused(checkpoints.load, path, "graph")
        assert "not a graph checkpoint" in message and FORMAT in message
    torch.save({**CONTENT, "format": FORMAT, "trap": Trap(sprung)}, path)
    refused(checkpoints.load, path, "graph")
    assert not sprung.exists(), "loading runs no code"


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path, large = tmp_path / "graph.pt", {"kind": "graph", "state": {"w": torch.zeros(100_000)}}
    checkpoints.save(path, CONTENT)
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        with pytest.raises(InputError, match=r"graph\.pt: cannot be written"):
            checkpoints.save(path, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for stop, expected in ((OSError(28, "full"), InputError), (KeyboardInterrupt(), KeyboardInterrupt)):
        with monkeypatch.context() as patch, pytest.raises(expected):
            patch.setattr("os.replace", lambda *_, stop=stop: (_ for _ in ()).throw(stop))
            checkpoints.save(path, large)
    assert os.listdir(tmp_path) == ["graph.pt"] and path.read_bytes() == before


def test_load_weights(tmp_path):
    path = tmp_path / "x.pt"
    net, other = nn.Linear(2, 3), nn.Linear(2, 3)
    checkpoints.load_weights(net, other.state_dict(), path)
    assert torch.equal(net.weight, other.weight)
    for value in (float("nan"), float("inf")):
        bad = {name: v.clone() for name, v in other.state_dict().items()}
        bad["bias"][1] = value
        with pytest.raises(InputError, match=r"x\.pt: bias has values that are not finite; take an earlier"):
            checkpoints.load_weights(net, bad, path)
    for wrong in (nn.Linear(2, 4).state_dict(), {"weight": net.weight}, {**net.state_dict(), "w": torch.zeros(1)}):
        with pytest.raises(InputError, match=r"^[^\n]*x\.pt: "):
            checkpoints.load_weights(net, wrong, path)


def test_models_come_back_as_they_were(stored):
    model, preset = checkpoints.load_model(stored)
    assert preset.name == "synthetic-small" and not model.training
    assert (model.config.spatial.num_steps, model.config.warping.gaps, model.config.online.steps) == (3, (1, 3), 7)
    assert model.memory_attention.update_rule == model.config.temporal.update
    torch.manual_seed(1)
    fresh = checkpoints.build_model(PRESET, model.config).state_dict()
    state = model.state_dict()
    assert state.keys() == fresh.keys()
    for name, value in state.items():
        assert value.dtype == fresh[name].dtype
        torch.testing.assert_close(value, fresh[name], rtol=1e-3, atol=1e-6)
        if value.is_floating_point():
            assert torch.equal(value, fresh[name].half().float()), "weights are stored in half precision"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": lambda state: {name: value * float("nan") for name, value in state.items()}}, "not finite"),
        ({"model": lambda state: {**state, next(iter(state)): "text"}}, "has no weights"),
        ({"model": lambda state: {}}, "another network configuration"),
        ({"model": None}, "has no"),
        ({"format": "stg_pyg-0"}, "of this version"),
        ({"kind": "graph"}, "not a model checkpoint"),
        ({"preset": Path("code")}, "not a readable checkpoint"),
        ({"preset": "of-the-future"}, "of-the-future"),
        ({"preset": None}, ""),
        ({"config": {**STGConfig.small().to_dict(), "of_the_future": {"x": 1}}}, "of_the_future"),
        ({"config": {"spatial": {"of_the_future": 1}}}, "spatial.of_the_future"),
        ({"config": {"temporal": {"key_size": "large"}}}, "temporal.key_size"),
        ({"config": {"alpha": 0.1}}, "of another version"),
        ({"config": 3}, ""),
        ({"network": {"name": "of-the-future"}}, ""),
        ({"network": {"name": "small", "of_the_future": 1}}, ""),
        ({"crop_size": None}, ""),
    ],
)
def test_models_of_another_version(stored, tmp_path, changes, words):
    path, content = tmp_path / "checkpoint.pt", torch.load(stored, weights_only=True)
    for name, value in changes.items():
        content[name] = value(content[name]) if callable(value) else value
    torch.save(content, path)
    with pytest.raises(InputError) as error:
        checkpoints.load_model(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{path}: ") and words in str(error.value)


def test_the_shipped_weights():
    """A small checkpoint of this version of the preset, which travels with the package under a licence of its own."""
    assert checkpoints.SHIPPED.stat().st_size < 12e6
    model, preset = checkpoints.load_model(checkpoints.SHIPPED)
    expected = PRESETS["davis2016-small"]
    assert (preset.name, preset.crop_size) == (expected.name, expected.crop_size)
    assert model.config == expected.config
    assert model.segmentation is not None and not model.training
    project, folder = (ROOT / "pyproject.toml").read_text(), ROOT / "stg_pyg/weights"
    assert checkpoints.SHIPPED.parent == folder and not checkpoints.SHIPPED.is_symlink()
    assert re.search(r'^stg_pyg = \[.*"weights/\*".*\]$', project, re.MULTILINE)
    assert re.search(r'^license-files = \[.*"stg_pyg/weights/LICENSE".*\]$', project, re.MULTILINE)
    for text in ((folder / "README.md").read_text(), (folder / "LICENSE").read_text()):
        assert "CC BY-NC 4.0" in text and checkpoints.SHIPPED.name in text
