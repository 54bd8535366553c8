"""The loop that all stages share: its log, its checkpoints, TensorBoard, and the options that it takes."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
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
)

from experiments.common import checkpoints
from experiments.train import board, trainer
from experiments.train import command as train
from experiments.train.board import rows_of
from experiments.train.trainer import Stage, Trainer, choose_precision
from stg_pyg.errors import InputError
from stg_pyg.nn.backbones.deeplab import DeepLabV3Plus


def fit(path: Path, steps: int, step: Any = lambda n: {"loss": float(n), "part": 2.0 * n}, **options: Any) -> Any:
    net = nn.Linear(2, 2)
    stage = Stage("segmentation", net, torch.optim.SGD(net.parameters()), steps, 0.5, 4, lambda *_: step, log_every=3)
    stage.picture = lambda _: torch.zeros(3, 4, 8)
    return Trainer(CPU, **options).fit(stage, [], TINY, path)


def test_log_and_states(tmp_path):
    log = fit(tmp_path / "a.pt", 7)
    assert log == [{"step": 3, "loss": 1.0, "part": 2.0}, {"step": 6, "loss": 4.0, "part": 8.0}]
    content = checkpoints.load(tmp_path / "a.pt", "segmentation")
    assert (content["step"], content["log"], content["recent"]) == (7, log, [{"loss": 6.0, "part": 12.0}])
    assert fit(tmp_path / "b.pt", 0) == [] and not (tmp_path / "b.pt").exists(), "nothing to do, nothing to save"


@pytest.mark.parametrize("killed_after", [1, 2, 3, 5])
def test_the_log_goes_on_in_the_middle_of_a_mean(monkeypatch, tmp_path, killed_after):
    whole = fit(tmp_path / "whole.pt", 8)
    monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", -1.0)
    with pytest.raises(Killed):
        fit(tmp_path / "a.pt", 8, killer(lambda n: {"loss": float(n), "part": 2.0 * n}, killed_after))
    assert checkpoints.load(tmp_path / "a.pt", "segmentation")["step"] == killed_after
    assert fit(tmp_path / "a.pt", 8, resume=True) == whole


def test_precision(monkeypatch):
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("experiments.common.cli.bfloat16_is_fast", lambda _, fast=fast: fast)
        assert choose_precision("auto", CPU) is expected
    assert choose_precision("bfloat16", CPU) is torch.bfloat16 and choose_precision("float32", CPU) is torch.float32
    assert choose_precision("float16", torch.device("cuda")) is torch.float16


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--precision", "float16", "--device", "cpu"), "--precision float16: needs a GPU"),
        (("--accumulate", 0), "--accumulate 0"),
        (("--graph-batch-size", 0), "--graph-batch-size 0"),
        (("--batch-size", 3, "--accumulate", 4, "--workers", 0), "batch of 3"),
        (("--graph-steps", 17, "--graph-batch-size", 3), "--graph-steps 17"),
        (("--val-split", "dev"), "dev"),
        (("--split", "dev"), "dev"),
        (("--seed", -1), "-1"),
        (("--segmentation-steps", -1), "-1"),
        (("--preset", "davis2015"), "'davis2015'"),
        (("--preset", "segtrack_v2"), "no videos to train on"),
        (("--preset", "davis2016"), "--root"),
        (("--preset", "davis2016", "--root", "nowhere"), "nowhere"),
        (("--stage", "graph"), "segmentation.pt"),
    ],
)
def test_arguments_are_checked_before_training(monkeypatch, capsys, tmp_path, arguments, named):
    make_tiny(monkeypatch)
    if "--batch-size" not in arguments:
        monkeypatch.setattr(train, "train_segmentation", lambda *_, **__: pytest.fail("training began"))
    assert command(monkeypatch, "train", "--out", tmp_path, *arguments) == 2
    assert named in error_line(capsys)


def test_threads(monkeypatch, tmp_path):
    make_tiny(monkeypatch)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(train, "train_stages", lambda *_: None)
    monkeypatch.setattr(train, "score_table", lambda *_: None)
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    for arguments in ((), ("--workers", 3), ("--workers", 9), ("--threads", 5)):
        assert command(monkeypatch, "train", "--out", tmp_path, *arguments) == 0
    assert taken == [7, 5, 1, 5]


def test_tensorboard_is_optional(monkeypatch, capsys, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        board.importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else find(name, *rest)
    )
    assert command(monkeypatch, "train", "--out", tmp_path, "--tensorboard") == 2
    assert "pip install tensorboard" in error_line(capsys)


def read(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return events


def test_curves_of_a_resumed_run_have_every_step_once(monkeypatch, tmp_path):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(trainer, "learning_rate", lambda *_: 0.5)
    for every, steps in ((120.0, 7), (-1.0, 8)):  # the first one is killed before anything is saved
        monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", every)
        with pytest.raises(Killed):
            step = killer(lambda n: {"loss": float(n), "part": 2.0 * n}, steps)
            fit(tmp_path / "a.pt", 13, step, tensorboard=tmp_path, resume=True)
    fit(tmp_path / "a.pt", 13, tensorboard=tmp_path, resume=True)
    events = read(tmp_path / "a")
    tags = events.Tags()
    assert set(tags["scalars"]) == {"loss", "part", "learning_rate", "samples_per_second"}
    for tag in tags["scalars"]:
        assert [event.step for event in events.Scalars(tag)] == [3, 6, 9, 12]
    assert [event.value for event in events.Scalars("loss")] == [1.0, 4.0, 7.0, 10.0]
    assert {event.value for event in events.Scalars("learning_rate")} == {0.5}
    assert all(event.value > 0 for event in events.Scalars("samples_per_second"))


def test_stages_show_pictures_which_change_nothing(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    for module in ("segmentation", "graph"):
        every = lambda *args, **kwargs: Stage(*args, **kwargs | {"log_every": 1})  # noqa: E731
        monkeypatch.setattr(f"experiments.train.stages.{module}.Stage", every)
    folder, model, other = tmp_path / "tensorboard", tiny_model(0), tiny_model(0)
    run_segmentation(model.segmentation, tmp_path / "segmentation.pt", tensorboard=folder)
    run_segmentation(other.segmentation, tmp_path / "other.pt")
    assert_same_weights(model, other)
    run_graph(model, tmp_path / "graph.pt", tensorboard=folder)
    assert sorted(path.name for path in folder.iterdir()) == ["graph", "segmentation"]
    for stage, size in (("segmentation", (4 * 32, 3 * 32)), ("graph", (4 * 48, 32))):
        (image,) = read(folder / stage).Images("image, Q, result, target")
        assert image.step == 1 and image.width == size[0] and image.height % size[1] == 0


def test_a_picture_of_the_network_that_learns_changes_nothing(tmp_path, monkeypatch):
    """The printed recipe has no averaged weights to draw with."""
    pytest.importorskip("tensorboard")
    every = lambda *args, **kwargs: Stage(*args, **kwargs | {"log_every": 1})  # noqa: E731
    monkeypatch.setattr("experiments.train.stages.segmentation.Stage", every)
    preset, nets = dataclasses.replace(TINY, recipe="printed"), []
    for folder in (tmp_path / "tensorboard", None):
        torch.manual_seed(0)
        nets.append(DeepLabV3Plus.small(4))
        run_segmentation(nets[-1], tmp_path / f"{folder is None}.pt", preset, tensorboard=folder)
    assert_same_weights(*nets)


def test_rows_of_a_picture():
    images, maps = torch.rand(9, 3, 4, 5), torch.rand(9, 4, 5)
    picture = rows_of(images, maps, 1 - maps)
    assert picture.shape == (3, 8 * 4, 3 * 5)
    assert torch.equal(picture[:, 4:8, :5], images[1])
    assert torch.equal(picture[0, 4:8, 5:10], maps[1]) and torch.equal(picture[2, 4:8, 10:], 1 - maps[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_is_stored(tmp_path, bad):
    def step(number: int) -> dict[str, float]:
        part = bad if number == 2 else 1.0
        return {"loss": part + 1, "part": part, "other": 1.0}

    with pytest.raises(InputError) as error:
        fit(tmp_path / "a.pt", 5, step)
    message = f"segmentation, step 3: the loss is not finite (part is {bad}); nothing of this step is"
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
