"""Tiny copies of the benchmarks in their exact layouts, made of synthetic videos, to try readers and commands on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from datasets.base import UInt8Array
from datasets.synthetic.videos import SyntheticVideos
from stg_pyg.errors import InputError
from stg_pyg.utils.images import write_image, write_json, write_label_map, write_text

Frames = list[tuple[UInt8Array, UInt8Array]]
"""Picture [H, W, 3] and object ids [H, W] of every frame."""


class Clips:
    """Synthetic videos with a wanted number of objects, each used once."""

    def __init__(self, num_frames: int, size: tuple[int, int], seed: int) -> None:
        self.num_frames, self.size = num_frames, size
        self._videos = iter(SyntheticVideos("train", 400, num_frames, *size, seed=seed))

    def draw(self, ids: Sequence[int] = (1,), starts: Sequence[int] = ()) -> Frames:
        """The next video with as many objects of some size; they get these ids, each from its start on."""
        for video in self._videos:
            drawn = np.stack([np.asarray(video.labels(t)) for t in range(self.num_frames)])
            if min(np.count_nonzero(drawn == i + 1, axis=(1, 2)).min() for i in range(len(ids))) < 30:
                continue
            labels = np.zeros_like(drawn)
            for number, (obj_id, start) in enumerate(zip(ids, starts or [0] * len(ids), strict=True), start=1):
                labels[start:][drawn[start:] == number] = obj_id
            return [(video.image(t), labels[t]) for t in range(self.num_frames)]
        raise ValueError(f"no synthetic video shows {len(ids)} objects in every frame")


def write_fixture(
    name: str,
    root: str | os.PathLike[str],
    num_frames: int | None = None,
    size: tuple[int, int] = (64, 96),
    seed: int = 0,
) -> Path:
    """Writes a few videos of a benchmark in its own folder layout.

    ``davis2016``: splits train and val of two videos each. ``davis2017``: the same and test-dev, with several objects,
    ids with gaps, and both resolutions. ``youtube_vos``: three videos of train and two of valid, with every frame
    too; masks every fifth frame, or where objects first appear; objects and a whole video that begin late.
    ``segtrack_v2``: one and two objects, overlapping masks, an object that comes late, three kinds of picture files.
    ``youtube_objects``: three shots of two classes and one without labels; few labels, none of the first frames,
    lossy or smaller than the frames. ``coco``: pictures of train2017 and val2017.

    Videos have ``num_frames`` frames (8, and 16 for ``youtube_vos``, when None) of ``size`` (H, W). Returns ``root``.

    Raises:
        InputError: the benchmark is unknown, or ``root`` cannot be written.
    """
    if name not in FIXTURES:
        raise InputError(f"no fixture {name!r}: choose one of {', '.join(FIXTURES)}")
    frames = num_frames or (16 if name == "youtube_vos" else 8)
    FIXTURES[name](Path(root), Clips(frames, size, seed))
    return Path(root)


def _davis2016(root: Path, clips: Clips) -> None:
    for split, names in {"train": ("bear", "bus"), "val": ("cows", "libby")}.items():
        for name in names:
            for t, (image, labels) in enumerate(clips.draw(ids=(1, 1) if name == "libby" else (1,))):
                write_image(root / f"JPEGImages/480p/{name}/{t:05d}.jpg", image)
                _save(root / f"Annotations/480p/{name}/{t:05d}.png", _black_and_white(labels > 0))
        write_text(root / f"ImageSets/2016/{split}.txt", "\n".join(names) + "\n")


def _davis2017(root: Path, clips: Clips) -> None:
    splits: dict[str, dict[str, tuple[int, ...]]] = {
        "train": {"dancing": (1, 2), "boxing": (1, 3)},
        "val": {"bike-packing": (1, 2, 3), "judo": (2, 5)},
        "test-dev": {"gym": (1, 2)},
    }
    for split, videos in splits.items():
        for name, ids in videos.items():
            for t, (image, labels) in enumerate(clips.draw(ids)):
                for folder, factor in (("480p", 1), ("Full-Resolution", 2)):
                    write_image(root / f"JPEGImages/{folder}/{name}/{t:05d}.jpg", _enlarged(image, factor))
                    if split != "test-dev" or t == 0:
                        path = root / f"Annotations/{folder}/{name}/{t:05d}.png"
                        write_label_map(path, _enlarged(labels, factor))
        write_text(root / f"ImageSets/2017/{split}.txt", "\n".join(videos) + "\n")


def _youtube_vos(root: Path, clips: Clips) -> None:
    parts: dict[str, dict[str, dict[int, tuple[str, int]]]] = {
        "train": {
            "003234408d": {1: ("penguin", 0), 2: ("penguin", 5)},
            "0043f083b5": {1: ("bus", 0), 4: ("sedan", 0)},
            "0044fa5fba": {1: ("giant_panda", 0)},
        },
        "valid": {
            "0062f687f1": {1: ("train", 0), 3: ("camel", 5)},
            "00f88c4f0a": {2: ("nyala", 5)},
        },
    }
    for split, videos in parts.items():
        meta = {}
        for video, objects in videos.items():
            frames = clips.draw(list(objects), [start for _, start in objects.values()])
            for t, (image, labels) in enumerate(frames):
                write_image(root / f"{split}_all_frames/JPEGImages/{video}/{t:05d}.jpg", image)
                if t % 5 == 0:
                    write_image(root / f"{split}/JPEGImages/{video}/{t:05d}.jpg", image)
                new = [obj_id for obj_id, (_, start) in objects.items() if start == t]
                if t % 5 == 0 and (split == "train" or new):
                    shown = labels if split == "train" else labels * np.isin(labels, new)
                    write_label_map(root / f"{split}/Annotations/{video}/{t:05d}.png", shown.astype(np.uint8))
            entries = {
                str(obj_id): {"category": category, "frames": [f"{t:05d}" for t in range(start, len(frames), 5)]}
                for obj_id, (category, start) in objects.items()
            }
            meta[video] = {"objects": entries}
        write_json(root / split / "meta.json", {"videos": meta})


def _segtrack_v2(root: Path, clips: Clips) -> None:
    late = clips.num_frames // 2
    videos = {
        "birdfall": (".png", clips.draw((1,))),
        "bmx": (".jpg", clips.draw((1, 2))),
        "girl": (".bmp", clips.draw((1,))),
        "monkeydog": (".png", clips.draw((1, 2), (0, late))),
    }
    for name, (suffix, frames) in videos.items():
        ids = range(1, 1 + int(frames[-1][1].max()))
        for t, (image, labels) in enumerate(frames):
            frame = f"{name}_{t:05d}"
            _save(root / "JPEGImages" / name / f"{frame}{suffix}", image)
            for obj_id in ids:
                mask = labels == obj_id
                if name == "bmx" and obj_id == 1:  # reaches below half of the object in front of it
                    front = labels == 2
                    mask |= front & (np.cumsum(front, axis=1) <= front.sum(axis=1, keepdims=True) / 2)
                folder = root / "GroundTruth" / name / (str(obj_id) if len(ids) > 1 else "")
                _save(folder / f"{frame}.png", _black_and_white(mask))


def _youtube_objects(root: Path, clips: Clips) -> None:
    shots = {  # factor of the frames' size, name of a label
        ("aeroplane", "0001", "001"): (1, "frame{:04d}.jpg"),
        ("cat", "0003", "001"): (2, "{:05d}.jpg"),
        ("cat", "0012", "002"): (1, "frame{:04d}.png"),
        ("cat", "0012", "003"): (1, ""),
    }
    for (category, video, shot), (factor, label) in shots.items():
        folder = root / category / "data" / video / "shots" / shot
        for t, (image, labels) in enumerate(clips.draw((1,)), start=1):
            write_image(folder / "images" / f"frame{t:04d}.jpg", _enlarged(image, factor))
            if label and t % 3 == 0:
                _save(folder / "labels" / label.format(t), _black_and_white(labels > 0))


def _coco(root: Path, clips: Clips) -> None:
    for split, count in (("train2017", 3), ("val2017", 2)):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(1, count + 1):
            image, labels = clips.draw((1, 2))[0]
            height, width = labels.shape
            name = f"{number:012d}.jpg"
            write_image(root / split / name, image)
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for obj_id in (1, 2):
                code = coco_mask.encode(np.asfortranarray((labels == obj_id).astype(np.uint8)))
                entry: dict[str, Any] = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
                entry |= {"area": int(coco_mask.area(code)), "bbox": [float(x) for x in coco_mask.toBbox(code)]}
                segmentation = {"size": [height, width], "counts": code["counts"].decode()}
                annotations.append({**entry, "segmentation": segmentation})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
        write_text(root / "annotations" / f"instances_{split}.json", json.dumps(content))


FIXTURES: dict[str, Callable[[Path, Clips], None]] = {
    "davis2016": _davis2016,
    "davis2017": _davis2017,
    "youtube_vos": _youtube_vos,
    "segtrack_v2": _segtrack_v2,
    "youtube_objects": _youtube_objects,
    "coco": _coco,
}


def _enlarged(picture: UInt8Array, factor: int) -> UInt8Array:
    return np.ascontiguousarray(picture.repeat(factor, axis=0).repeat(factor, axis=1))


def _black_and_white(mask: np.ndarray) -> UInt8Array:
    return np.where(mask, np.uint8(255), np.uint8(0))


def _save(path: Path, picture: UInt8Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
