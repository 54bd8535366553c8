"""The masks that somebody gives for a video of their own: one for the first frame, or a folder of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import cv2
import numpy as np

from experiments.segment.frame_source import FrameSource, pixels
from stg_pyg.errors import InputError
from stg_pyg.io import UInt8Array, natural_sort_key, read_label_map

MOST_OBJECTS = 255


class Given(ABC):
    """What somebody gives of the objects of a video.

    Attributes:
        path: of the file or folder.
        frames: names of the frames with given objects, in the order of the video.
        object_ids: all ids, ascending.
        note: what the reader should know of how it was understood, or nothing.
    """

    path: Path
    frames: list[str]
    object_ids: list[int]
    note: str

    @abstractmethod
    def at(self, name: str) -> UInt8Array | None:
        """Object ids uint8 [H, W] given for the frame of that name, if there are any."""


class GivenMasks(Given):
    """Label maps by the names of the frames they belong to; all are checked at once and read again when asked for.

    Three forms of ``path``:

    - a file: the label map of the first frame;
    - a folder where files are named as frames: label maps, the later ones add objects or correct them;
    - a folder where none is: one black and white mask of the first frame an object, ids 1, 2, ... in natural order,
      a later file on top of an earlier one. One such file alone is the label map of the first frame.

    Raises:
        InputError: a file is missing, unreadable, of another size than the frames, or black where an object has to be;
            or names belong to no frame.
    """

    def __init__(self, path: Path, source: FrameSource):
        self.path, self.source, self.note = path, source, ""
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give the mask of the first frame with --masks")
        self._by_frame: dict[str, Path] = {}
        self._objects: list[Path] = []
        first = source.frame_name(0)
        if path.is_dir():
            self._sort_files(sorted(path.iterdir(), key=lambda f: natural_sort_key(f.name)))
        else:
            self._refuse_later_name(path)
            self._by_frame[first] = path
        if self._objects:
            self._ids = {first: set(range(1, len(self._objects) + 1))}
            self._merge_objects()
        else:
            self._ids = {name: _ids(self._read(file)) for name, file in self._by_frame.items()}
            if first in self._ids and not self._ids[first]:
                raise InputError(f"{self._by_frame[first]}: is all background; the first frame needs an object")
        self.frames = [name for name, ids in self._ids.items() if ids]
        if not self.frames:
            raise InputError(f"{path}: all masks are background; mark at least one object")
        self.object_ids = sorted(set().union(*self._ids.values()))

    def at(self, name: str) -> UInt8Array | None:
        if name not in self._ids or not self._ids[name]:
            return None
        return self._merge_objects() if self._objects else self._read(self._by_frame[name])

    def _sort_files(self, entries: list[Path]) -> None:
        files = [f for f in entries if f.suffix.lower() == ".png" and not f.name.startswith(".") and f.is_file()]
        if not files:
            raise InputError(f"{self.path}: has no PNG files; name a label map as its frame, or give one PNG an object")
        positions = {f: self.source.position(f.stem) for f in files}
        named = {f: position for f, position in positions.items() if position is not None}
        first = self.source.frame_name(0)
        if not named and len(files) == 1:
            self._by_frame[first] = files[0]
        elif not named:
            if len(files) > MOST_OBJECTS:
                raise InputError(
                    f"{self.path}: has {len(files)} masks of objects, and ids reach to {MOST_OBJECTS} only"
                )
            self._objects = files
            self.note = f"no mask is named as a frame: one object a file, from {files[0].name} (id 1) on"
        else:
            self._check_names(files, named)
            self._by_frame = {f.stem: f for f in sorted(named, key=lambda f: named[f])}
            if first not in self._by_frame:
                self.note = f"the frames before {next(iter(self._by_frame))} have no mask and get empty results"

    def _check_names(self, files: list[Path], named: dict[Path, int]) -> None:
        for file in files:
            # Any number may name a frame of a video file, but only up to its end, and that is worth a look.
            beyond = named.get(file, 0) > 0 and named[file] >= self.source.count()
            if file not in named or beyond:
                raise InputError(
                    f"{file}: no frame of {self.source.path} is named {file.stem}, though other masks have names of "
                    f"frames ({self.source.frame_name(0)} is the first); rename or remove it"
                )
            if named[file] % self.source.every:
                raise InputError(
                    f"{file}: the frame is left out by --every {self.source.every}; remove the mask or choose another N"
                )

    def _refuse_later_name(self, path: Path) -> None:
        position = self.source.position(path.stem)
        if position and self.source.path.is_dir():
            raise InputError(
                f"{path}: has the name of a later frame, and one file is taken for the first frame "
                f"({self.source.frame_name(0)}); give its folder instead to go by names, or rename it"
            )

    def _read(self, file: Path) -> UInt8Array:
        labels = read_label_map(file)
        if labels.shape != self.source.size:
            frames = f"the frames of {self.source.path} are {pixels(self.source.size)}"
            raise InputError(f"{file}: is {pixels(labels.shape)} and {frames}; save the mask at the size of the frames")
        return labels

    def _merge_objects(self) -> UInt8Array:
        merged = np.zeros(self.source.size, np.uint8)
        for obj_id, file in enumerate(self._objects, start=1):
            labels = self._read(file)
            found = len(_ids(labels))
            if found != 1:
                fault = "is all background" if found == 0 else f"has {found} objects"
                raise InputError(
                    f"{file}: {fault}, but no mask in the folder is named as a frame, so each has to hold one object; "
                    f"name label maps as frames ({self.source.frame_name(0)}.png)"
                )
            merged[labels > 0] = obj_id
        missing = sorted(set(range(1, len(self._objects) + 1)) - _ids(merged))
        if missing:
            file = self._objects[missing[0] - 1]
            raise InputError(f"{file}: is hidden by the masks that come after it; rename it to come later")
        return merged


def reduce_labels(labels: UInt8Array, size: tuple[int, int], what: str) -> UInt8Array:
    """Object ids [H, W] at a smaller size; a pixel goes to the id, 0 among them, that covers most of it.

    Raises:
        InputError: an object of ``what`` has no pixel left.
    """
    if labels.shape == size:
        return labels
    share = np.full(size, -1.0, np.float32)
    reduced = np.zeros(size, np.uint8)
    ids = np.flatnonzero(np.bincount(labels.ravel()))
    for obj_id in ids:
        cover = cv2.resize((labels == obj_id).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        # Of two ids with equal shares the greater one wins, which leaves objects their pixels against background.
        reduced[cover >= share] = obj_id
        share = np.maximum(share, cover)
    lost = sorted({int(i) for i in ids} - {int(i) for i in np.unique(reduced)} - {0})
    if lost:
        raise InputError(f"{what}: object {lost[0]} vanishes at {pixels(size)}; give a larger --max-size")
    return reduced


def _ids(labels: UInt8Array) -> set[int]:
    return {int(i) for i in np.unique(labels)} - {0}
