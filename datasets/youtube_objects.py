"""YouTube-Objects with the pixel-wise annotations of Jain and Grauman.

Prest et al., CVPR 2012; Jain and Grauman, Supervoxel-Consistent Foreground Propagation in Video, ECCV 2014.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from datasets.base import UInt8Array, VideoDataset
from datasets.files import FileSequence, check_complete, check_root, check_split, find_files, find_folders
from datasets.segtrack import read_binary_mask
from stg_pyg.errors import InputError
from stg_pyg.utils.images import read_image

CLASSES = ("aeroplane", "bird", "boat", "car", "cat", "cow", "dog", "horse", "motorbike", "train")
_TREE = "<class>/data/<video>/shots/<shot>/images/*.jpg and <class>/data/<video>/shots/<shot>/labels/*.{jpg,png}"


class YouTubeObjectsSequence(FileSequence):
    """One shot with an object of its class, id 1, that is labelled in a few frames only, and not in the first ones.

    The labels may be smaller than the frames, as the frames can be had in a higher resolution: then the frames are
    given at the size of the labels. Its name is ``<class>_<video>_<shot>``.
    """

    def __init__(self, name: str, images: Sequence[Path], annotations: dict[str, Path], category: str) -> None:
        super().__init__(name, images, annotations)
        self.categories = {1: category}

    def image(self, t: int) -> UInt8Array:
        image = self._read(self._images[t])
        (rows, columns), (height, width) = image.shape[:2], self.size
        if (rows, columns) == (height, width):
            return image
        if abs(rows * width - columns * height) > 2 * max(width, columns):
            raise InputError(
                f"{self._images[t]}: is {columns} x {rows} pixels and the labels are {width} x {height}, which is "
                "another shape; use frames and labels of the same release"
            )
        way = cv2.INTER_AREA if rows > height else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) of the labels in pixels."""
        height, width = read_image(next(iter(self._annotations.values()))).shape[:2]
        return height, width

    def _read_labels(self, path: Path) -> UInt8Array:
        return read_binary_mask(path).astype(np.uint8)


class YouTubeObjects(VideoDataset):
    """The labelled shots of ten classes, read lazily from::

        root/<class>/data/<video>/shots/<shot>/images/<frame>.jpg
        root/<class>/data/<video>/shots/<shot>/labels/<frame>.jpg    black and white, about every tenth frame

    A label belongs to the frame of its name, or else of its number: ``00011.jpg`` to ``frame0011.jpg``. Shots without
    labels are left out.

    Args:
        root: the folder that holds the classes.
        split: ``all``, the only one: the data set is for testing.

    Raises:
        InputError: a folder is missing, or a label belongs to no frame.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "all") -> None:
        root = Path(root)
        check_split("YouTube-Objects", split)
        present = [name for name in CLASSES if (root / name).is_dir()]
        check_root(root, "YouTube-Objects", [root / (present or CLASSES)[0] / "data"], _TREE)
        sequences = [
            _index_shot(name, video, shot)
            for name in present
            for video in find_folders(root / name / "data")
            for shot in find_folders(video / "shots")
            if any((shot / "labels").glob("[!.]*"))
        ]
        if not sequences:
            raise InputError(f"{root}: has no shot with labels; expected {_TREE} in it")
        super().__init__("youtube_objects", split, sequences)


def _index_shot(category: str, video: Path, shot: Path) -> YouTubeObjectsSequence:
    images = find_files(shot / "images")
    frames = {key: path.stem for path in reversed(images) for key in (path.stem, _number(path))}
    frames.pop(None, None)
    frame_of = {path: frames.get(path.stem) or frames.get(_number(path)) for path in find_files(shot / "labels")}
    check_complete(shot / "images", "frame", [path.stem for path, frame in frame_of.items() if not frame], ())
    annotations = {frame: path for path, frame in frame_of.items() if frame}
    return YouTubeObjectsSequence(f"{category}_{video.name}_{shot.name}", images, annotations, category)


def _number(path: Path) -> int | None:
    """The last number in a file's name."""
    digits = re.findall(r"[0-9]+", path.stem)
    return int(digits[-1]) if digits else None
