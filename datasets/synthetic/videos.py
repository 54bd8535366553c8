"""Embedded synthetic videos: generated from a seed, no files, so that everything can be tried without a download."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from datasets.base import UInt8Array, VideoDataset, VideoSequence
from datasets.synthetic.scene import SceneMaker, render_frame

_SPLITS = {"train": 60, "val": 12, "test": 12}
_CACHED_VIDEOS = 32


class SyntheticSequence(VideoSequence):
    """One generated video; the frames are rendered when asked for, and kept."""

    def __init__(self, name: str, seed: tuple[int, int, int], num_frames: int, size: tuple[int, int], max_objects: int):
        self.name = name
        self.frame_names = [f"{t:05d}" for t in range(num_frames)]
        self._seed = seed
        self._frame_size = size
        self._scene = SceneMaker(self._rng(0), num_frames, *size, max_objects).make()
        self._rendered: dict[int, tuple[UInt8Array, UInt8Array]] = {}

    def image(self, t: int) -> UInt8Array:
        return self._frame(t)[0].copy()

    def labels(self, t: int) -> UInt8Array:
        return self._frame(t)[1].copy()

    def _rng(self, stream: int) -> np.random.Generator:
        seed, *key = self._seed
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*key, stream)))

    def _frame(self, t: int) -> tuple[UInt8Array, UInt8Array]:
        t = range(self.num_frames)[t]
        if t not in self._rendered:
            self._rendered[t] = render_frame(self._scene, t, self._rng(1 + t), *self._frame_size)
        return self._rendered[t]


class SyntheticVideos(VideoDataset):
    """Textured, deforming objects that move, occlude each other, leave and return in front of a moving background.

    A video depends on ``seed``, ``split``, its index and the sizes alone, so splits are disjoint and ``num_videos``
    only says how many there are. All objects, numbered 1 .. K, are visible in frame 0. The last
    videos asked for stay in memory.

    Args:
        split: ``train``, ``val`` or ``test``.
        num_videos: 60 for ``train`` and 12 for the others when None.
        num_frames: frames a video.
        height, width: of the frames in pixels, at least 32.
        seed: a non-negative integer.
        max_objects: each video has 1 .. ``max_objects`` objects.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        split: str = "train",
        num_videos: int | None = None,
        num_frames: int = 24,
        height: int = 96,
        width: int = 160,
        seed: int = 0,
        max_objects: int = 4,
    ) -> None:
        if split not in _SPLITS:
            raise ValueError(f"split {split!r} is unknown: choose from {', '.join(_SPLITS)}")
        if min(height, width) < 32:
            raise ValueError(f"frames of {height} x {width} pixels are too small: at least 32 x 32")
        if num_frames < 1 or max_objects < 1 or seed < 0 or (num_videos is not None and num_videos < 0):
            raise ValueError("num_frames and max_objects must be positive, num_videos and seed not negative")
        super().__init__("synthetic", split)
        self.num_frames, self.height, self.width = num_frames, height, width
        self.seed, self.max_objects = seed, max_objects
        self._num_videos = _SPLITS[split] if num_videos is None else num_videos
        self._cache: OrderedDict[int, SyntheticSequence] = OrderedDict()

    def __len__(self) -> int:
        return self._num_videos

    @property
    def sequence_names(self) -> list[str]:
        return [f"{self.split}-{index:04d}" for index in range(self._num_videos)]

    def _sequence(self, index: int) -> VideoSequence:
        if index not in self._cache:
            key, size = (self.seed, list(_SPLITS).index(self.split), index), (self.height, self.width)
            name = self.sequence_names[index]
            self._cache[index] = SyntheticSequence(name, key, self.num_frames, size, self.max_objects)
            if len(self._cache) > _CACHED_VIDEOS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(index)
        return self._cache[index]
