"""The little data set, the commands and the faults that the tests of reliability share."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from evaluate_cases import HEIGHT, WIDTH, make_davis
from killed_runs import files_in
from PIL import Image
from train_cases import InProcess, make_tiny

from experiments.common import checkpoints
from experiments.common.presets import PRESETS
from experiments.runs import scoring
from stg_pyg.nn.detector.mask_rcnn import Detector

PRESET = dataclasses.replace(PRESETS["synthetic-small"], backbone=None, width=8, crop_size=32)
NOISE = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_davis(tmp_path_factory.mktemp("davis"))


@pytest.fixture
def root(tmp_path: Path, data: Path) -> Path:
    """Two videos of a few frames, to be damaged; ``run`` is the one that comes last."""
    return Path(shutil.copytree(data, tmp_path / "davis"))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``checkpoint.pt`` and ``detector.pt``, of random weights."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    config = PRESET.config.replace({"warping.gaps": (1,), "recovery.redetect": False, "online.steps": 0})
    checkpoints.save_model(folder / "checkpoint.pt", checkpoints.build_model(PRESET, config), PRESET, 0)
    checkpoints.save(folder / "detector.pt", {"kind": "detector", **Detector.small(4, 64).to_checkpoint()})
    return folder


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, networks: Path, root: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs a command over the data set, ``segment`` over its last video; returns its exit status."""
    make_tiny(monkeypatch)
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    changes = {"name": "davis2017-small", "dataset": "davis2017", "train_split": "train", "val_split": "val"}
    trained = dataclasses.replace(PRESETS["synthetic-small"], segmentation_steps=30, **changes)
    (root / "ImageSets/2017/train.txt").write_text("run\n")

    def call(name: str, *arguments: object, out: Path | str = "out", model: Path | None = None) -> int:
        data = ("--preset", "davis2017", "--root", root)
        own = {
            "evaluate": (*data, "--checkpoint", model or networks / "checkpoint.pt"),
            "proposals": (*data, "--detector", networks / "detector.pt", "--score", 0),
            "segment": (*own_video(root), "--checkpoint", model or networks / "checkpoint.pt"),
            "train": (*data, "--stage", "segmentation", "--workers", 0),
        }
        with monkeypatch.context() as patch:
            if name == "train":
                patch.setitem(PRESETS, "davis2017-small", trained)
            return command(patch, name, *own[name], "--device", "cpu", "--out", tmp_path / out, *arguments)

    return call


def image_of(root: Path) -> Path:
    return root / "JPEGImages" / "480p" / "run" / "10.jpg"


def mask_of(root: Path) -> Path:
    return root / "Annotations" / "480p" / "run" / "9.png"


def own_video(root: Path) -> tuple[object, ...]:
    return image_of(root).parent, "--masks", mask_of(root)


def results_in(folder: Path) -> dict[str, object]:
    """All files but records, and JSON without times."""
    found: dict[str, object] = {name: data for name, data in files_in(folder).items() if not name.startswith(".")}
    for name in ("metrics.json", "run.json"):
        if name in found:
            times = ("fps", "online_seconds", "seconds_per_frame")
            found[name] = {k: v for k, v in json.loads(files_in(folder)[name]).items() if k not in times}
    return found


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
