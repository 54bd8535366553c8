"""Frames and annotations of the sequences that a report shows, from wherever they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from datasets.base import UInt8Array, VideoSequence
from experiments.presets import find_preset, open_split
from experiments.report.folder import Origin
from experiments.segment.frame_source import FrameSource, open_source
from stg_pyg.errors import InputError


class Pictures:
    """Frames of one sequence, read once and in order; this one has none."""

    def __init__(self) -> None:
        self.first_frame_of: dict[int, str] = {}
        """Name of the frame that each object is given in, by id; empty where nobody knows."""

    def frames(self, names: Sequence[str]) -> Iterator[UInt8Array | None]:
        """Frames [H, W, 3] of these names, which are in order; None for one that is not there."""
        yield from (None for _ in names)

    def truth(self, name: str) -> UInt8Array | None:
        """Object ids [H, W] of an annotated frame."""
        return None


class DatasetPictures(Pictures):
    """Frames and annotations of a video of a data set."""

    def __init__(self, video: VideoSequence) -> None:
        self._video = video
        self._position = {name: t for t, name in enumerate(video.frame_names)}
        self.first_frame_of = {i: video.frame_names[t] for i, t in video.first_frame_of.items()}

    def frames(self, names: Sequence[str]) -> Iterator[UInt8Array | None]:
        for name in names:
            yield self._video.image(self._position[name]) if name in self._position else None

    def truth(self, name: str) -> UInt8Array | None:
        t = self._position.get(name)
        return None if t is None else self._video.labels(t)


class SourcePictures(Pictures):
    """Frames of a video file or a folder of pictures."""

    def __init__(self, source: FrameSource) -> None:
        super().__init__()
        self._source = source

    def frames(self, names: Sequence[str]) -> Iterator[UInt8Array | None]:
        wanted, waiting = list(names), iter(self._source)
        stems = {name for name in wanted if self._source.position(name) is not None}
        for name in wanted:
            yield next((image for stem, image in waiting if stem == name), None) if name in stems else None


class Library:
    """Opens the frames of a sequence: of ``video``, of the data set of the options, or of what the run has noted.

    Args:
        origin: what the run has noted.
        video: a video file or a folder of frames.
        preset: whose data set it is.
        root: folder of the data set.
        split: of the data set.

    Attributes:
        note: why there are no pictures, empty otherwise.

    Raises:
        InputError: what the options name cannot be opened.
    """

    def __init__(
        self,
        origin: Origin,
        video: Path | None = None,
        preset: str | None = None,
        root: Path | None = None,
        split: str | None = None,
    ) -> None:
        self.note = ""
        self._source: FrameSource | None = None
        self._videos: dict[str, VideoSequence] = {}
        asked = [option for option in (preset, root, split) if option is not None]
        if video is not None:
            if asked:
                raise InputError("--video excludes --root, --split and --preset: give the one or the other")
            self._source = open_source(video)
        elif asked:
            self._videos = _open_videos(origin, preset, root, split)
        else:
            self._open_noted(origin)

    def open(self, sequence: str) -> Pictures:
        """The frames of a sequence; none, and a note, where they are not to be found."""
        if self._source is not None:
            return SourcePictures(self._source)
        if sequence in self._videos:
            return DatasetPictures(self._videos[sequence])
        if self._videos:
            self.note = f"the split has no video {sequence}; --split names another one"
        return Pictures()

    def _open_noted(self, origin: Origin) -> None:
        try:
            if origin.video is not None:
                self._source = open_source(origin.video)
            elif origin.preset is not None:
                self._videos = _open_videos(origin, None, None, None)
            else:
                self.note = (
                    "the folder does not say where its frames are; give --root, --split and --preset, or --video"
                )
        except InputError as error:
            self.note = f"frames are not shown: {error}"


def _open_videos(
    origin: Origin, preset_name: str | None, root: Path | None, split: str | None
) -> dict[str, VideoSequence]:
    preset = find_preset(preset_name or origin.preset or "davis2016")
    if preset_name is None and origin.resolution is not None:
        preset = dataclasses.replace(preset, resolution=origin.resolution)
    videos = open_split(preset, split or origin.split or preset.val_split, root or origin.root, origin.seed)
    return {video.name: video for video in videos}
