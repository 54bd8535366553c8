import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import command, error_line
from torch import nn
from train_cases import Killed, killer, make_tiny, run_graph, run_segmentation, tiny_model

from experiments.train import board, trainer
from experiments.train import command as train
from experiments.train import trainer as training_loop
from experiments.train.board import Board, rows_of
from experiments.train.trainer import History, choose_precision, run_steps
from stg_pyg.errors import InputError

CPU = torch.device("cpu")


def losses(number: int) -> dict[str, float]:
    return {"loss": float(number), "part": 2.0 * number}


def run(history: History, first: int, stop: int, saved: list[Any], **options: Any) -> list[dict[str, float]]:
    def save(step: int) -> None:
        saved.append((step, [dict(e) for e in history.log], [dict(e) for e in history.recent]))

    return run_steps("test", range(first, stop), options.pop("step", losses), save, history, log_every=3, **options)


def test_log_and_states():
    saved: list[Any] = []
    log = run(History(), 0, 7, saved)
    assert log == [{"step": 3, "loss": 1.0, "part": 2.0}, {"step": 6, "loss": 4.0, "part": 8.0}]
    assert saved == [(7, log, [{"loss": 6.0, "part": 12.0}])]
    assert run(History(), 5, 5, saved) == [] and len(saved) == 1, "nothing to do, nothing to save"


@pytest.mark.parametrize("killed_after", [1, 2, 3, 5])
def test_the_log_goes_on_in_the_middle_of_a_mean(monkeypatch, killed_after):
    whole = run(History(), 0, 8, [])
    monkeypatch.setattr(training_loop, "SAVE_EVERY_SECONDS", -1.0)
    saved: list[Any] = []
    with pytest.raises(Killed):
        run(
            History(),
            0,
            8,
            saved,
            step=killer(lambda number: {"loss": float(number), "part": 2.0 * number}, killed_after),
        )
    step, log, recent = saved[-1]
    assert step == killed_after
    assert run(History.of({"log": log, "recent": recent}), step, 8, []) == whole


def test_checkpoints_without_the_latest_losses():
    assert History.of({"log": [{"step": 3, "loss": 1.0}]}).state() == {"log": [{"step": 3, "loss": 1.0}], "recent": []}


def test_precision(monkeypatch):
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("experiments.common.cli.bfloat16_is_fast", lambda _, fast=fast: fast)
        assert choose_precision("auto", CPU) is expected
    assert choose_precision("bfloat16", CPU) is torch.bfloat16
    assert choose_precision("float32", CPU) is torch.float32
    assert choose_precision("float16", torch.device("cuda")) is torch.float16
    with pytest.raises(InputError, match="needs a GPU"):
        choose_precision("float16", CPU)


def test_arguments(monkeypatch, capsys, tmp_path):
    make_tiny(monkeypatch)
    for arguments in (("--precision", "float16", "--device", "cpu"), ("--accumulate", 0), ("--graph-batch-size", 0)):
        assert command(monkeypatch, "train", "--out", tmp_path, *arguments) == 2
        assert str(arguments[0]) in error_line(capsys)
    few = ("--batch-size", 3, "--accumulate", 4, "--workers", 0)
    assert command(monkeypatch, "train", "--out", tmp_path, *few) == 2
    assert "batch of 3" in error_line(capsys)
    assert command(monkeypatch, "train", "--out", tmp_path, "--graph-steps", 17, "--graph-batch-size", 3) == 2
    assert "--graph-steps 17" in error_line(capsys)


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


def test_curves_of_a_resumed_run_have_every_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.5)
    for first, stop in ((0, 9), (4, 8), (6, 13)):
        history = History(recent=[{"loss": 3.0, "part": 6.0}] * (first % 3))
        run(history, first, stop, [], board=Board(tmp_path, first, 4, optimizer, lambda: torch.zeros(3, 4, 8)))
    events = read(tmp_path)
    tags = events.Tags()
    assert set(tags["scalars"]) == {"loss", "part", "learning_rate", "samples_per_second"}
    for tag in tags["scalars"]:
        assert [event.step for event in events.Scalars(tag)] == [3, 6, 9, 12]
    assert [event.value for event in events.Scalars("loss")] == [1.0, 4.0, 7.0, 10.0]
    assert {event.value for event in events.Scalars("learning_rate")} == {0.5}
    assert all(event.value > 0 for event in events.Scalars("samples_per_second"))


def test_stages_show_pictures(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(trainer, "run_steps", functools.partial(run_every_step, trainer.run_steps))
    folder = tmp_path / "tensorboard"
    model = tiny_model(0)
    with_board = {name: value.clone() for name, value in model.state_dict().items()}
    run_segmentation(model.segmentation, tmp_path / "segmentation.pt", tensorboard=folder)
    other = tiny_model(0)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in with_board.items())
    run_segmentation(other.segmentation, tmp_path / "other.pt")
    for name, value in model.segmentation.state_dict().items():
        assert torch.equal(value, other.segmentation.state_dict()[name]), "pictures change nothing"
    run_graph(model, tmp_path / "graph.pt", tensorboard=folder)
    assert sorted(path.name for path in folder.iterdir()) == ["graph", "segmentation"]
    for stage, size in (("segmentation", (4 * 32, 3 * 32)), ("graph", (4 * 48, 32))):
        (image,) = read(folder / stage).Images("image, Q, result, target")
        assert image.step == 1 and image.width == size[0] and image.height % size[1] == 0


def run_every_step(function: Any, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs | {"log_every": 1})


def test_rows_of_a_picture():
    images, maps = torch.rand(9, 3, 4, 5), torch.rand(9, 4, 5)
    picture = rows_of(images, maps, 1 - maps)
    assert picture.shape == (3, 8 * 4, 3 * 5)
    assert torch.equal(picture[:, 4:8, :5], images[1])
    assert torch.equal(picture[0, 4:8, 5:10], maps[1]) and torch.equal(picture[2, 4:8, 10:], 1 - maps[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_is_stored(bad):
    def step(number: int) -> dict[str, float]:
        part = bad if number == 2 else 1.0
        return {"loss": part + 1, "part": part, "other": 1.0}

    saved: list[Any] = []
    history = History()
    with pytest.raises(InputError) as error:
        run(history, 0, 5, saved, step=step)
    assert str(error.value).startswith(f"test, step 3: the loss is not finite (part is {bad}); nothing of this step is")
    assert "lower the learning rate" in str(error.value) and "\n" not in str(error.value)
    assert saved == [] and len(history.recent) == 2


def test_every_stage_says_which_term_is_not_finite(tmp_path):
    model = tiny_model(0)
    torch.nn.init.constant_(model.segmentation.quality_head[-1].bias, float("nan"))
    with pytest.raises(InputError, match=r"^segmentation, step 1: the loss is not finite \(quality is nan\)"):
        run_segmentation(model.segmentation, tmp_path / "s.pt")
    model = tiny_model(0)
    torch.nn.init.constant_(next(model.node_gate.parameters()), float("nan"))
    with pytest.raises(InputError, match=r"^graph, (frame|step) 1: the loss is not finite \(.*gate is nan"):
        run_graph(model, tmp_path / "g.pt")
    assert not list(tmp_path.iterdir())
