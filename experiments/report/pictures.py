"""Frames and annotations of the sequences that a report shows, from wherever they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.base import UInt8Array, VideoSequence
from experiments.presets import find_preset, open_split
from experiments.report.folder import Run, entries
from experiments.segment.frame_source import FrameSource, open_source
from stg_pyg.errors import InputError


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


def find_origin(folder: Path, run: Run) -> dict[str, Any]:
    """Where the frames of a run were read from, as far as its command noted it: values by name of an option."""
    for place in [run.folder, *(p for p in run.folder.parents if p.is_relative_to(folder))]:
        if isinstance(video := entries(place / "run.json").get("video"), str):
            return {"video": Path(video)}
        for record in sorted((place / ".done").glob("*.json"))[:1]:
            settings, preset = entries(record, "settings"), entries(record, "settings", "preset")
            if preset:
                root, seed = settings.get("root"), int(settings.get("seed") or 0)
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
