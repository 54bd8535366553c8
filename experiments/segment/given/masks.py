"""The masks that somebody gives for a video of their own: one for the first frame, or a folder of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import cv2
import numpy as np

from experiments.segment.given.names import frames_of_masks, position_in_name
from stg_pyg.errors import InputError
from stg_pyg.utils.images import UInt8Array, natural_sort_key
from stg_pyg.utils.label_maps import LabelMaps
from stg_pyg.utils.mask_rules import MASK_SUFFIXES
from stg_pyg.video.frames import FrameSource, pixels

MOST_OBJECTS = 255
MOST_NOTES = 3
MOST_COVERED = 0.85  # of a frame, beyond which a mask is asked about


class Given(ABC):
    """What somebody gives of the objects of a video.

    Attributes:
        path: of the file or folder.
        frames: names of the frames with given objects, in the order of the video.
        object_ids: all ids, ascending.
        notes: what the reader should know of how it was understood.
    """

    path: Path
    frames: list[str]
    object_ids: list[int]
    notes: list[str]

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

    What a name says: :func:`~experiments.segment.given.names.frames_of_masks`; what pixels say:
    :mod:`stg_pyg.utils.mask_rules` and :class:`~stg_pyg.utils.label_maps.LabelMaps`.

    Raises:
        InputError: a file is missing, unreadable, of another size than the frames, or black where an object has to be;
            names belong to no frame, or files are frames of the video.
    """

    def __init__(self, path: Path, source: FrameSource):
        self.path, self.source, self.notes = path, source, []
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give the mask of the first frame with --masks")
        self._by_frame: dict[str, Path] = {}
        self._objects: list[Path] = []
        first = source.frame_name(0)
        if path.is_dir():
            self._sort_files(path)
        else:
            self._refuse_later_name(path)
            self._by_frame[first] = path
        self._maps = LabelMaps(self._objects or self._by_frame.values(), soft=True)
        self._refuse_frames()
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
        self._add_notes()

    def at(self, name: str) -> UInt8Array | None:
        if name not in self._ids or not self._ids[name]:
            return None
        return self._merge_objects() if self._objects else self._read(self._by_frame[name])

    def _sort_files(self, folder: Path) -> None:
        entries = sorted(folder.iterdir(), key=lambda f: natural_sort_key(f.name))
        files = _mask_files([entry for entry in entries if not entry.name.startswith(".")])
        if not files:
            raise InputError(f"{folder}: has no masks; name a label map as its frame, or give one PNG an object")
        others = [entry for entry in entries if entry not in set(files) and not entry.name.startswith(".")]
        if others:
            self.notes.append(f"{len(others)} in {folder} are no pictures and not read, {others[0].name} among them")
        named = frames_of_masks(files, self.source)
        first = self.source.frame_name(0)
        if named:
            self._take_frames(named)
        elif len(files) == 1:
            self._by_frame[first] = files[0]
        elif len(files) > MOST_OBJECTS:
            raise InputError(f"{folder}: has {len(files)} masks of objects, and ids reach to {MOST_OBJECTS} only")
        else:
            self._objects = files
            self.notes.append(f"no mask is named as a frame: one object a file, from {files[0].name} (id 1) on")

    def _take_frames(self, named: dict[Path, int]) -> None:
        source = self.source
        for file, position in sorted(named.items(), key=lambda item: item[1]):
            if position % source.every:
                raise InputError(
                    f"{file}: the frame is left out by --every {source.every}; remove the mask or choose another N"
                )
            self._by_frame[source.frame_name(position)] = file
        renamed = [(name, file) for name, file in self._by_frame.items() if file.stem != name]
        if renamed:
            which = ", ".join(f"{file.name} is of frame {name}" for name, file in renamed[:3])
            self.notes.append(f"masks belong to frames by their numbers: {which}{', ...' * (len(renamed) > 3)}")
        if source.frame_name(0) not in self._by_frame:
            start = next(iter(self._by_frame))
            self.notes.append(f"the frames before {start} have no mask and get empty results")

    def _refuse_later_name(self, path: Path) -> None:
        position = position_in_name(path.stem, self.source)
        if position and not self._is_frame(path):
            raise InputError(
                f"{path}: has the name of a later frame, {self.source.frame_name(position)}, and one file is taken for "
                f"the first frame ({self.source.frame_name(0)}); give its folder instead to go by names, or rename it"
            )

    def _refuse_frames(self) -> None:
        for file in self._objects or self._by_frame.values():
            if self._is_frame(file):
                raise InputError(f"{file}: is a frame of {self.source.path} too; keep masks in another folder")

    def _is_frame(self, file: Path) -> bool:
        folder = self.source.path
        among = folder.is_dir() and file.resolve().parent == folder.resolve()
        return among and self.source.position(file.stem) is not None

    def _add_notes(self) -> None:
        notes = list(self._maps.notes.values())
        self.notes += notes[:MOST_NOTES]
        if len(notes) > MOST_NOTES:
            self.notes.append(f"and so are {len(notes) - MOST_NOTES} more masks in {self.path}")
        start = self.frames[0]
        labels = self.at(start)
        if labels is not None and labels.all():
            self.notes.append(f"objects cover all of frame {start}, where nothing is background (0)")
        elif labels is not None and np.count_nonzero(labels) > MOST_COVERED * labels.size:
            share = np.count_nonzero(labels) / labels.size
            self.notes.append(f"objects cover {share:.0%} of frame {start}; is the mask inverted?")
        if 255 in self.object_ids and len(self.object_ids) > 1:
            self.notes.append("255 is taken for an object; where it is to be void, save it as background (0)")

    def _read(self, file: Path) -> UInt8Array:
        labels = self._maps.read(file)
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


def _mask_files(entries: list[Path]) -> list[Path]:
    """Those that are called like pictures, one by stem.

    Raises:
        InputError: one of them is no file, or two have one stem.
    """
    files: dict[str, Path] = {}
    for entry in entries:
        if entry.suffix.lower() not in MASK_SUFFIXES:
            continue
        if not entry.is_file():
            raise InputError(f"{entry}: is a folder or a broken link and no mask; rename or remove it")
        other = files.setdefault(entry.stem, entry)
        if other is not entry:
            raise InputError(f"{entry}: has the name of {other.name}; keep one mask of that name in the folder")
    return list(files.values())


def _ids(labels: UInt8Array) -> set[int]:
    return {int(i) for i in np.unique(labels)} - {0}
