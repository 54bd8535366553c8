"""The beginning of a video as a video of its own, for runs that are to be short."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from datasets.base import UInt8Array, VideoSequence


class FirstFrames(VideoSequence):
    """The first ``count`` frames of a video, under its name; objects that come later do not exist."""

    def __init__(self, video: VideoSequence, count: int):
        self._video = video
        self.name, self.frame_names = video.name, list(video.frame_names[:count])

    def image(self, t: int) -> UInt8Array:
        return self._video.image(range(self.num_frames)[t])

    def labels(self, t: int) -> UInt8Array | None:
        return self._video.labels(range(self.num_frames)[t])

    @property
    def files(self) -> list[Path]:
        return self._video.files

    def annotated(self, t: int) -> bool:
        return self._video.annotated(range(self.num_frames)[t])

    @cached_property
    def categories(self) -> dict[int, str]:
        return self._video.categories

    @cached_property
    def requested_frames(self) -> list[int]:
        return [t for t in self._video.requested_frames if t < self.num_frames]

    @cached_property
    def size(self) -> tuple[int, int]:
        return self._video.size

    @cached_property
    def first_frame_of(self) -> dict[int, int]:
        return {obj_id: t for obj_id, t in self._video.first_frame_of.items() if t < self.num_frames}


def first_frames(videos: Iterable[VideoSequence], count: int | None) -> list[VideoSequence]:
    """The first ``count`` frames of every video; the videos as they are with None."""
    return list(videos) if count is None else [FirstFrames(video, count) for video in videos]
