# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
"""A full or read-only disk ends a command in one line, leaves whole files alone, and keeps what was finished."""

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import COMMANDS, command, error_line
from killed_runs import files_in
from PIL import Image
from reliability_cases import checkpoint, data, root
from train_cases import InProcess, make_tiny

from experiments.common import checkpoints
from experiments.runs import scoring
from experiments.segment.outputs import write_overlay
from stg_pyg.errors import InputError
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.utils.images import write_image, write_label_map
from stg_pyg.video.frames import open_source

TIMES = ("fps", "online_seconds", "seconds_per_frame")


class Disk:
    """A file system that the test can fill and make read-only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, *options: str) -> bool:
        text = ",".join(options)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", text, "none", self.folder], capture_output=True)
        return done.returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system in memory, of 28 kB: seven small files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    found = Disk(folder)
    if not Path("/bin/mount").exists() or not found.mount("size=28k"):
        pytest.skip("may not mount a file system")
    yield found
    subprocess.run(["umount", "-l", folder], check=True)


class FullAfter:
    """In the place of ``os.replace``: the disk is full after so many files."""

    def __init__(self, files: int) -> None:
        self.left, self.replace = files, os.replace

    def __call__(self, source: Path, target: Path) -> None:
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        self.left -= 1
        self.replace(source, target)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "detector.pt"
    checkpoints.save(path, {"kind": "detector", **Detector.small(4, 64).to_checkpoint()})
    return path


Command = Callable[[Path], int]


@pytest.fixture(params=["evaluate", "proposals", "segment"])
def run(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, root: Path, checkpoint: Path, detector: Path
) -> Command:
    """A command that writes more than seven files into the folder that it is given; returns its exit status."""
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    images, masks = (root / kind / "480p" / "walk" for kind in ("JPEGImages", "Annotations"))
    data = ("--preset", "davis2017", "--root", root)
    arguments = {
        "evaluate": (*data, "--checkpoint", checkpoint),
        "proposals": (*data, "--detector", detector, "--score", 0),
        "segment": (images, "--masks", masks / "00005.png", "--checkpoint", checkpoint, "--alpha"),
    }[request.param]
    return lambda out: command(monkeypatch, request.param, *arguments, "--device", "cpu", "--out", out)


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


def results_in(folder: Path) -> dict[str, object]:
    """All files but records, and JSON without times and paths."""
    found: dict[str, object] = {name: data for name, data in files_in(folder).items() if not name.startswith(".")}
    for name in ("metrics.json", "run.json"):
        if name in found:
            values = json.loads(files_in(folder)[name])
            found[name] = {key: value for key, value in values.items() if key not in TIMES}
    return found


def test_a_full_disk(capsys, disk, run, tmp_path):
    assert run(disk.folder / "out") == 2
    line = error_line(capsys, alone=False)
    assert str(disk.folder) in line and "No space left on device" in line and "free space" in line
    assert_whole(disk.folder)
    kept = {name: data for name, data in files_in(disk.folder / "out").items() if name.endswith((".png", ".npz"))}
    assert kept
    assert disk.mount("remount", "size=9m")
    assert run(disk.folder / "out") == 0
    assert run(tmp_path / "whole") == 0
    assert results_in(disk.folder / "out") == results_in(tmp_path / "whole")


def test_a_disk_that_is_full_after_some_files(monkeypatch, capsys, run, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", FullAfter(files=4))
        assert run(tmp_path / "out") == 2
    line = error_line(capsys, alone=False)
    assert str(tmp_path / "out") in line and "No space left on device" in line and "free space" in line
    assert_whole(tmp_path / "out")
    assert len(files_in(tmp_path / "out")) == 4
    assert run(tmp_path / "out") == 0


def test_folders_whose_names_are_no_text(monkeypatch, run, tmp_path, root):
    folder = root.parent / os.fsdecode(b"caf\xe9")
    assert run(folder / "out") == 0
    assert run(tmp_path / "whole") == 0
    assert results_in(folder / "out") == results_in(tmp_path / "whole")
    if (folder / "out/run.json").exists() or (folder / "out/metrics.json").exists():
        assert command(monkeypatch, "report", folder / "out", "--out", folder / "report.html") == 0


def test_a_read_only_disk(capsys, disk, run):
    assert disk.mount("remount", "ro")
    assert run(disk.folder / "out") == 2
    line = error_line(capsys, alone=False)
    assert str(disk.folder) in line and "Read-only file system" in line and "choose another --out" in line
    assert disk.mount("remount", "rw", "size=9m")
    assert run(disk.folder / "out") == 0
    before = files_in(disk.folder / "out")
    assert disk.mount("remount", "ro")
    assert run(disk.folder / "out") == 2
    assert "read-only" in error_line(capsys, alone=False).lower()
    assert files_in(disk.folder / "out") == before


def test_training_on_a_full_disk(monkeypatch, capsys, disk):
    make_tiny(monkeypatch)
    arguments = ("--stage", "segmentation", "--segmentation-steps", 1, "--workers", 0, "--device", "cpu")
    assert command(monkeypatch, "train", "--out", disk.folder / "out", *arguments) == 2
    line = error_line(capsys, alone=False)
    assert "segmentation.pt" in line and "No space left on device" in line and "free space" in line
    assert_whole(disk.folder)


@pytest.mark.parametrize("name", sorted({*COMMANDS} & {"train", "evaluate", "proposals", "benchmark", "tables"}))
def test_a_file_in_the_place_of_the_output(monkeypatch, capsys, tmp_path, root, checkpoint, detector, name):
    (tmp_path / "file").write_text("mine")
    arguments = {
        "proposals": ("--preset", "davis2017", "--root", root, "--detector", detector),
        "tables": ("--root", root, "--checkpoint", checkpoint),
    }.get(name, ())
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert command(monkeypatch, name, *arguments, "--out", out) == 2
        line = error_line(capsys, alone=False)
        assert str(out) in line and "choose another --out" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_in_the_place_of_a_video(monkeypatch, capsys, tmp_path, root, checkpoint):
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    arguments = ("--preset", "davis2017", "--root", root, "--checkpoint", checkpoint, "--device", "cpu")
    (tmp_path / "run").write_text("mine")
    assert command(monkeypatch, "evaluate", *arguments, "--out", tmp_path) == 2
    assert f"{tmp_path / 'run'}: cannot be created (File exists)" in error_line(capsys, alone=False)
    assert (tmp_path / "run").read_text() == "mine" and (tmp_path / ".done" / "walk.json").is_file()


def test_an_overlay_that_the_disk_cut_short_is_no_overlay(disk, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 96, 3), dtype=np.uint8)
    for t in range(12):
        write_image(tmp_path / "frames" / f"{t}.png", noise[t])
        write_label_map(tmp_path / "masks" / f"{t}.png", np.zeros((64, 96), np.uint8))
    with pytest.raises(InputError, match=r"overlay\.mp4: cannot be written \(No space left on device\); free space"):
        write_overlay(disk.folder / "overlay.mp4", open_source(tmp_path / "frames"), tmp_path / "masks")
    assert list(disk.folder.iterdir()) == []
    assert disk.mount("remount", "size=9m")
    write_overlay(disk.folder / "overlay.mp4", open_source(tmp_path / "frames"), tmp_path / "masks")
    assert open_source(disk.folder / "overlay.mp4").count() == 12


@pytest.mark.parametrize(
    ("number", "word"),
    [(errno.ENOSPC, "free space"), (errno.EACCES, "permissions"), (errno.EISDIR, "in the way"), (errno.EIO, "disk")],
)
def test_errors_of_the_system_are_one_line(monkeypatch, capsys, tmp_path, root, number, word):
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("experiments.evaluate.score_stored", failing)
    arguments = ("--preset", "davis2017", "--root", root, "--predictions", tmp_path, "--out", tmp_path / "out")
    assert command(monkeypatch, "evaluate", *arguments) == 2
    line = error_line(capsys)
    assert "some/file" in line and word in line
