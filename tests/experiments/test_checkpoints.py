import dataclasses
import os
import pickle
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


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A small model, written once."""
    path = tmp_path_factory.mktemp("model") / "checkpoint.pt"
    torch.manual_seed(1)
    config = PRESET.config.replace({"spatial.num_steps": 3, "warping.gaps": (1, 3), "online.steps": 7})
    checkpoints.save_model(path, checkpoints.build_model(PRESET, config), dataclasses.replace(PRESET, config=config), 5)
    return path


def refused(path: Path, kind: str = "graph") -> str:
    with pytest.raises(InputError) as error:
        checkpoints.load(path, kind)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{path}: ")
    return str(error.value)


def rewrite(path: Path, target: Path, **changes: object) -> Path:
    torch.save({**torch.load(path, weights_only=True), **changes}, target)
    return target


def test_round_trip(tmp_path):
    path = tmp_path / "graph.pt"
    checkpoints.save(path, CONTENT)
    content = checkpoints.load(path, "graph")
    assert (content["step"], content["log"]) == (3, CONTENT["log"])
    assert torch.equal(content["state"]["w"], CONTENT["state"]["w"])
    assert os.listdir(tmp_path) == ["graph.pt"]
    checkpoints.save(path, {**CONTENT, "step": 4})
    assert checkpoints.load(path, "graph")["step"] == 4
    assert os.listdir(tmp_path) == ["graph.pt"]


def test_missing_and_damaged_files(tmp_path):
    path = tmp_path / "graph.pt"
    assert "no such checkpoint" in refused(path) and "experiments.train" in refused(path)
    assert "no such checkpoint" in refused(tmp_path)
    path.write_bytes(b"")
    assert "not a readable checkpoint" in refused(path)
    path.write_bytes(b"anything but a checkpoint")
    assert "not a readable checkpoint" in refused(path)
    checkpoints.save(path, CONTENT)
    path.write_bytes(path.read_bytes()[:-200])
    assert "not a readable checkpoint" in refused(path)


def test_another_kind_or_version(tmp_path):
    path = tmp_path / "graph.pt"
    checkpoints.save(path, CONTENT)
    assert "not a segmentation checkpoint" in refused(path, "segmentation")
    torch.save({**CONTENT, "format": "stg_pyg-0"}, path)
    assert FORMAT in refused(path)
    torch.save(CONTENT["state"], path)
    assert "not a graph checkpoint" in refused(path)
    torch.save(torch.zeros(3), path)
    assert "not a graph checkpoint" in refused(path)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_loading_runs_no_code(tmp_path):
    path, sprung = tmp_path / "graph.pt", tmp_path / "sprung"
    torch.save({**CONTENT, "format": FORMAT, "trap": Trap(sprung)}, path)
    refused(path)
    path.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    refused(path)
    assert not sprung.exists()


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "graph.pt"
    checkpoints.save(path, CONTENT)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for broken in ("pathlib.Path.write_bytes", "os.replace"):
        with monkeypatch.context() as patch, pytest.raises(InputError) as error:
            patch.setattr(broken, fail)
            checkpoints.save(path, {**CONTENT, "step": 9})
        assert str(path) in str(error.value) and "No space left" in str(error.value)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        checkpoints.save(path, {**CONTENT, "step": 9})
    assert os.listdir(tmp_path) == ["graph.pt"]
    assert path.read_bytes() == before


def test_a_full_disk_is_bad_input(tmp_path):
    path = tmp_path / "graph.pt"
    checkpoints.save(path, CONTENT)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        with pytest.raises(InputError, match=r"graph\.pt: cannot be written"):
            checkpoints.save(path, {"kind": "graph", "state": {"w": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert os.listdir(tmp_path) == ["graph.pt"]
        assert path.read_bytes() == before


def test_a_missing_folder_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"cannot be written"):
        checkpoints.save(tmp_path / "none" / "graph.pt", CONTENT)


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
        with pytest.raises(InputError) as error:
            checkpoints.load_weights(net, wrong, path)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


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


def test_models_that_do_not_fit(stored, tmp_path):
    state = torch.load(stored, weights_only=True)["model"]
    name = next(iter(state))
    nan = {**state, name: torch.full_like(state[name], float("nan"))}
    for model, words in ((nan, "not finite"), ({}, "another network configuration")):
        path = rewrite(stored, tmp_path / "checkpoint.pt", model=model)
        with pytest.raises(InputError) as error:
            checkpoints.load_model(path)
        assert str(error.value).startswith(f"{path}: ") and words in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"preset": "of-the-future"}, id="preset"),
        pytest.param({"config": {**STGConfig.small().to_dict(), "of_the_future": {"x": 1}}}, id="part"),
        pytest.param({"config": {"spatial": {"of_the_future": 1}}}, id="constant"),
        pytest.param({"config": {"alpha": 0.1}}, id="flat"),
        pytest.param({"config": 3}, id="no configuration"),
        pytest.param({"network": {"name": "of-the-future"}}, id="network"),
        pytest.param({"network": {"name": "small", "of_the_future": 1}}, id="option of the network"),
        pytest.param({"crop_size": None}, id="crop size"),
    ],
)
def test_models_of_another_version(stored, tmp_path, changes):
    path = rewrite(stored, tmp_path / "checkpoint.pt", **changes)
    with pytest.raises(InputError) as error:
        checkpoints.load_model(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{path}: ")
