"""The little videos, the checkpoint and the runs that the tests of experiments.segment share."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from commands import command, error_line
from killed_runs import files_in
from PIL import Image

from datasets import SyntheticVideos
from experiments.common import checkpoints
from experiments.common.presets import PRESETS
from stg_pyg.utils.images import write_image, write_label_map
from stg_pyg.video.segmenter import VideoSegmenter

HEIGHT, WIDTH, COUNT = 48, 64, 4
PRESET = dataclasses.replace(PRESETS["synthetic-small"], backbone=None, width=8, crop_size=32)
VIDEO = SyntheticVideos("test", num_videos=1, num_frames=COUNT, height=HEIGHT, width=WIDTH, seed=7, max_objects=2)[0]
FRAMES = [f"{t:05d}" for t in range(COUNT)]
FIRST = VIDEO.labels(0)
IDS = sorted(set(np.unique(FIRST).tolist()) - {0})
LATE = np.zeros_like(FIRST)
LATE[2:9, 2:9] = 200


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights that does not learn online on its own."""
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    torch.manual_seed(0)
    config = PRESET.config.replace({"warping.gaps": (1, 2), "recovery.redetect": False})
    checkpoints.save_model(path, checkpoints.build_model(PRESET, config), PRESET, 0)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "clip"
    for t, name in enumerate(FRAMES):
        write_image(folder / f"{name}.png", VIDEO.image(t))
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (WIDTH, HEIGHT))
    for t in range(COUNT):
        writer.write(np.ascontiguousarray(VIDEO.image(t)[..., ::-1]))
    writer.release()
    return path


@pytest.fixture
def first(tmp_path: Path) -> Path:
    write_label_map(tmp_path / "first.png", FIRST)
    return tmp_path / "first.png"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """The first mask is that of the second frame, and another object comes later."""
    write_label_map(tmp_path / "masks" / f"{FRAMES[1]}.png", VIDEO.labels(1))
    write_label_map(tmp_path / "masks" / f"{FRAMES[3]}.png", LATE)
    return tmp_path / "masks"


@pytest.fixture
def run(monkeypatch, tmp_path, checkpoint):
    """Runs the command with the checkpoint and masks, or none; returns the folder of its results."""

    def call(video: Path, masks: Path | None, *arguments: object, out: str = "out", status: int = 0) -> Path:
        given = (video, *(("--masks", masks) if masks else ()), "--checkpoint", checkpoint, "--device", "cpu")
        assert command(monkeypatch, "segment", *given, "--out", tmp_path / out, *arguments) == status
        return tmp_path / out

    return call


@pytest.fixture
def complaint(run, capsys, tmp_path):
    """The one line of a run with bad input, which must leave nothing behind."""

    def call(video: Path, masks: Path | None, *arguments: object) -> str:
        run(video, masks, *arguments, out="refused", status=2)
        assert not (tmp_path / "refused").exists()
        return error_line(capsys)

    return call


@pytest.fixture
def steps(monkeypatch) -> list:
    """The position of every frame that is segmented, what the segmenter is given of it, and its result."""
    seen, step = [], VideoSegmenter.step

    def watched(self, image, **named):
        result = step(self, image, **named)
        seen.append((self.frame_idx, image, named, result))
        return result

    monkeypatch.setattr(VideoSegmenter, "step", watched)
    return seen


def labels_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def results(out: Path) -> dict[str, bytes]:
    """All files of a finished run but that with times; nothing hidden is left over."""
    files = files_in(out)
    assert "run.json" in files and not [name for name in files if name.startswith(".") or "/." in name]
    del files["run.json"]
    return files
