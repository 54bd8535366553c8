"""What is made of the masks of somebody's own video: the overlay video, COCO results, and confidence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from experiments.segment.overlay_video import OverlayVideo
from stg_pyg.errors import InputError
from stg_pyg.proposals.rle import encode_masks, mask_boxes
from stg_pyg.utils.images import UInt8Array, read_label_map, write_atomic, write_json
from stg_pyg.video.frames import FrameSource

Scores = dict[int, list[float | None]]
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
"""A bar of progress that tells frames a second, also where a frame takes longer than one."""


def write_alpha(path: Path, alpha: UInt8Array) -> None:
    """Writes a grey PNG [H, W].

    Raises:
        InputError: it cannot be written.
    """
    write_atomic(path, lambda file: Image.fromarray(alpha).save(file, format="PNG"))


def write_overlay(path: Path, source: FrameSource, folder: Path) -> None:
    """The video with the masks of a folder drawn over it.

    Raises:
        InputError: it cannot be written, or a mask is gone.
    """
    bar = tqdm(total=source.num_frames, desc=path.name, unit="frame", dynamic_ncols=True, disable=None, bar_format=BAR)

    def write(file: IO[bytes]) -> None:
        with bar, OverlayVideo(file, source.fps) as video:
            for name, frame in source:
                video.add(frame, read_label_map(folder / f"{name}.png"))
                bar.update()

    try:
        write_atomic(path, write)
    except av.FFmpegError as error:
        raise InputError(f"{path}: cannot be written as a video ({error}); go without --overlay") from error


def write_coco(path: Path, folder: Path, names: list[str], scores: Scores) -> None:
    """The masks of a folder as COCO results, one entry an object and frame, with the object's id as ``category_id``.

    Raises:
        InputError: it cannot be written, or a mask is gone.
    """

    def write(file: IO[bytes]) -> None:
        separator = "[\n"
        for entry in _entries(folder, names, scores):
            file.write((separator + json.dumps(entry, separators=(",", ":"))).encode())
            separator = ",\n"
        file.write(b"[]\n" if separator == "[\n" else b"\n]\n")

    write_atomic(path, write)


def _entries(folder: Path, names: list[str], scores: Scores) -> Iterator[dict[str, Any]]:
    for position, name in enumerate(names):
        labels = read_label_map(folder / f"{name}.png")
        for obj_id in (int(i) for i in np.unique(labels) if i):
            counts = encode_masks(torch.from_numpy(labels == obj_id)[None])
            x0, y0, x1, y1 = mask_boxes(counts, labels.shape)[0].tolist()
            score = scores[obj_id][position]
            yield {
                "image_id": f"{folder.name}/{name}",
                "category_id": obj_id,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": 1.0 if score is None else score,
                "segmentation": {"size": list(labels.shape), "counts": counts[0].decode("ascii")},
            }


def write_confidence(path: Path, sequence: str, names: list[str], scores: Scores) -> None:
    """The confidence of every object in every frame, null where it has no pixel.

    Raises:
        InputError: it cannot be written.
    """
    write_json(path, {"sequence": sequence, "frames": names, "objects": {str(i): row for i, row in scores.items()}})


def read_confidence(path: Path) -> Scores | None:
    """What :func:`write_confidence` wrote, or None where that cannot be read."""
    try:
        content = json.loads(path.read_bytes())
        return {int(obj_id): list(row) for obj_id, row in content["objects"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def lost_objects(names: list[str], scores: Scores) -> list[str]:
    """A line for each object that gets lost after it was there."""
    notes = []
    for obj_id, row in scores.items():
        seen = next((n for n, score in enumerate(row) if score is not None), len(row))
        lost = [n for n in range(seen, len(row)) if row[n] is None]
        if lost:
            frames = "frame" if len(lost) == 1 else "frames"
            notes.append(f"object {obj_id} has no pixel in {len(lost)} {frames}, {names[lost[0]]} the first")
    return notes
