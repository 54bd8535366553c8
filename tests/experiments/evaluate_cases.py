"""A small data set and checkpoint for the tests of evaluate."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.common import checkpoints
from experiments.common.presets import PRESETS
from stg_pyg.utils.images import write_label_map

HEIGHT, WIDTH = 48, 64


FRAMES = {"walk": ["00005", "00006", "00007", "00008"], "run": ["9", "10", "11"]}


PRESET = PRESETS["synthetic-small"]


def labels_of(t: int) -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[6:22, 6 + 2 * t : 24 + 2 * t], labels[28:44, 38 - 3 * t : 56 - 3 * t] = 1, 3
    return labels


def make_davis(
    root: Path, year: str = "2017", annotated: int | None = None, split: str = "val", frames: Any = FRAMES
) -> Path:
    """Two squares on noise, ids 1 and 3, in the layout of DAVIS."""
    noise = np.random.default_rng(0).integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name, stems in frames.items():
        images, masks = root / "JPEGImages/480p" / name, root / "Annotations/480p" / name
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t, frame in enumerate(stems):
            labels = labels_of(t)
            picture = np.where(labels[..., None] > 0, np.uint8(60) * labels[..., None] + noise // 4, noise)
            Image.fromarray(picture.astype(np.uint8)).save(images / f"{frame}.jpg")
            if annotated is not None and t >= annotated:
                continue
            if year == "2017":
                write_label_map(masks / f"{frame}.png", labels)
            else:
                Image.fromarray(np.uint8(255) * (labels > 0)).save(masks / f"{frame}.png")
    (root / "ImageSets" / year).mkdir(parents=True)
    (root / "ImageSets" / year / f"{split}.txt").write_text("\n".join(frames) + "\n")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the synthetic preset with random weights."""
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    torch.manual_seed(0)
    checkpoints.save_model(path, checkpoints.build_model(PRESET), PRESET, 0)
    return path


def metrics_in(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())
