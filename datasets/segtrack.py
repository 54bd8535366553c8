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

from datasets.base import UInt8Array, VideoDataset
from datasets.files import (
    MAX_OBJECT_ID,
    FileSequence,
    check_complete,
    check_root,
    check_split,
    find_files,
    find_folders,
    find_masks,
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
    """One video with a black and white mask an object and frame, ``masks`` by object id and name of the frame.

    Where masks overlap, the object of the higher id is on top.
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
            labels[self._fitting(read_binary_mask(path), path)] = obj_id
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
        root = Path(root)
        check_split("SegTrack-v2", split)
        folders = self._images, self._truth = root / "JPEGImages", root / "GroundTruth"
        check_root(root, "SegTrack-v2", folders, _TREE)
        found = [[path.name for path in find_folders(folder)] for folder in folders]
        names = sorted({*found[0], *found[1]}, key=natural_sort_key) if sequences is None else list(sequences)
        if not names:
            raise InputError(f"{root}: has no sequence; expected {_TREE} in it")
        for folder, present in zip(folders, found, strict=True):
            check_complete(folder, "sequence", names, present, "copy them again")
        super().__init__("segtrack_v2", split, [self._index_sequence(name) for name in names])

    def _index_sequence(self, name: str) -> SegTrackSequence:
        images = find_files(self._images / name)
        folders = find_folders(self._truth / name)
        wrong = [f for f in folders if not f.name.isdecimal() or not 1 <= int(f.name) <= MAX_OBJECT_ID]
        if wrong:
            raise InputError(
                f"{wrong[0]}: is no object of a sequence; its folders must be named 1, 2, ... up to {MAX_OBJECT_ID}"
            )
        of_id = {int(folder.name): folder for folder in folders} or {1: self._truth / name}
        masks = {obj_id: find_masks(folder, images) for obj_id, folder in of_id.items()}
        for obj_id, files in masks.items():
            check_complete(of_id[obj_id], "mask", [path.stem for path in images], files)
        return SegTrackSequence(name, images, masks)
