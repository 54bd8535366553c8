"""The little data set, the commands and the faults that the tests of reliability share."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from evaluate_cases import HEIGHT, WIDTH, make_davis
from PIL import Image
from train_cases import InProcess

from experiments.common import checkpoints
from experiments.common.presets import PRESETS
from experiments.runs import scoring

PRESET = PRESETS["synthetic-small"]
NOISE = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_davis(tmp_path_factory.mktemp("davis"))


@pytest.fixture
def root(tmp_path: Path, data: Path) -> Path:
    """Two videos of a few frames, to be damaged; ``run`` is the one that comes last."""
    return Path(shutil.copytree(data, tmp_path / "davis"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    torch.manual_seed(0)
    config = PRESET.config.replace({"warping.gaps": (1,), "recovery.redetect": False, "online.steps": 0})
    checkpoints.save_model(path, checkpoints.build_model(PRESET, config), PRESET, 0)
    return path


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs the command over a root; returns its exit status."""
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", InProcess)

    def call(root: Path, *arguments: object, out: str = "out", model: Path | None = checkpoint) -> int:
        given = ("--preset", "davis2017", "--root", root, "--device", "cpu", "--out", tmp_path / out, *arguments)
        return command(monkeypatch, "evaluate", *given, *(("--checkpoint", model) if model else ()))

    return call


@pytest.fixture
def segment(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs the command over a folder of frames; returns its exit status."""

    def call(frames: Path, masks: Path, *arguments: object, model: Path = checkpoint) -> int:
        given = (frames, "--masks", masks, "--checkpoint", model, "--device", "cpu", "--out", tmp_path / "out")
        return command(monkeypatch, "segment", *given, *arguments)

    return call


def image_of(root: Path) -> Path:
    return root / "JPEGImages" / "480p" / "run" / "10.jpg"


def mask_of(root: Path) -> Path:
    return root / "Annotations" / "480p" / "run" / "9.png"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


def of_another_size(path: Path) -> None:
    Image.fromarray(NOISE[:-8]).save(path)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def in_colour(path: Path) -> None:
    Image.fromarray(NOISE).save(path)


def with_soft_edges(path: Path) -> None:
    """A disk, black and white with a ramp of grey between."""
    distance = np.hypot(*(np.indices((HEIGHT, WIDTH)) - np.array([24, 32])[:, None, None]))
    Image.fromarray(np.clip(255 - 12 * (distance - 5), 0, 255).astype(np.uint8)).save(path)


def with_300_ids(path: Path) -> None:
    ids = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 301
    Image.fromarray(ids.astype(np.uint16)).save(path)
