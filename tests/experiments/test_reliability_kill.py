# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
"""A command that was killed at any moment goes on, and ends as if nothing had happened."""

import json
import sys
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import command, error_line
from evaluate_cases import FRAMES
from killed_runs import files_in, run_killed
from reliability_cases import checkpoint, data, root
from train_cases import InProcess

from experiments.common import checkpoints
from experiments.runs import scoring
from stg_pyg.nn.detector.mask_rcnn import Detector

TIMES = ("fps", "online_seconds")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that runs PyTorch")


def results_in(folder: Path) -> dict[str, Any]:
    """All files but the records, and the metrics without times."""
    found: dict[str, Any] = {k: v for k, v in files_in(folder).items() if not k.startswith(".done/")}
    found["metrics.json"] = json.loads(found["metrics.json"])
    for key in TIMES:
        del found["metrics.json"][key]
    return found


def test_evaluate_goes_on_after_every_kill(monkeypatch, tmp_path, root, checkpoint):
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    arguments = ("--checkpoint", checkpoint, "--preset", "davis2017", "--root", root, "--device", "cpu", "--overlays")

    def run(out: Path) -> int:
        return command(monkeypatch, "evaluate", *arguments, "--out", out)

    assert run(tmp_path / "whole") == 0
    out = tmp_path / "killed"
    frames = sum(map(len, FRAMES.values()))
    # Killed in the first video, at its record, in the second video, at its record and at the metrics, which is all that
    # is left by then.
    for at, after in ((4, False), (9, False), (9, True), (3, True), (7, False), (7, True), (1, False)):
        assert run_killed(lambda: run(out), at, after), f"{frames} frames take fewer than {at} files"
        assert not (out / "metrics.json").exists()
    assert {path.stem for path in (out / ".done").glob("*.json")} == set(FRAMES)
    assert run(out) == 0
    assert results_in(out) == results_in(tmp_path / "whole")
    assert {name for name in files_in(out) if name.startswith(".done/")} == {f".done/{name}.json" for name in FRAMES}


def test_proposals_go_on_after_every_kill(monkeypatch, tmp_path, root):
    torch.manual_seed(1)
    checkpoints.save(tmp_path / "detector.pt", {"kind": "detector", **Detector.small(4, 64).to_checkpoint()})
    arguments = ("--preset", "davis2017", "--root", root, "--detector", tmp_path / "detector.pt", "--score", 0)

    def run(out: Path) -> int:
        return command(monkeypatch, "proposals", *arguments, "--device", "cpu", "--out", out)

    assert run(tmp_path / "whole") == 0
    out, kills = tmp_path / "killed", 0
    while run_killed(lambda: run(out), 2, after=kills % 2 == 1):
        kills += 1
    assert kills >= 5, "two files a time at most"
    assert files_in(out) == files_in(tmp_path / "whole")
    assert run(out) == 0
    assert files_in(out) == files_in(tmp_path / "whole")


class Killed(InProcess):
    """A pool whose processes do the first video and are killed then."""

    def __init__(self, *_: object, **__: object) -> None:
        self.count = 0

    def submit(self, *arguments: Any) -> "Future[Any]":
        self.count += 1
        if self.count == 1:
            return super().submit(*arguments)
        future: Future[Any] = Future()
        future.set_exception(BrokenProcessPool("A process in the process pool was terminated abruptly"))
        return future


def test_a_killed_process_of_several_is_one_line(monkeypatch, capsys, tmp_path, root, checkpoint):
    arguments = ("--checkpoint", checkpoint, "--preset", "davis2017", "--root", root, "--device", "cpu")
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", Killed)
    assert command(monkeypatch, "evaluate", *arguments, "--out", tmp_path) == 2
    line = error_line(capsys, alone=False)
    assert "killed" in line and "fewer --processes" in line
    assert len(list((tmp_path / ".done").glob("*.json"))) == 1
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    assert command(monkeypatch, "evaluate", *arguments, "--out", tmp_path) == 0
    assert "1 of 2 videos are finished" in capsys.readouterr().err
