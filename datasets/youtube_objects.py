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

from datasets.base import UInt8Array, VideoDataset, VideoSequence
from datasets.files import FileSequence, check_complete, check_root, check_split, find_files, find_folders
from datasets.segtrack import read_binary_mask
from stg_pyg.errors import InputError
from stg_pyg.utils.images import read_image

CLASSES = ("aeroplane", "bird", "boat", "car", "cat", "cow", "dog", "horse", "motorbike", "train")
_TREE = "<class>/data/<video>/shots/<shot>/images/*.jpg and <class>/data/<video>/shots/<shot>/labels/*.{jpg,png}"


class YouTubeObjectsSequence(FileSequence):
    """One shot with an object of its class, id 1, that is labelled in a few frames only, and not in the first ones.

    The labels may be smaller than the frames, as the frames can be had in a higher resolution: then the frames are
    given at the size of the labels.

    Args:
        name: ``<class>_<video>_<shot>``.
        images: files of the frames, in order.
        annotations: file of the label by frame name.
        category: name of the class.
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
        shrink = rows > height
        way = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(image, (width, height), interpolation=way), np.uint8)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) of the labels in pixels."""
        height, width = read_image(next(iter(self._annotations.values()))).shape[:2]
        return height, width

    def labels(self, t: int) -> UInt8Array | None:
        path = self._annotations.get(self.frame_names[t])
        return None if path is None else self._fitting(read_binary_mask(path).astype(np.uint8), path)


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
        self.root, self.split, self.name = Path(root), split, "youtube_objects"
        check_split("YouTube-Objects", split, ("all",))
        present = [name for name in CLASSES if (self.root / name).is_dir()]
        check_root(self.root, "YouTube-Objects", [self.root / (present or CLASSES)[0] / "data"], _TREE)
        self._sequences = [
            _index_shot(name, video, shot)
            for name in present
            for video in find_folders(self.root / name / "data")
            for shot in find_folders(video / "shots")
            if any((shot / "labels").glob("[!.]*"))
        ]
        if not self._sequences:
            raise InputError(f"{self.root}: has no shot with labels; expected {_TREE} in it")

    @property
    def sequence_names(self) -> list[str]:
        return [sequence.name for sequence in self._sequences]

    def _sequence(self, index: int) -> VideoSequence:
        return self._sequences[index]


def _index_shot(category: str, video: Path, shot: Path) -> YouTubeObjectsSequence:
    images = find_files(shot / "images")
    labels = find_files(shot / "labels")
    names = {path.stem: path.stem for path in images}
    numbers = {-1: ""}
    for path in images:
        numbers.setdefault(_number(path), path.stem)
    frame_of = {path: names.get(path.stem) or numbers.get(_number(path)) for path in labels}
    check_complete(shot / "images", "frame", [path.stem for path, frame in frame_of.items() if not frame])
    annotations = {frame: path for path, frame in frame_of.items() if frame}
    return YouTubeObjectsSequence(f"{category}_{video.name}_{shot.name}", images, annotations, category)


def _number(path: Path) -> int:
    """The last number in a file's name, -1 without any."""
    digits = re.findall(r"[0-9]+", path.stem)
    return int(digits[-1]) if digits else -1
