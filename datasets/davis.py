"""DAVIS 2016 and 2017 in their official folder layout.

Perazzi et al., CVPR 2016; Pont-Tuset et al., arXiv:1704.00675.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from datasets.base import UInt8Array, VideoDataset
from datasets.files import FileSequence, check_complete, check_root, find_files, find_masks
from stg_pyg.errors import InputError
from stg_pyg.utils.images import is_inside, read_label_map
from stg_pyg.utils.mask_rules import MASK_SUFFIXES

VOID = 255
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class DAVISSequence(FileSequence):
    """One DAVIS video; the objects are those of its first frame, and 255 is void, which counts as background.

    With ``merge`` all ids become object 1, as in DAVIS-2016.
    """

    def __init__(self, name: str, images: Sequence[Path], annotations: dict[str, Path], merge: bool = False) -> None:
        super().__init__(name, images, annotations)
        self._merge = merge

    def _read_labels(self, path: Path) -> UInt8Array:
        if self._merge:  # black and white mostly, whose id does not matter
            ids = read_label_map(path)
            return ((ids > 0) & (ids != VOID)).astype(np.uint8)
        ids = super()._read_labels(path)
        return np.where(ids == VOID, np.uint8(0), ids)

    @cached_property
    def first_frame_of(self) -> dict[int, int]:
        """{id: 0} of the ids in the first frame: DAVIS has no objects that come later."""
        labels = self.labels(0)
        return {} if labels is None else {int(i): 0 for i in np.unique(labels) if i}


class DAVIS(VideoDataset):
    """DAVIS 2016 (one object a video) or 2017 (several), read lazily from::

        root/JPEGImages/480p/<sequence>/<frame>.jpg
        root/Annotations/480p/<sequence>/<frame>.png
        root/ImageSets/<year>/<split>.txt

    The list file may also be ``ImageSets/480p/<split>.txt`` with two paths a line, as DAVIS-2016 was first shipped.

    Args:
        root: the folder that holds ``JPEGImages``.
        year: ``2016`` merges all objects of a video into one, ``2017`` keeps them. When None, the year whose list
            file exists, 2017 if both do.
        split: ``train``, ``val``, ``test-dev`` or any other name with a list file; ``dev`` is a held-out part of train.
        resolution: ``480p`` or ``Full-Resolution`` (``1080p`` in DAVIS-2016), the folder below ``JPEGImages`` and
            ``Annotations``.
        sequences: these videos instead of a list file's.
        first_frame_only: whether later frames may lack annotations. When None, in splits named ``test...`` only. Where
            no two frames in turn are annotated, as in every fifth frame, all of them may but the first.

    Raises:
        InputError: a folder, list file, sequence, frame or annotation is missing, or an argument is unknown.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        year: str | int | None = None,
        split: str = "train",
        resolution: str = "480p",
        sequences: Sequence[str] | None = None,
        first_frame_only: bool | None = None,
    ) -> None:
        self.root = Path(root)
        if year is not None and str(year) not in ("2016", "2017"):
            raise InputError(f"year {year!r} is unknown; DAVIS has 2016 and 2017")
        self._images, self._annotations = (self.root / f / resolution for f in ("JPEGImages", "Annotations"))
        tree = (
            f"JPEGImages/{resolution}/<sequence>/*.jpg, Annotations/{resolution}/<sequence>/*.png "
            f"and ImageSets/<year>/{split}.txt"
        )
        check_root(self.root, "DAVIS", (self._images, self._annotations), tree)
        list_year, list_file = (None, None) if sequences is not None else self._find_list(year, split)
        self.year = str(year or list_year or self._year_of_folders())
        names = _read_list(list_file) if list_file is not None else list(sequences or ())
        if not names:
            raise InputError(f"{list_file or 'sequences'}: names no sequence; give one name a line")
        sparse = split.startswith("test") if first_frame_only is None else first_frame_only
        super().__init__(f"davis{self.year}", split, [self._index_sequence(name, sparse) for name in names])

    def _find_list(self, year: str | int | None, split: str) -> tuple[str, Path]:
        for list_year, folder in (("2017", "2017"), ("2016", "2016"), ("2016", "480p")):
            path = self.root / "ImageSets" / folder / f"{split}.txt"
            if year in (None, list_year, int(list_year)) and path.is_file():
                return list_year, path
        files = [path for path in (self.root / "ImageSets").glob("*/*.txt") if path.is_file()]
        present = sorted(path.relative_to(self.root).as_posix() for path in files)
        raise InputError(
            f"{self.root}: has no list ImageSets/{year or '<year>'}/{split}.txt of split {split!r}; "
            f"lists present: {', '.join(present) or 'none'}"
        )

    def _year_of_folders(self) -> str:
        lists = self.root / "ImageSets"
        only_2016 = (lists / "2016").is_dir() or (lists / "480p").is_dir()
        return "2016" if only_2016 and not (lists / "2017").is_dir() else "2017"

    def _index_sequence(self, name: str, sparse: bool) -> DAVISSequence:
        images = find_files(self._images / name, _IMAGE_SUFFIXES)
        masks = find_masks(self._annotations / name, images, MASK_SUFFIXES)
        stems = [path.stem for path in images]
        needed = stems[:1] if sparse or _is_sparse(stems, masks) else stems
        check_complete(self._annotations / name, "annotation", needed, masks)
        return DAVISSequence(name, images, masks, merge=self.year == "2016")


def _is_sparse(stems: Sequence[str], masks: Collection[str]) -> bool:
    """Whether annotations are few on purpose: a sequence that was copied in part has some of neighbours."""
    there = [stem in masks for stem in stems]
    return sum(there) > 1 and not any(a and b for a, b in itertools.pairwise(there))


def _read_list(path: Path) -> list[str]:
    """Sequence names in order: one a line, or the folder of the first path of a line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text; give one sequence a line") from error
    names: dict[str, None] = {}
    for line in lines:
        words = line.split()
        if words:
            name = PurePosixPath(words[0]).parent.name or words[0]
            if not is_inside(name):
                raise InputError(f"{path}: {name[:80]!r} is no name of a sequence; give one sequence a line")
            names[name] = None
    return list(names)
