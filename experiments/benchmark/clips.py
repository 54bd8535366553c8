"""The video whose frames are timed, with several objects to give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.base import UInt8Array, VideoSequence
from datasets.compose import ComposedVideos
from datasets.synthetic import SyntheticVideos
from stg_pyg.errors import InputError

_SYNTHETIC_TRIES = 100


@dataclass
class Clip:
    """Frames in memory, and the objects of the first one."""

    name: str
    source: str
    """Where its objects come from, for the reader."""
    images: list[UInt8Array]
    labels: UInt8Array
    """[H, W] of the first frame."""

    @property
    def object_ids(self) -> list[int]:
        """Ids in the first frame, ascending."""
        return [int(i) for i in np.unique(self.labels) if i]

    def given(self, count: int) -> UInt8Array:
        """The first frame's label map of its first ``count`` objects; the others are background."""
        return np.where(np.isin(self.labels, self.object_ids[:count]), self.labels, 0).astype(np.uint8)


def synthetic_clip(frames: int, size: tuple[int, int], objects: int, seed: int) -> Clip:
    """The first generated video that has ``objects`` objects."""
    videos = SyntheticVideos("test", _SYNTHETIC_TRIES, frames, *size, seed=seed, max_objects=objects)
    video = next(v for v in videos if _objects_of(v) >= objects)
    return _read(video, frames, "synthetic video")


def clip_of_split(videos: Sequence[VideoSequence], split: str, frames: int, objects: int, seed: int) -> Clip:
    """The first of the videos of a split that has ``objects`` objects in its first frame.

    Where there is none, objects of other videos of the split are pasted into one (:class:`ComposedVideos`), if all
    frames have masks; else it is the video with the most.

    Raises:
        InputError: there are no videos, or no object in any first frame.
    """
    videos = [video for video in videos if video.num_frames > 1]
    counts = [_objects_of(video) for video in videos]
    if not any(counts):
        raise InputError(f"--split {split}: no video has an object in its first frame; choose another one")
    best = max(range(len(videos)), key=lambda n: min(counts[n], objects))
    masked = [video for video in videos if all(map(video.annotated, range(video.num_frames)))]
    if counts[best] >= objects or len(masked) < 2:
        return _read(videos[best], frames, f"video of {split}")
    composed = ComposedVideos(masked, 1, (objects, objects), seed, split)[0]
    return _read(composed, frames, f"video of {split} with objects of others pasted in")


def _objects_of(video: VideoSequence) -> int:
    labels = video.labels(0)
    return 0 if labels is None else len(np.unique(labels[labels > 0]))


def _read(video: VideoSequence, frames: int, source: str) -> Clip:
    labels = video.labels(0)
    assert labels is not None
    return Clip(video.name, source, [video.image(t) for t in range(min(frames, video.num_frames))], labels)


def object_counts(clip: Clip, wanted: Sequence[int]) -> list[int]:
    """The numbers of objects that the clip has."""
    most = len(clip.object_ids)
    return sorted({min(count, most) for count in wanted})
