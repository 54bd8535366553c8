"""Results packed as the evaluation servers take them."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from PIL import Image

from stg_pyg.errors import InputError
from stg_pyg.utils.images import davis_palette, indexed_image, write_atomic
from stg_pyg.utils.label_maps import LabelMaps

_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file knows: the same masks make the same bytes


class Video(Protocol):
    """What a submission needs to know of a video; :class:`datasets.base.VideoSequence` has it."""

    name: str
    frame_names: list[str]

    @property
    def requested_frames(self) -> Sequence[int]: ...
    @property
    def size(self) -> tuple[int, int]: ...


def check_submission_path(path: Path) -> None:
    """Refuses a name that is not of a zip file, or in a folder that cannot be written, before a long run."""
    if path.suffix.lower() != ".zip" or path.is_dir():
        raise InputError(f"{path}: is no name of a zip file; give --submit FILE.zip")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path}: cannot be written; choose another place for --submit")


def check_stored_masks(
    folder: Path, videos: Iterable[Video], needed: Callable[[Any], Sequence[int]] | None = None
) -> None:
    """Refuses a folder in which ``<video>/<frame>.png`` is missing of a frame that is needed: ``needed`` gives the
    indices of those of a video, else they are those that the benchmark requests."""
    videos = list(videos)
    absent = [video.name for video in videos if not (folder / video.name).is_dir()]
    if absent:
        raise InputError(f"{folder / absent[0]}: no such folder; the masks of {len(absent)} sequence(s) are missing")
    for video in videos:
        names = [video.frame_names[t] for t in (needed(video) if needed else video.requested_frames)]
        missing = [name for name in names if not (folder / video.name / f"{name}.png").is_file()]
        if missing:
            raise InputError(
                f"{folder / video.name / missing[0]}.png: no such file; {len(missing)} of the {len(names)} masks of "
                "the sequence are missing, write all of them"
            )


def write_submission(path: Path, folder: Path, videos: Iterable[Video], dataset: str) -> int:
    """Packs stored masks into a zip file; the same masks make the same bytes.

    YouTube-VOS takes ``Annotations/<video>/<frame>.png`` of the requested frames only, DAVIS ``<video>/<frame>.png``;
    other data sets get the layout of DAVIS. Every mask is an indexed PNG with the DAVIS palette at the original size:
    stored ones that are go in as they are, others are written anew.

    Args:
        path: the zip file; written under a temporary name, then renamed.
        folder: holds ``<video>/<frame>.png``.
        videos: of the split, in order.
        dataset: as presets name it.

    Returns:
        The number of masks.
    """
    videos = list(videos)
    check_stored_masks(folder, videos)
    prefix = "Annotations/" if dataset == "youtube_vos" else ""
    count = 0

    def write(file: IO[bytes]) -> None:
        nonlocal count
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
            for video in videos:
                names = [f"{video.name}/{video.frame_names[t]}.png" for t in video.requested_frames]
                maps = LabelMaps(folder / name for name in names)
                for name in names:
                    entry = zipfile.ZipInfo(prefix + name, _DATE)
                    entry.create_system, entry.external_attr = 3, 0o100644 << 16  # a plain file, whatever the system
                    archive.writestr(entry, _mask_file(maps, folder / name, video.size))
                    count += 1

    write_atomic(path, write)
    return count


def _mask_file(maps: LabelMaps, path: Path, size: tuple[int, int]) -> bytes:
    """The bytes of a mask as the servers take it."""
    labels = maps.read(path)
    if labels.shape != size:
        found, wanted = (f"{w} x {h}" for h, w in (labels.shape, size))
        raise InputError(f"{path}: is {found} pixels and the frame {wanted}; write masks at full size")
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        palette = image.getpalette("RGB") if (image.format, image.mode) == ("PNG", "P") else None
    if palette is not None and palette == davis_palette().ravel().tolist()[: len(palette)]:
        return content
    file = io.BytesIO()
    indexed_image(labels).save(file, format="PNG")
    return file.getvalue()
