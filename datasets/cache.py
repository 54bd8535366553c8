"""Keeps decoded frames in memory while a network is trained on them again and again."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from datasets.base import UInt8Array, VideoSequence


class FrameCache:
    """Frames and masks up to a number of bytes; the ones not used for longest leave first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._items: OrderedDict[tuple[VideoSequence, str, int], UInt8Array | None] = OrderedDict()
        self._bytes = 0

    def get(self, sequence: VideoSequence, kind: str, t: int) -> UInt8Array | None:
        """Frame (``image``) or mask (``labels``) ``t`` of a sequence."""
        key = (sequence, kind, t)  # not its name, which videos of two data sets may share
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key]
        value = sequence.image(t) if kind == "image" else sequence.labels(t)
        self._items[key] = value
        self._bytes += 0 if value is None else value.nbytes
        while self._bytes > self.max_bytes and len(self._items) > 1:
            _, old = self._items.popitem(last=False)
            self._bytes -= 0 if old is None else old.nbytes
        return value


class CachedSequence(VideoSequence):
    """A sequence that reads through a cache, which several sequences may share."""

    def __init__(self, sequence: VideoSequence, cache: FrameCache) -> None:
        self.name, self.frame_names = sequence.name, sequence.frame_names
        self._sequence, self._cache = sequence, cache

    @property
    def files(self) -> list[Path]:
        return self._sequence.files

    @property
    def first_frame_of(self) -> dict[int, int]:  # type: ignore[override]
        """As the sequence itself says."""
        return self._sequence.first_frame_of

    @property
    def categories(self) -> dict[int, str]:  # type: ignore[override]
        """As the sequence itself says."""
        return self._sequence.categories

    @property
    def requested_frames(self) -> list[int]:  # type: ignore[override]
        """As the sequence itself says."""
        return self._sequence.requested_frames

    def annotated(self, t: int) -> bool:
        return self._sequence.annotated(t)

    def image(self, t: int) -> UInt8Array:
        frame = self._cache.get(self._sequence, "image", t)
        assert frame is not None
        return frame

    def labels(self, t: int) -> UInt8Array | None:
        return self._cache.get(self._sequence, "labels", t)


def cached(sequences: list[VideoSequence], gigabytes: float) -> list[VideoSequence]:
    """The sequences behind one cache of that size."""
    cache = FrameCache(int(gigabytes * 2**30))
    return [CachedSequence(sequence, cache) for sequence in sequences]
