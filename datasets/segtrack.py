"""SegTrack-v2 in its official folder layout.

Li et al., Video Segmentation by Tracking Many Figure-Ground Segments, ICCV 2013.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.base import UInt8Array, VideoDataset, VideoSequence
from datasets.files import (
    MAX_OBJECT_ID,
    FileSequence,
    by_stem,
    check_complete,
    check_root,
    check_split,
    find_files,
    find_folders,
)
from stg_pyg.errors import InputError
from stg_pyg.utils.images import natural_sort_key, read_image, read_mask

_TREE = (
    "JPEGImages/<sequence>/*.{png,bmp,jpg} and GroundTruth/<sequence>/*.png (or GroundTruth/<sequence>/1/*.png, ...)"
)


def read_binary_mask(path: Path) -> NDArray[np.bool_]:
    """The one object of a mask file as bool [H, W], by the rules of :mod:`stg_pyg.mask_rules`.

    Where they see several ids or none, as in the noise of JPEG, it is what is brighter than middle grey.

    Raises:
        InputError: the file is missing or no picture, its transparency tells no object, or several ids are all dark.
    """
    bright = np.asarray(read_image(path).max(axis=2) >= 128)
    try:
        labels = read_mask(path).labels
    except InputError:
        with Image.open(path) as image:
            if image.has_transparency_data:
                raise
        return bright
    ids = np.flatnonzero(np.bincount(labels.ravel(), minlength=1)[1:]) + 1
    if len(ids) < 2:
        return labels > 0
    if not bright.any():
        raise InputError(f"{path}: has objects {ids[0]} and {ids[1]}, and is to hold one; save it in black and white")
    return bright


class SegTrackSequence(FileSequence):
    """One video with a black and white mask an object and frame.

    Where masks overlap, the object of the higher id is on top.

    Args:
        name: the name of its folder.
        images: files of the frames, in order.
        masks: by object id, the file of its mask by frame name.
    """

    def __init__(self, name: str, images: Sequence[Path], masks: dict[int, dict[str, Path]]) -> None:
        super().__init__(name, images, next(iter(masks.values())))
        self._masks = masks

    @property
    def files(self) -> list[Path]:
        return [*self._images, *(path for files in self._masks.values() for path in files.values())]

    def labels(self, t: int) -> UInt8Array:
        labels = np.zeros(self.size, np.uint8)
        for obj_id, files in sorted(self._masks.items()):
            path = files[self.frame_names[t]]
            labels[self._fitting(read_binary_mask(path).astype(np.uint8), path) > 0] = obj_id
        return labels


class SegTrackV2(VideoDataset):
    """The 14 videos and 24 objects of SegTrack-v2, read lazily from::

        root/JPEGImages/<sequence>/<frame>.png             or .bmp, .jpg
        root/GroundTruth/<sequence>/<frame>.png            of a video with one object, id 1
        root/GroundTruth/<sequence>/<id>/<frame>.png       of one with several, ids 1, 2, ...

    Args:
        root: the folder that holds ``JPEGImages``.
        split: ``all``, the only one: the data set is for testing.
        sequences: these videos only.

    Raises:
        InputError: a folder, frame or mask is missing, or there is an id above 255.
    """

    def __init__(
        self, root: str | os.PathLike[str], split: str = "all", sequences: Sequence[str] | None = None
    ) -> None:
        self.root, self.split, self.name = Path(root), split, "segtrack_v2"
        check_split("SegTrack-v2", split, ("all",))
        self._images, self._truth = self.root / "JPEGImages", self.root / "GroundTruth"
        check_root(self.root, "SegTrack-v2", (self._images, self._truth), _TREE)
        found = [[path.name for path in find_folders(folder)] for folder in (self._images, self._truth)]
        names = sorted({*found[0], *found[1]}, key=natural_sort_key) if sequences is None else list(sequences)
        if not names:
            raise InputError(f"{self.root}: has no sequence; expected {_TREE} in it")
        for folder, present in zip((self._images, self._truth), found, strict=True):
            check_complete(folder, "sequence", [name for name in names if name not in present], "copy them again")
        self._sequences = [self._index_sequence(name) for name in names]

    @property
    def sequence_names(self) -> list[str]:
        return [sequence.name for sequence in self._sequences]

    def _sequence(self, index: int) -> VideoSequence:
        return self._sequences[index]

    def _index_sequence(self, name: str) -> SegTrackSequence:
        images = find_files(self._images / name)
        folders = find_folders(self._truth / name)
        wrong = [f for f in folders if not f.name.isdecimal() or not 1 <= int(f.name) <= MAX_OBJECT_ID]
        if wrong:
            raise InputError(
                f"{wrong[0]}: is no object of a sequence; its folders must be named 1, 2, ... up to {MAX_OBJECT_ID}"
            )
        masks = {int(folder.name): by_stem(find_files(folder)) for folder in folders}
        masks = masks or {1: by_stem(find_files(self._truth / name))}
        stems = [path.stem for path in images]
        for obj_id, files in masks.items():
            check_complete(self._images / name, "frame", [stem for stem in files if stem not in set(stems)])
            folder = self._truth / name / (str(obj_id) if folders else "")
            check_complete(folder, "mask", [stem for stem in stems if stem not in files])
        return SegTrackSequence(name, images, masks)
