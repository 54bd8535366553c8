"""YouTube-VOS 2018 and 2019 in their official folder layout.

Xu et al., ECCV 2018, arXiv:1809.03327.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets.base import VideoDataset
from datasets.files import (
    MAX_OBJECT_ID,
    FileSequence,
    check_complete,
    check_root,
    find_files,
    find_folders,
    find_masks,
)
from stg_pyg.errors import InputError
from stg_pyg.utils.images import load_json

_FOLDERS = {"val": "valid", "fit": "train", "dev": "train"}
_DEV_EVERY = 20
_SUFFIXES = (".jpg", ".jpeg", ".png")


class YouTubeVOSSequence(FileSequence):
    """One video of a split's ``folder``; its ``objects`` in ``meta.json``, by id, may come at different times.

    ``all_frames`` is the folder with a folder of every frame of the video; None: only those of the split are seen.
    """

    def __init__(self, name: str, folder: Path, all_frames: Path | None, objects: dict[int, dict[str, Any]]) -> None:
        self.name = name
        self._folder, self._all_frames = folder, all_frames
        self._listed = {obj_id: [str(f) for f in entry.get("frames", ())] for obj_id, entry in objects.items()}
        self.categories = {obj_id: str(entry.get("category", "")) for obj_id, entry in objects.items()}

    @cached_property
    def first_frame_of(self) -> dict[int, int]:
        """By id, the first frame of the object in ``meta.json`` whose mask shows it, or else the first mask that does.

        An object of ``meta.json`` that no mask shows is left out, and so is one that only masks have.
        """
        position = {name: t for t, name in enumerate(self.frame_names)}
        annotated = [name for name in self.frame_names if name in self._annotations]
        shown: dict[str, set[int]] = {}
        first = {}
        for obj_id, listed in sorted(self._listed.items()):
            for name in dict.fromkeys([*(n for n in listed if n in self._annotations), *annotated]):
                if name not in shown:
                    labels = self.labels(position[name])
                    shown[name] = set() if labels is None else set(labels.ravel().tolist())
                if obj_id in shown[name]:
                    first[obj_id] = position[name]
                    break
        return first

    @cached_property
    def requested_frames(self) -> list[int]:
        """The frames that ``meta.json`` lists for any object, which are those that the server scores."""
        listed = {name for names in self._listed.values() for name in names}
        wanted = listed or {path.stem for path in self._plain}
        return [t for t, name in enumerate(self.frame_names) if name in wanted]

    @property
    def files(self) -> list[Path]:
        return [*super().files, self._folder / "meta.json"]

    # Thousands of videos have a hundred thousand files, so a video's are looked up when it is used.

    @cached_property
    def frame_names(self) -> list[str]:  # type: ignore[override]
        return [path.stem for path in self._images]

    @cached_property
    def _plain(self) -> list[Path]:
        return find_files(self._folder / "JPEGImages" / self.name, _SUFFIXES)

    @cached_property
    def _images(self) -> list[Path]:  # type: ignore[override]
        images = self._plain
        if self._all_frames is not None:
            images = find_files(self._all_frames / self.name, _SUFFIXES)
            stems = {path.stem for path in images}
            check_complete(self._all_frames / self.name, "frame", [path.stem for path in self._plain], stems)
        listed = sorted({name for names in self._listed.values() for name in names})
        check_complete(self._folder / "JPEGImages" / self.name, "frame", listed, {path.stem for path in images})
        return images

    @cached_property
    def _annotations(self) -> dict[str, Path]:  # type: ignore[override]
        folder = self._folder / "Annotations" / self.name
        masks = find_masks(folder, self._images, (".png",))
        without = [names[0] for names in self._listed.values() if names and not masks.keys() & set(names)]
        check_complete(folder, "annotation", sorted(set(without)), ())
        return masks


class YouTubeVOS(VideoDataset):
    """YouTube-VOS, read lazily from::

        root/<split>/meta.json
        root/<split>/JPEGImages/<video>/<frame>.jpg               every fifth frame
        root/<split>/Annotations/<video>/<frame>.png
        root/<split>_all_frames/JPEGImages/<video>/<frame>.jpg    every frame, if it was downloaded

    ``train`` has masks of every fifth frame, ``valid`` and ``test`` of the frames where objects first appear, the
    others are with the server.

    Args:
        root: the folder that holds the splits.
        split: ``train``, ``valid`` (or ``val``) or ``test``; ``dev`` is every twentieth video of ``train``, in natural
            order, to tune on, and ``fit`` the others.
        all_frames: whether videos have every frame; those that the server does not want are not in
            ``requested_frames``. When None, if the folder is there.

    Raises:
        InputError: a file or folder is missing, or ``meta.json`` is not of the format or has ids above 255. Files of a
            video are checked when it is first used.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "train", all_frames: bool | None = None) -> None:
        root = Path(root)
        own_folder = split not in _FOLDERS or (root / split / "meta.json").is_file()
        part = split if own_folder else _FOLDERS[split]
        every = root / f"{part}_all_frames" / "JPEGImages"
        folders = [root / part / "JPEGImages", root / part / "Annotations"]
        if all_frames or (all_frames is None and every.is_dir()):
            folders.append(every)
        meta = root / part / "meta.json"
        tree = f"{part}/meta.json, {part}/JPEGImages/<video>/<frame>.jpg and {part}/Annotations/<video>/<frame>.png"
        check_root(root, "YouTube-VOS", [*folders, meta], tree)
        videos = _read_meta(meta)
        for folder in folders:
            check_complete(folder, "video", videos, {path.name for path in find_folders(folder)}, "copy them again")
        if not own_folder and split in ("fit", "dev"):
            dev = set(list(videos)[::_DEV_EVERY])
            videos = {name: objects for name, objects in videos.items() if (name in dev) == (split == "dev")}
        if not videos:
            raise InputError(f"{meta}: has no video for split {split}; download the file again")
        seen = every if every in folders else None
        sequences = [YouTubeVOSSequence(name, root / part, seen, objects) for name, objects in videos.items()]
        super().__init__("youtube_vos", split, sequences)


def _read_meta(path: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Objects by id of all videos, both in order."""
    videos: dict[str, dict[int, dict[str, Any]]] = {}
    try:
        content = load_json(path.read_bytes())["videos"]
        for name in sorted(content):
            entries = content[name]["objects"]
            objects = {int(obj_id): dict(entry) for obj_id, entry in entries.items()}
            if len(objects) < len(entries):
                raise ValueError(f"an object of {name} is there twice")
            for entry in objects.values():
                entry["frames"] = list(entry.get("frames", ()))
            videos[name] = dict(sorted(objects.items()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: is no meta.json of YouTube-VOS ({type(error).__name__} {error}); expected "
            '{"videos": {<video>: {"objects": {"1": {"category": ..., "frames": [...]}}}}}'
        ) from error
    for name, objects in videos.items():
        wrong = [obj_id for obj_id in objects if not 1 <= obj_id <= MAX_OBJECT_ID]
        if wrong:
            raise InputError(f"{path}: video {name} has object {wrong[0]}; ids must be 1 to {MAX_OBJECT_ID}")
    return videos
