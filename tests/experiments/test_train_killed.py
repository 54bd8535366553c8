"""kill -9 at any moment of training; then --resume, and all is as if nothing had happened."""

import json
import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import command
from killed_runs import one_thread
from train_cases import assert_same_weights, make_tiny, masks_in

from experiments.common import checkpoints
from experiments.runs.rows import table_rows
from experiments.train import command as train
from experiments.train import trainer as training_loop

ROWS = ("flow", "temporal")
STEPS = ("--segmentation-steps", 4, "--graph-steps", 18, "--workers", 0)


def few_rows(patch: pytest.MonkeyPatch) -> None:
    make_tiny(patch)
    patch.setattr(training_loop, "SAVE_EVERY_SECONDS", -1.0)
    patch.setattr(
        train, "table_rows", lambda config: [row for row in table_rows(config) if row.name in ("flow", "temporal")]
    )


def killing(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """The function, until it has been called so many times; then the process is killed."""
    left = [calls]

    def limited(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return limited


def run_until_killed(out: Path, where: str, calls: int) -> None:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        few_rows(patch)
        module, name = where.rsplit(".", 1)
        patch.setattr(where, killing(getattr(__import__(module, fromlist=[name]), name), calls))
        command(patch, "train", "--device", "cpu", "--out", out, *STEPS, "--resume")


MOMENTS = (
    ("experiments.train.stages.segmentation.optimisation_step", 2),
    ("os.replace", 0),  # of a checkpoint that is written but has its temporary name
    ("experiments.train.command.write_json", 0),
    ("experiments.train.stages.graph.train_clip", 1),
    ("os.replace", 1),
    ("experiments.common.checkpoints.save_model", 0),
    ("experiments.runs.scoring.record_video", 1),
    ("experiments.train.command.write_text", 0),
)


def test_killed_again_and_again(tmp_path, monkeypatch):
    context = get_context("forkserver" if torch.cuda.is_available() else "fork")
    for where, calls in MOMENTS:
        process = context.Process(target=run_until_killed, args=(tmp_path / "killed", where, calls))
        with one_thread():
            process.start()
        process.join(100)
        assert process.exitcode == -signal.SIGKILL, f"{where} is not called {calls + 1} times"
    few_rows(monkeypatch)
    for name in ("killed", "undisturbed"):
        arguments = ("--device", "cpu", "--out", tmp_path / name, *STEPS, "--resume")
        assert command(monkeypatch, "train", *arguments) == 0
    killed, undisturbed = (tmp_path / name for name in ("killed", "undisturbed"))
    for name in ("checkpoint.pt", "segmentation_log.json", "graph_log.json"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes(), name
    for kind, part in (("segmentation", "net"), ("segmentation", "average"), ("graph", "net")):
        a, b = (checkpoints.load(folder / f"{kind}.pt", kind) for folder in (killed, undisturbed))
        assert a["log"] == b["log"] and a["recent"] == b["recent"] != []
        assert_same_weights(a[part], b[part])
    for row in ROWS:
        assert masks_in(killed / row) == masks_in(undisturbed / row) != {}
    found, expected = (json.loads((folder / "metrics.json").read_text()) for folder in (killed, undisturbed))
    assert all(found[key] == expected[key] for key in ("J", "F", "G", "sequences"))
    files = [{p.relative_to(folder) for p in folder.rglob("*") if p.is_file()} for folder in (killed, undisturbed)]
    assert {path for path in files[0] if ".tmp" not in path.name} == files[1]
