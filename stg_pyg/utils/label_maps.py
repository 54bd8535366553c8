"""The label maps of one video, all read by one rule; an InputError where that cannot be told."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from stg_pyg.errors import InputError
from stg_pyg.utils.images import UInt8Array, read_label_map, read_mask

_WHITE = 255


class LabelMaps:
    """Reads the masks of a video, of which black and white ones have no ids of their own.

    Black and white ones alone show object 1. Among others that hold ids, white is 255 if one of those has it, and
    object 1 if that is their only one.

    Args:
        files: all masks of the video; they are looked at when a black and white one is read first.
        soft: whether masks with soft edges are taken, with a note, and not refused.

    Attributes:
        notes: what was decided so far, a line by file.
        white: the last file whose white became object 1 as no mask holds ids.
    """

    def __init__(self, files: Iterable[Path], soft: bool = False) -> None:
        self._files, self._soft = list(files), soft
        self.notes: dict[Path, str] = {}
        self.white: Path | None = None

    def read(self, file: Path) -> UInt8Array:
        """Object ids uint8 [H, W] of one of the files."""
        mask = read_mask(file)
        if mask.soft and not self._soft:
            return read_label_map(file)  # which refuses it
        if mask.soft:
            self.notes[file] = f"{file}: {mask.soft}"
        if not mask.white or not mask.labels.any():
            return mask.labels
        ids, other = self._ids
        if not ids:
            self.white = file
            return mask.labels
        if _WHITE not in ids and ids != {1}:
            raise InputError(
                f"{file}: is black and white, and {other} holds ids, so it is unclear which object is white; save it "
                "with ids too"
            )
        obj_id = _WHITE if _WHITE in ids else 1
        how = mask.soft or "is black and white"
        self.notes[file] = f"{file}: {how}; white is object {obj_id}, as in {other}"
        return mask.labels * np.uint8(obj_id)

    @cached_property
    def _ids(self) -> tuple[set[int], Path | None]:
        """The ids of the masks that hold some, up to one with 255, and the last of these masks."""
        ids, last = set(), None
        for file in self._files:
            mask = read_mask(file)
            if not mask.white and mask.labels.any():
                ids |= {int(i) for i in np.unique(mask.labels)} - {0}
                last = file
            if _WHITE in ids:
                break
        return ids, last
