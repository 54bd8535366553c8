import contextlib
import dataclasses
import functools
import io
import json
import os
import socket
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import command
from torch import nn
from train_cases import CPU, TINY, Killed, kill_after, make_tiny, tiny_detector, tiny_model

from datasets import SyntheticVideos, VideoSequence
from experiments.common import checkpoints
from experiments.runs.rows import table_rows
from experiments.train import command as train
from experiments.train import process_group
from experiments.train.process_group import own_parts, shares
from experiments.train.stages.detector import train_detector
from experiments.train.stages.graph import train_graph
from experiments.train.stages.segmentation import train_segmentation
from stg_pyg.errors import InputError
from stg_pyg.learning.steps import LucidBatches
from stg_pyg.lucid.samples import LucidConfig


def together(count: int, function: Callable[..., object], *arguments: object) -> None:
    """Calls the function in so many processes that train together."""
    context = get_context("forkserver" if torch.cuda.is_available() else "fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environments = [
        {"RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for rank in range(count)
    ]
    processes = [context.Process(target=_start, args=(e, function, arguments)) for e in environments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * count


def _start(environment: dict[str, object], function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    function(*arguments)


@functools.lru_cache
def videos() -> tuple[VideoSequence, ...]:
    """Of different lengths, so that clips are, too."""
    return tuple(
        SyntheticVideos("train", 1, frames, height=32, width=48, seed=frames, max_objects=2)[0] for frames in (3, 8)
    )


def train_exactly(stage: str, path: Path, killed_after: int | None = None, **options: Any) -> None:
    """Trains a stage by plain gradient descent, which shows any error in the gradients, scale included."""
    train, net = {
        "segmentation": (train_segmentation, tiny_model(0).segmentation),
        "detector": (train_detector, tiny_detector()),
        "graph": (train_graph, tiny_model(0)),
    }[stage]
    with pytest.MonkeyPatch.context() as patch, process_group.joined(CPU), contextlib.suppress(Killed):
        patch.setattr(torch.optim, "AdamW", functools.partial(torch.optim.SGD, lr=0.1))
        patch.setattr(nn.utils, "clip_grad_norm_", lambda *_: 0.0)
        if killed_after is not None:
            kill_after(patch, killed_after)
        train(net, videos(), path=path, **{"device": CPU, "seed": 2, "workers": 0} | options)


def train_in_processes(count: int, stage: str, path: Path, options: dict[str, Any]) -> None:
    together(count, functools.partial(train_exactly, stage, path, **options))


def assert_close(path: Path, expected: Path, kind: str, parts: tuple[str, ...]) -> None:
    a, b = (checkpoints.load(p, kind) for p in (path, expected))
    assert len(a["recent"]) == len(b["recent"]) > 0
    for found, wanted in zip(a["recent"], b["recent"], strict=True):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    for part in parts:
        assert a[part].keys() == b[part].keys()
        for name, value in a[part].items():
            torch.testing.assert_close(
                value, b[part][name], rtol=1e-3, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
            )


def test_shares():
    for count, parts in ((7, 3), (4, 4), (5, 1)):
        slices = shares(count, parts)
        assert [i for part in slices for i in range(count)[part]] == list(range(count))
        assert {part.stop - part.start for part in slices} <= {count // parts, -(-count // parts)}
        with pytest.raises(InputError, match="--accumulate"):
            shares(count, count + 1)


def draw(folder: Path, accumulate: int) -> None:
    with process_group.joined(CPU):
        dataset = LucidBatches(videos(), LucidConfig(size=16), 5, (2, 5), seed=3)
        drawn = list(own_parts(dataset, 5, workers=0, accumulate=accumulate))
        state = [[(part.share, *part.samples) for part in parts] for parts in drawn]
        torch.save(state, folder / f"{process_group.rank()}.pt")


@pytest.mark.parametrize(("count", "accumulate"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_processes_share_the_batches_of_one(tmp_path, count, accumulate):
    dataset = LucidBatches(videos(), LucidConfig(size=16), 5, (2, 5), seed=3)
    together(count, draw, tmp_path, accumulate)
    drawn = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(count)]
    for k in range(3):
        parts = [part for mine in drawn for part in mine[k]]
        assert len(parts) == count * accumulate
        assert sum(part[0] for part in parts) == pytest.approx(1)
        assert [part[0] for part in parts] == [len(part[1]) / 5 for part in parts]
        for column, whole in zip(list(zip(*parts, strict=True))[1:], dataset[k], strict=True):
            assert torch.equal(torch.cat(column), whole)


def test_segmentation_in_two_processes_and_resumed_in_one(tmp_path):
    """Slices of 2 and 3 samples, with the network's batch normalisation over all of them."""
    options = {"preset": dataclasses.replace(TINY, batch_size=5, segmentation_steps=4, learning_rate=1.0)}
    train_exactly("segmentation", tmp_path / "one.pt", **options)
    train_in_processes(2, "segmentation", tmp_path / "two.pt", options)
    assert_close(tmp_path / "two.pt", tmp_path / "one.pt", "segmentation", ("net", "average"))
    path = tmp_path / "killed.pt"
    train_in_processes(2, "segmentation", path, options | {"killed_after": 2})
    assert checkpoints.load(path, "segmentation")["step"] == 2
    train_exactly("segmentation", path, resume=True, **options)
    assert_close(path, tmp_path / "one.pt", "segmentation", ("net", "average"))
    before = tiny_model(0).segmentation.state_dict()
    moved = checkpoints.load(path, "segmentation")["net"]["mask_head.weight"] - before["mask_head.weight"]
    assert moved.abs().max() > 1e-2, "too little training to tell anything"


@pytest.mark.parametrize("clips", [2, 3])
def test_clips_of_different_length_in_two_processes(tmp_path, clips):
    preset = dataclasses.replace(TINY, graph_batch_size=clips, graph_steps=12 * clips, graph_learning_rate=0.01)
    train_exactly("graph", tmp_path / "one.pt", preset=preset)
    train_in_processes(2, "graph", tmp_path / "two.pt", {"preset": preset})
    assert_close(tmp_path / "two.pt", tmp_path / "one.pt", "graph", ("net",))
    assert checkpoints.load(tmp_path / "two.pt", "graph")["step"] == 2


def test_detector_in_two_processes_is_one_with_two_parts(tmp_path):
    options = {"preset": dataclasses.replace(TINY, detector_steps=2, detector_learning_rate=1.0)}
    train_exactly("detector", tmp_path / "one.pt", accumulate=2, **options)
    train_in_processes(2, "detector", tmp_path / "two.pt", options)
    assert_close(tmp_path / "two.pt", tmp_path / "one.pt", "detector", ("net", "weights"))


def run_command(out: Path, said: Path) -> None:
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        make_tiny(patch)
        patch.setattr(train, "table_rows", lambda config: [row for row in table_rows(config) if row.name == "temporal"])
        steps = ("--segmentation-steps", 2, "--graph-steps", 12, "--graph-batch-size", 2, "--workers", 0)
        status = command(patch, "train", "--device", "cpu", "--out", out, *steps)
    said.mkdir(exist_ok=True)
    (said / os.environ.get("RANK", "alone")).write_text(f"{status} {printed.getvalue()}")


def test_the_command_in_two_processes(tmp_path):
    run_command(tmp_path / "one", tmp_path / "said")
    together(2, run_command, tmp_path / "two", tmp_path / "said")
    one, two = ({p.relative_to(d) for p in d.rglob("*") if p.is_file()} for d in (tmp_path / "one", tmp_path / "two"))
    assert one == two
    alone, first, second = ((tmp_path / "said" / name).read_text() for name in ("alone", "0", "1"))
    assert first.count("+ temporal graph") == alone.count("+ temporal graph") == 1
    assert alone.startswith("0 ") and first.startswith("0 ") and second == "0 ", "one process talks"
    a, b = (checkpoints.load(tmp_path / n / "checkpoint.pt", "model")["model"] for n in ("one", "two"))
    for name, value in a.items():
        torch.testing.assert_close(value.float(), b[name].float(), rtol=0.01, atol=5e-3)
    scores = [json.loads((tmp_path / n / "metrics.json").read_text())["G"] for n in ("one", "two")]
    assert scores[0] == pytest.approx(scores[1], abs=2)


def test_processes_that_talk(tmp_path):
    together(2, _talk, tmp_path)


def _talk(folder: Path) -> None:
    """Folders that are not shared, gradients that not all processes have, and one that ends."""
    with pytest.raises(InputError, match="another process has ended"), process_group.joined(CPU):
        first = process_group.is_main()
        process_group.agree(3, folder)
        with pytest.raises(InputError, match="folder that all share"):
            process_group.agree(process_group.rank(), folder)
        both, one, none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
        both.grad, one.grad = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]) if first else None
        process_group.sum_gradients([both, one, none])
        assert both.grad.tolist() == [2, 4] and one.grad.tolist() == [3, 4] and none.grad is None
        process_group.agree(0, "end")
        if not first:
            os._exit(0)
        process_group.total({"loss": 1.0})


def test_a_rank_without_a_launcher(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match="torchrun"), process_group.joined(CPU):
        pass
