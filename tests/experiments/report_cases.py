"""Output folders that the tests of experiments.report share."""

import json
import re
import zlib
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from PIL import Image
from train_cases import TINY, InProcess

from experiments.common import checkpoints
from experiments.runs import scoring
from stg_pyg.utils.images import write_label_map

HEIGHT, WIDTH = 48, 64
EVIL = "<!--<script>&\"'"
"""Name of a sequence that would end or open an element, were it not escaped."""
FRAMES = {"walk": [f"{t:05d}" for t in range(14)], EVIL: ["9", "10", "11"]}


def labels_of(t: int) -> np.ndarray:
    """Two objects, the second of which is hidden for a while."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[6:22, 6 + t : 24 + t] = 1
    if t not in (6, 7):
        labels[28:44, 38 - 2 * t : 56 - 2 * t] = 3
    return labels


def make_davis(root: Path) -> Path:
    """Two squares on noise, ids 1 and 3, in the layout of DAVIS-2017."""
    noise = np.random.default_rng(0).integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name, frames in FRAMES.items():
        (root / "JPEGImages/480p" / name).mkdir(parents=True)
        for t, frame in enumerate(frames):
            labels = labels_of(t)
            picture = np.where(labels[..., None] > 0, np.uint8(60) * labels[..., None] + noise // 4, noise)
            Image.fromarray(picture.astype(np.uint8)).save(root / "JPEGImages/480p" / name / f"{frame}.jpg")
            write_label_map(root / "Annotations/480p" / name / f"{frame}.png", labels)
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("\n".join(FRAMES) + "\n")
    return root


def save_checkpoint(path: Path) -> Path:
    """A checkpoint with random weights that looks at nothing lost."""
    torch.manual_seed(0)
    config = TINY.config.replace({"recovery.redetect": False, "temporal.key_size": 32})
    checkpoints.save_model(path, checkpoints.build_model(TINY, config), TINY, 0)
    return path


@pytest.fixture(scope="module")
def davis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_davis(tmp_path_factory.mktemp("davis"))


@pytest.fixture(scope="module")
def evaluated(davis: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``evaluate --trace`` writes, of a network that has learned nothing."""
    folder = tmp_path_factory.mktemp("runs")
    checkpoint = save_checkpoint(folder / "checkpoint.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "ProcessPoolExecutor", InProcess)
        arguments = ("--root", davis, "--preset", "davis2017", "--checkpoint", checkpoint, "--online-steps", 0)
        arguments = (*arguments, "--trace", "--out", folder / "out", "--device", "cpu")
        assert command(patch, "evaluate", *arguments) == 0
    return folder / "out"


def content_of(page: str, name: str) -> dict:
    """One of the data elements of a page."""
    (text,) = re.findall(rf'<script type="application/json" id="{name}">(.*)</script>', page)
    return json.loads(text)


def unpack(text: str) -> bytes:
    return zlib.decompress(b64decode(text))
