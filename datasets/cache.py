"""Keeps decoded frames in memory while a network is trained on them again and again."""

from __future__ import annotations

from collections import OrderedDict

from datasets.base import UInt8Array, VideoSequence
from datasets.first_frames import FirstFrames


class FrameCache:
    """Frames and masks up to a number of bytes; the ones not used for longest leave first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._items: OrderedDict[tuple[VideoSequence, bool, int], UInt8Array | None] = OrderedDict()
        self._bytes = 0

    def get(self, sequence: VideoSequence, mask: bool, t: int) -> UInt8Array | None:
        """Frame or mask ``t`` of a sequence."""
        key = (sequence, mask, t)  # not its name, which videos of two data sets may share
        if key not in self._items:
            self._items[key] = value = sequence.labels(t) if mask else sequence.image(t)
            self._bytes += 0 if value is None else value.nbytes
            while self._bytes > self.max_bytes and len(self._items) > 1:
                _, old = self._items.popitem(last=False)
                self._bytes -= 0 if old is None else old.nbytes
        self._items.move_to_end(key)
        return self._items[key]


class CachedSequence(FirstFrames):
    """A sequence that reads through a cache, which several sequences may share."""

    def __init__(self, sequence: VideoSequence, cache: FrameCache) -> None:
        super().__init__(sequence, len(sequence))
        self._cache = cache

    def image(self, t: int) -> UInt8Array:
        frame = self._cache.get(self._video, False, t)
        assert frame is not None
        return frame

    def labels(self, t: int) -> UInt8Array | None:
        return self._cache.get(self._video, True, t)


def cached(sequences: list[VideoSequence], gigabytes: float) -> list[VideoSequence]:
    """The sequences behind one cache of that size."""
    cache = FrameCache(int(gigabytes * 2**30))
    return [CachedSequence(sequence, cache) for sequence in sequences]
