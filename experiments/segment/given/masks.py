"""The masks that somebody gives for a video of their own: one for the first frame, or a folder of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

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
    """What somebody gives of the objects of a video."""

    path: Path
    frames: list[str]
    """Names of the frames with given objects, in the order of the video."""
    object_ids: list[int]
    """All ids, ascending."""
    notes: list[str]
    """What the reader should know of how it was understood."""

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
        first, objects = source.frame_name(0), self._sort_files(path) if path.is_dir() else []
        if not path.is_dir():
            position = position_in_name(path.stem, source)
            if position and not self._is_frame(path):
                raise InputError(
                    f"{path}: has the name of a later frame, {source.frame_name(position)}, and one file is taken for "
                    f"the first frame ({first}); give its folder instead to go by names, or rename it"
                )
            self._by_frame[first] = path
        files = objects or list(self._by_frame.values())
        for file in files:
            if self._is_frame(file):
                raise InputError(f"{file}: is a frame of {source.path} too; keep masks in another folder")
        self._maps = LabelMaps(files, soft=True)
        self._merged = self._merge(objects) if objects else None
        found = {name: _ids(self._read(file)) for name, file in self._by_frame.items()}
        if self._merged is not None:
            found = {first: _ids(self._merged)}
        elif not found.get(first, {0}):
            raise InputError(f"{self._by_frame[first]}: is all background; the first frame needs an object")
        self.frames = [name for name, ids in found.items() if ids]
        if not self.frames:
            raise InputError(f"{path}: all masks are background; mark at least one object")
        self.object_ids = sorted(set().union(*found.values()))
        self._add_notes()

    def at(self, name: str) -> UInt8Array | None:
        if name not in self.frames:
            return None
        return self._read(self._by_frame[name]) if self._merged is None else self._merged

    def _sort_files(self, folder: Path) -> list[Path]:
        """Finds out which frames the masks of a folder are of; those of one object each are returned."""
        entries = sorted(folder.iterdir(), key=lambda f: natural_sort_key(f.name))
        entries = [entry for entry in entries if not entry.name.startswith(".")]
        files: dict[str, Path] = {}
        for entry in entries:
            if entry.suffix.lower() in MASK_SUFFIXES:
                if not entry.is_file():
                    raise InputError(f"{entry}: is a folder or a broken link and no mask; rename or remove it")
                other = files.setdefault(entry.stem, entry)
                if other is not entry:
                    raise InputError(f"{entry}: has the name of {other.name}; keep one mask of that name in the folder")
        masks = list(files.values())
        if not masks:
            raise InputError(f"{folder}: has no masks; name a label map as its frame, or give one PNG an object")
        others = [entry for entry in entries if entry not in set(masks)]
        if others:
            self.notes.append(f"{len(others)} in {folder} are no pictures and not read, {others[0].name} among them")
        named = frames_of_masks(masks, self.source)
        if named:
            self._take_frames(named)
        elif len(masks) == 1:
            self._by_frame[self.source.frame_name(0)] = masks[0]
        if self._by_frame:
            return []
        if len(masks) > MOST_OBJECTS:
            raise InputError(f"{folder}: has {len(masks)} masks of objects, and ids reach to {MOST_OBJECTS} only")
        self.notes.append(f"no mask is named as a frame: one object a file, from {masks[0].name} (id 1) on")
        return masks

    def _take_frames(self, named: dict[Path, int]) -> None:
        every, renamed = self.source.every, []
        for file, position in sorted(named.items(), key=lambda item: item[1]):
            if position % every:
                raise InputError(f"{file}: the frame is left out by --every {every}; remove it or choose another N")
            name = self.source.frame_name(position)
            self._by_frame[name] = file
            if file.stem != name:
                renamed.append(f"{file.name} is of frame {name}")
        if renamed:
            more = ", ..." * (len(renamed) > 3)
            self.notes.append(f"masks belong to frames by their numbers: {', '.join(renamed[:3])}{more}")
        start = next(iter(self._by_frame))
        if start != self.source.frame_name(0):
            self.notes.append(f"the frames before {start} have no mask and get empty results")

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
        share = float(np.mean(self.at(start) != 0))
        if share == 1:
            self.notes.append(f"objects cover all of frame {start}, where nothing is background (0)")
        elif share > MOST_COVERED:
            self.notes.append(f"objects cover {share:.0%} of frame {start}; is the mask inverted?")
        if 255 in self.object_ids and len(self.object_ids) > 1:
            self.notes.append("255 is taken for an object; where it is to be void, save it as background (0)")

    def _read(self, file: Path) -> UInt8Array:
        labels = self._maps.read(file)
        if labels.shape != self.source.size:
            frames = f"the frames of {self.source.path} are {pixels(self.source.size)}"
            raise InputError(f"{file}: is {pixels(labels.shape)} and {frames}; save the mask at the size of the frames")
        return labels

    def _merge(self, objects: list[Path]) -> UInt8Array:
        merged = np.zeros(self.source.size, np.uint8)
        for obj_id, file in enumerate(objects, start=1):
            labels = self._read(file)
            found = len(_ids(labels))
            if found != 1:
                fault = "is all background" if found == 0 else f"has {found} objects"
                raise InputError(
                    f"{file}: {fault}, but no mask in the folder is named as a frame, so each has to hold one object; "
                    f"name label maps as frames ({self.source.frame_name(0)}.png)"
                )
            merged[labels > 0] = obj_id
        for obj_id, file in enumerate(objects, start=1):
            if not (merged == obj_id).any():
                raise InputError(f"{file}: is hidden by the masks that come after it; rename it to come later")
        return merged


def _ids(labels: UInt8Array) -> set[int]:
    return {int(i) for i in np.unique(labels)} - {0}
