"""What an output folder of this project holds: sets of masks, their scores and traces, and where their frames are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.base import VideoSequence
from experiments.common.presets import find_preset, open_split
from stg_pyg.errors import InputError
from stg_pyg.proposals.store import META, StoredProposals
from stg_pyg.utils.images import UInt8Array, natural_sort_key, read_label_map
from stg_pyg.video.frames import FrameSource, open_source
from stg_pyg.video.trace_files import FrameTrace, read_trace

NO_SEQUENCES = {"overlays", "trace", "alpha"}
"""Names of folders beside those of the sequences."""
RUN_DEPTH = 2
"""Folders between the output folder and those of the sequences, ``runs/<name>/<sequence>`` being the deepest."""


@dataclass(frozen=True)
class Run:
    """One set of masks, a folder for each sequence, or of proposals."""

    name: str
    """Path from the output folder, ``.`` for itself."""
    folder: Path
    masks: dict[str, Path]
    """Folder of the masks by sequence."""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """J, F and G in percent by sequence, as the benchmark counts them; empty where nothing was scored."""
    stored: StoredProposals | None = None
    """In place of masks, what experiments.proposals wrote."""

    @property
    def sequences(self) -> list[str]:
        return sorted(self.masks, key=natural_sort_key) or (self.stored.sequences if self.stored else [])

    def frame_names(self, sequence: str) -> list[str]:
        if self.stored is not None:
            return self.stored.frame_names(sequence)
        files = self.masks[sequence].glob("*.png")
        return sorted((path.stem for path in files if not path.name.startswith(".")), key=natural_sort_key)

    def labels(self, sequence: str, frame: str) -> UInt8Array:
        """Object ids [H, W] of a frame, none where there are only proposals."""
        if self.stored is not None:
            return np.zeros(self.stored.meta["sizes"][sequence], np.uint8)
        return read_label_map(self.masks[sequence] / f"{frame}.png")

    def trace(self, sequence: str, frame: str) -> FrameTrace | None:
        path = self.folder / "trace" / sequence / f"{frame}.npz"
        return read_trace(path) if path.is_file() else None

    def has_trace(self, sequence: str) -> bool:
        return any((self.folder / "trace" / sequence).glob("*.npz"))

    def confidence(self, sequence: str) -> dict[int, dict[str, float | None]]:
        """What experiments.segment says of each object by frame, None where it has no pixel; empty elsewhere."""
        path = self.folder / "confidence.json"
        content = entries(path)
        if content.get("sequence") != sequence:
            return {}
        try:
            rows = {int(i): [None if v is None else float(v) for v in row] for i, row in content["objects"].items()}
            return {i: dict(zip(content["frames"], row, strict=True)) for i, row in rows.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: is not of experiments.segment ({error!r}); delete it") from error


@dataclass(frozen=True)
class Pictures:
    """Frames and annotations by sequence: of the videos of a data set, of a video file or folder, or none."""

    videos: Mapping[str, VideoSequence] = field(default_factory=dict)
    source: FrameSource | None = None
    note: str = ""
    """Why there are none."""

    def frames(self, sequence: str, names: Sequence[str]) -> Iterator[UInt8Array | None]:
        """Frames [H, W, 3] of these names, which are in order; None for one that is not there."""
        waiting = iter(()) if self.source is None else iter(self.source)
        for name in names:
            if (found := self._find(sequence, name)) is not None:
                yield found[0].image(found[1])
            elif self.source is None or self.source.position(name) is None:
                yield None
            else:
                yield next((image for stem, image in waiting if stem == name), None)

    def truth(self, sequence: str, name: str) -> UInt8Array | None:
        """Object ids [H, W] of an annotated frame."""
        found = self._find(sequence, name)
        return None if found is None else found[0].labels(found[1])

    def first_frame_of(self, sequence: str) -> dict[int, str]:
        """Name of the frame that each object is given in, by id; empty where nobody knows."""
        video = self.videos.get(sequence)
        return {} if video is None else {i: video.frame_names[t] for i, t in video.first_frame_of.items()}

    def _find(self, sequence: str, name: str) -> tuple[VideoSequence, int] | None:
        video = self.videos.get(sequence)
        return None if video is None or name not in video.frame_names else (video, video.frame_names.index(name))


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where there is none.

    Raises:
        InputError: it is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({error}); delete it, or run the command that writes it again") from error


def entries(path: Path, *keys: str) -> dict[str, Any]:
    """The JSON object that keys lead to in a file, empty where there is none.

    Raises:
        InputError: the file is no JSON.
    """
    content = read_json(path)
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def find_runs(folder: Path) -> list[Run]:
    """All sets of masks in an output folder, its own first."""
    runs, level = [], [folder]
    for _ in range(RUN_DEPTH + 1):
        runs += [run for path in level if (run := _run_in(path, folder)) is not None]
        level = [sub for path in level if path not in {run.folder for run in runs} for sub in _subfolders(path)]
    if not runs and (folder / META).is_file():
        return [Run(".", folder, {}, stored=StoredProposals(folder))]
    return runs


def choose_run(runs: list[Run], wanted: str | None) -> Run | None:
    """The run that is shown: the one asked for; else one with traces, the folder's own, the full model's, the first.

    Raises:
        InputError: there is none of that name.
    """
    if wanted is not None:
        for run in runs:
            if run.name == wanted.rstrip("/"):
                return run
        there = ", ".join(run.name for run in runs) or "none"
        raise InputError(f"--run {wanted}: the folder has no such run of masks; there are: {there}")

    def rank(run: Run) -> tuple[bool, bool, bool]:
        return not any(map(run.has_trace, run.masks)), run.name != ".", run.name != "temporal"

    return min(runs, key=rank, default=None)


def find_origin(folder: Path, run: Run) -> dict[str, Any]:
    """Where the frames of a run were read from, as far as its command noted it: values by name of an option."""
    for place in [run.folder, *(p for p in run.folder.parents if p.is_relative_to(folder))]:
        if isinstance(video := entries(place / "run.json").get("video"), str):
            return {"video": Path(video)}
        for record in sorted((place / ".done").glob("*.json"))[:1]:
            settings, preset = entries(record, "settings"), entries(record, "settings", "preset")
            if preset:
                root, seed = entries(record, "result").get("root"), int(settings.get("seed") or 0)
                noted = {"root": None if root is None else Path(root), "split": settings.get("split"), "seed": seed}
                return {"preset": preset.get("dataset"), "resolution": preset.get("resolution"), **noted}
    return {} if run.stored is None else {"preset": run.stored.meta.get("settings", {}).get("dataset")}


def open_pictures(noted: dict[str, Any], asked: dict[str, Any]) -> Pictures:
    """The pictures that are asked for, or else those of the noted origin, or none and a note.

    Raises:
        InputError: what is asked for cannot be opened.
    """
    where = {name: value for name, value in asked.items() if name != "seed"}
    if len(where) > 1 and "video" in where:
        raise InputError("--video excludes --root, --split and --preset: give the one or the other")
    options = noted | asked
    if where and "video" not in where:
        options.pop("video", None)
    if "preset" in where:
        options.pop("resolution", None)
    try:
        if options.get("video") is not None:
            return Pictures(source=open_source(options["video"]))
        if where or options.get("preset") is not None:
            return Pictures(_open_videos(**options))
    except InputError as error:
        if where:
            raise
        return Pictures(note=f"frames are not shown: {error}")
    return Pictures(note="the folder does not say where its frames are; give --root, --split and --preset, or --video")


def _run_in(path: Path, folder: Path) -> Run | None:
    scores = entries(path / "metrics.json", "sequences")
    masks = {sub.name: sub for sub in _subfolders(path) if sub.name not in NO_SEQUENCES and _has_masks(sub)}
    segmented = entries(path / "run.json").get("sequence")
    masks = {name: sub for name, sub in masks.items() if name == segmented} or masks
    stored = entries(path / "metrics.json", "config").get("predictions")
    if not masks and isinstance(stored, str):
        masks = {name: Path(stored) / name for name in scores if _has_masks(Path(stored) / name)}
    if not masks:
        return None
    if not scores and path != folder:  # the rows of one table are scored together
        scores = entries(path.parent / "table.json", path.name, "sequences")
    return Run(path.relative_to(folder).as_posix(), path, masks, scores)


def _subfolders(path: Path) -> list[Path]:
    found = (p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(found, key=lambda p: natural_sort_key(p.name))


def _has_masks(folder: Path) -> bool:
    """Whether the first PNG of a folder has ids as pixels, rather than the colours of a plot."""
    first = min((p for p in folder.glob("*.png") if not p.name.startswith(".")), default=None)
    if first is None:
        return False
    try:
        with Image.open(first) as image:
            return image.mode in ("1", "L", "P")
    except (OSError, SyntaxError, ValueError):
        return True  # reading it says what is wrong


def _open_videos(
    preset: str | None = None,
    resolution: str | None = None,
    split: str | None = None,
    root: Path | None = None,
    seed: int = 0,
) -> dict[str, VideoSequence]:
    found = find_preset(preset or "davis2016")
    found = dataclasses.replace(found, resolution=resolution or found.resolution)
    return {video.name: video for video in open_split(found, split or found.val_split, root, seed)}
