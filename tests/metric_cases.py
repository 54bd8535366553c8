"""Label maps that move, and the official scores of them by vos-benchmark."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from vos_benchmark.benchmark import benchmark


def blob_labels(rng: np.random.Generator, height: int, width: int, num_objects: int) -> np.ndarray:
    labels = np.zeros((height, width), np.uint8)
    for obj_id in range(1, num_objects + 1):
        noise = cv2.GaussianBlur(rng.standard_normal((height, width)), (0, 0), 4)
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        rows, columns = np.mgrid[:height, :width]
        distance = np.hypot(rows - y, columns - x) / rng.uniform(5, 20)
        labels[distance + 4 * noise < 1] = obj_id
    return labels


def moving_video(seed: int, num_frames: int, num_objects: int, size: tuple[int, int] = (60, 90)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    first = blob_labels(rng, *size, num_objects)
    shifts = rng.integers(-9, 10, (num_frames, 2))
    return np.stack([np.roll(first, tuple(s), (0, 1)) for s in shifts])


def official(tmp_path: Path, videos: dict[str, tuple[np.ndarray, np.ndarray]], skip: bool = True):
    """G, J, F, and those of the objects, of videos (prediction, annotation)."""
    for name, kinds in videos.items():
        for kind, frames in zip(("prediction", "target"), kinds, strict=True):
            (tmp_path / kind / name).mkdir(parents=True)
            for t, frame in enumerate(frames):
                Image.fromarray(frame).save(tmp_path / kind / name / f"{t:05d}.png")
    folders = [str(tmp_path / "target")], [str(tmp_path / "prediction")]
    with redirect_stdout(io.StringIO()):
        g, j, f, objects = benchmark(*folders, num_processes=1, verbose=False, skip_first_and_last=skip)
    return g[0], j[0], f[0], objects[0]
