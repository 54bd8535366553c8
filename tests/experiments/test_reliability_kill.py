# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
"""Commands that are killed, or whose disk is full or read-only: whole files stay, and the same command goes on."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import command, error_line
from killed_runs import files_in, run_killed
from PIL import Image
from reliability_cases import data, networks, results_in, root, start
from train_cases import InProcess

from experiments.runs import scoring

WRITERS = {"evaluate": ("--overlays",), "proposals": (), "segment": ("--alpha",)}
"""Commands that write more than seven files each. Of killed runs of ``segment``: test_segment_resume.py."""
# Killed in the first video, at its record, in the second video, at its record and at the metrics.
EVALUATE = ((4, False), (9, False), (9, True), (3, True), (7, False), (7, True), (1, False))


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that runs PyTorch")
@pytest.mark.parametrize(("name", "kills"), [("evaluate", EVALUATE), ("proposals", ((2, False), (2, True)) * 3)])
def test_killed_again_and_again_it_comes_to_the_same_end(start, tmp_path, name, kills):
    assert start(name, *WRITERS[name], out="whole") == 0
    done = [run_killed(lambda: start(name, *WRITERS[name], out="killed"), at, after) for at, after in kills]
    assert sum(done) >= 5 and not (tmp_path / "killed/metrics.json").exists()
    for _ in range(2):
        assert start(name, *WRITERS[name], out="killed") == 0
        assert results_in(tmp_path / "killed") == results_in(tmp_path / "whole")
    assert files_in(tmp_path / "killed").keys() == files_in(tmp_path / "whole").keys()


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

    def shutdown(self, **_: object) -> None:
        pass


def test_a_killed_process_of_several_is_one_line(monkeypatch, capsys, tmp_path, start):
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "ProcessPoolExecutor", Killed)
        assert start("evaluate") == 2
    line = error_line(capsys, alone=False)
    assert "killed" in line and "fewer --processes" in line
    assert len(list((tmp_path / "out/.done").glob("*.json"))) == 1
    assert start("evaluate") == 0
    assert "1 of 2 videos are finished" in capsys.readouterr().err


class FullAfter:
    """In the place of ``os.replace``: the disk is full after so many files."""

    def __init__(self, files: int) -> None:
        self.left, self.replace = files, os.replace

    def __call__(self, source: Path, target: Path) -> None:
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        self.left -= 1
        self.replace(source, target)


def assert_whole(folder: Path) -> None:
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert not path.name.endswith(".tmp"), f"{path} is left over"
        if path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".npz":
            assert len(np.load(path)) > 3
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)


@pytest.mark.parametrize(("name", "files"), [*((name, 4) for name in WRITERS), ("train", 0)])
def test_a_disk_that_is_full_after_some_files(monkeypatch, capsys, start, tmp_path, name, files):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", FullAfter(files))
        assert start(name, *WRITERS.get(name, ())) == 2
    line = error_line(capsys, alone=False)
    assert str(tmp_path / "out") in line and "No space left on device" in line and "free space" in line
    assert_whole(tmp_path / "out")
    assert len(files_in(tmp_path / "out")) == files
    if name != "train":
        assert start(name, *WRITERS[name]) == start(name, *WRITERS[name], out="whole") == 0
        assert results_in(tmp_path / "out") == results_in(tmp_path / "whole")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory, of 28 kB: seven small files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not Path("/bin/mount").exists() or not mount(folder, "size=28k"):
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def mount(folder: Path, options: str) -> bool:
    call = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
    return subprocess.run(call, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_is_full_and_then_read_only(capsys, disk, start, name):
    options = (*WRITERS[name], *(("--overlay",) if name == "segment" else ()))
    assert start(name, *options, out=disk / "out") == 2
    line = error_line(capsys, alone=False)
    assert str(disk) in line and "No space left on device" in line and "free space" in line
    assert_whole(disk)
    assert mount(disk, "remount,size=9m")
    assert start(name, *options, out=disk / "out") == 0
    before = files_in(disk / "out")
    assert mount(disk, "remount,ro")
    for out in ("out", "other"):
        assert start(name, *options, out=disk / out) == 2
        line = error_line(capsys, alone=False)
        assert str(disk) in line and "read-only" in line.lower() and "choose another" in line
    assert files_in(disk / "out") == before


@pytest.mark.parametrize("name", ["evaluate", "proposals"])
def test_folders_whose_names_are_no_text(monkeypatch, start, tmp_path, name):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    assert start(name, out=folder / "out") == start(name, out="whole") == 0
    assert results_in(folder / "out") == results_in(tmp_path / "whole")
    if name == "evaluate":
        assert command(monkeypatch, "report", folder / "out", "--out", folder / "report.html") == 0


@pytest.mark.parametrize("name", ["train", "evaluate", "proposals", "segment", "benchmark", "tables"])
def test_a_file_in_the_place_of_the_output(monkeypatch, capsys, tmp_path, root, networks, start, name):
    (tmp_path / "file").write_text("mine")
    own = {"tables": ("--root", root, "--checkpoint", networks / "checkpoint.pt"), "benchmark": ()}
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        status = command(monkeypatch, name, *own[name], "--out", out) if name in own else start(name, out=out)
        line = error_line(capsys, alone=False)
        assert status == 2 and str(out) in line and "choose another --out" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_in_the_place_of_a_video(start, capsys, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run").write_text("mine")
    assert start("evaluate") == 2
    assert f"{tmp_path / 'out/run'}: cannot be created (File exists)" in error_line(capsys, alone=False)
    assert (tmp_path / "out/run").read_text() == "mine" and (tmp_path / "out/.done/walk.json").is_file()
