"""What the readers of benchmarks share: finding their files, and saying in one line what is missing."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from datasets.base import UInt8Array, VideoSequence
from stg_pyg.errors import InputError
from stg_pyg.utils.images import PictureReader, natural_sort_key
from stg_pyg.utils.label_maps import LabelMaps

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
MAX_OBJECT_ID = 255


class FileSequence(VideoSequence):
    """A video of one file a frame, in order, and of one label map, by frame name, for some or all of them."""

    def __init__(self, name: str, images: Sequence[Path], annotations: dict[str, Path]) -> None:
        self.name = name
        self.frame_names = [path.stem for path in images]
        self._images = list(images)
        self._annotations = annotations

    @cached_property
    def _read(self) -> PictureReader:
        return PictureReader(self._images)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) of the first frame in pixels, which all others have too."""
        height, width = self._read(self._images[0]).shape[:2]
        return height, width

    def image(self, t: int) -> UInt8Array:
        image = self._read(self._images[t])
        if image.shape[:2] != self.size:
            (height, width), (rows, columns) = image.shape[:2], self.size
            raise InputError(
                f"{self._images[t]}: is {width} x {height} pixels but the first frame is {columns} x {rows}; "
                "make all frames of a video one size"
            )
        return image

    @property
    def files(self) -> list[Path]:
        return [*self._images, *self._annotations.values()]

    def annotated(self, t: int) -> bool:
        return self.frame_names[t] in self._annotations

    def labels(self, t: int) -> UInt8Array | None:
        path = self._annotations.get(self.frame_names[t])
        return None if path is None else self._fitting(self._read_labels(path), path)

    def _read_labels(self, path: Path) -> UInt8Array:
        return self._maps.read(path)

    @cached_property
    def _maps(self) -> LabelMaps:
        return LabelMaps(self._annotations.values())

    def _fitting(self, labels: NDArray[Any], path: Path) -> NDArray[Any]:
        """The label map of ``path``, if it has the size of the frames."""
        if labels.shape != self.size:
            (height, width), (rows, columns) = labels.shape, self.size
            raise InputError(
                f"{path}: is {width} x {height} pixels but the frames are {columns} x {rows}; "
                "use frames and masks of the same resolution"
            )
        return labels


def find_files(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """The files of a folder with one of the suffixes, in natural order.

    Raises:
        InputError: there is no folder, or no such file in it, or two have one stem.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; copy the sequence again, or take it off the list of the split")
    files = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".")]
    if not files:
        raise InputError(f"{folder}: holds no {' or '.join(suffixes)} files; copy the sequence again")
    files.sort(key=lambda path: natural_sort_key(path.name))
    stems: dict[str, Path] = {}
    for path in files:
        if stems.setdefault(path.stem, path) is not path:
            raise InputError(f"{path}: has the name of {stems[path.stem].name}; keep one of them in the folder")
    return files


def find_folders(folder: Path) -> list[Path]:
    """The folders in a folder, in natural order; none if it does not exist."""
    if not folder.is_dir():
        return []
    folders = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    return sorted(folders, key=lambda path: natural_sort_key(path.name))


def find_masks(folder: Path, images: Sequence[Path], suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """The files of masks in a folder by the name of their frame.

    Raises:
        InputError: there is no folder, or no such file in it, or one is of none of the ``images``.
    """
    masks = {path.stem: path for path in find_files(folder, suffixes)}
    check_complete(images[0].parent, "frame", masks, {path.stem for path in images})
    return masks


def check_complete(
    folder: Path, what: str, needed: Iterable[str], there: Container[str], remedy: str = "copy the sequence again"
) -> None:
    """Refuses a folder that lacks something.

    Raises:
        InputError: any of ``needed`` is not ``there``.
    """
    missing = [name for name in needed if name not in there]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise InputError(f"{folder}: {len(missing)} {what}(s) missing: {shown}; {remedy}")


def check_root(root: Path, title: str, needed: Sequence[Path], tree: str) -> None:
    """Refuses a root that lacks one of the files and folders ``needed``; ``tree`` is what is expected in it.

    Raises:
        InputError: one of them does not exist.
    """
    for path in needed:
        if not path.exists():
            missing = path.relative_to(root).as_posix() if root.is_dir() else "the folder itself"
            raise InputError(f"{root}: is no {title} root, {missing} is missing; expected {tree} in it")


def check_split(title: str, split: str) -> None:
    """Refuses any other split than ``all`` of a data set that is for testing only.

    Raises:
        InputError: it is another one.
    """
    if split != "all":
        raise InputError(f"{title} has no split {split!r}: choose all")
