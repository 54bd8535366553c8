import numpy as np
import pytest

from datasets import SyntheticVideos, VideoSequence
from datasets.cache import CachedSequence, FrameCache, cached

SIDE = 8
FRAME_BYTES = SIDE * SIDE * 3
MASK_BYTES = SIDE * SIDE


class Counted(VideoSequence):
    """A video that counts how often its files are read; frame 2 is not annotated, and object 7 comes in frame 3."""

    def __init__(self, name: str, num_frames: int = 5) -> None:
        self.name = name
        self.frame_names = [f"{t:05d}" for t in range(num_frames)]
        self.reads: list[tuple[str, int]] = []
        self.shade = 1

    def image(self, t: int) -> np.ndarray:
        self.reads.append(("image", t))
        return np.full((SIDE, SIDE, 3), 10 * t + self.shade, np.uint8)

    def labels(self, t: int) -> np.ndarray | None:
        self.reads.append(("labels", t))
        if t == 2:
            return None
        labels = np.zeros((SIDE, SIDE), np.uint8)
        labels[2:4, 2:4] = 1
        labels[5:7, 5:7] = 7 if t > 2 else 0
        return labels


class FirstFrameOnly(Counted):
    @property
    def first_frame_of(self) -> dict[int, int]:  # type: ignore[override]
        return {1: 0}


def test_gives_what_the_sequence_gives_and_reads_it_once():
    video = Counted("a")
    (fast,) = cached([video], 1.0)
    assert isinstance(fast, VideoSequence)
    assert (fast.name, fast.frame_names, fast.num_frames, len(fast)) == ("a", video.frame_names, 5, 5)
    for _ in range(3):
        for t in range(5):
            np.testing.assert_array_equal(fast.image(t), np.full((SIDE, SIDE, 3), 10 * t + 1))
            labels = fast.labels(t)
            assert (labels is None) == (t == 2)
    assert sorted(video.reads) == sorted([(kind, t) for kind in ("image", "labels") for t in range(5)])


@pytest.mark.parametrize("names", ["ab", "aa"])
def test_videos_share_the_cache_and_are_kept_apart(names):
    """Also two of one name, of different data sets."""
    videos = [Counted(name) for name in names]
    videos[1].shade = 2
    fast = cached(videos, 1.0)
    assert fast[0].image(1).flat[0] == 11 and fast[1].image(1).flat[0] == 12
    assert fast[0].image(1).flat[0] == 11
    assert [video.reads for video in videos] == [[("image", 1)], [("image", 1)]]


def test_frames_used_least_recently_leave_first():
    video = Counted("a")
    cache = FrameCache(2 * FRAME_BYTES)
    cache.get(video, "image", 0)
    cache.get(video, "image", 1)
    cache.get(video, "image", 0)
    cache.get(video, "image", 2)  # drops 1
    cache.get(video, "image", 0)
    assert video.reads == [("image", 0), ("image", 1), ("image", 2)]
    cache.get(video, "image", 1)
    assert video.reads[-1] == ("image", 1)


def test_stays_within_its_bytes():
    video = Counted("a", num_frames=20)
    cache = FrameCache(3 * FRAME_BYTES + MASK_BYTES)
    fast = CachedSequence(video, cache)
    for t in range(20):
        fast.image(t)
        fast.labels(t)
        held = sum(0 if value is None else value.nbytes for value in cache._items.values())
        assert held == cache._bytes <= cache.max_bytes


def test_an_item_larger_than_the_cache_is_still_given():
    video = Counted("a")
    fast = CachedSequence(video, FrameCache(1))
    for t in (0, 1, 0):
        assert fast.image(t).flat[0] == 10 * t + 1
    assert video.reads == [("image", 0), ("image", 1), ("image", 0)]


def test_same_frames_as_the_synthetic_videos():
    videos = list(SyntheticVideos("train", num_videos=2, num_frames=3, height=32, width=48))
    for video, fast in zip(videos, cached(videos, 0.1), strict=True):
        assert fast.size == video.size == (32, 48)
        assert fast.first_frame_of == video.first_frame_of
        for t in range(3):
            np.testing.assert_array_equal(fast.image(t), video.image(t))
            np.testing.assert_array_equal(fast.labels(t), video.labels(t))


@pytest.mark.parametrize(
    "video",
    [Counted("a"), FirstFrameOnly("b")],
    ids=["any frame", "first frame only"],
)
def test_objects_are_those_of_the_sequence(video):
    (fast,) = cached([video], 1.0)
    assert fast.first_frame_of == video.first_frame_of
    assert fast.object_ids == list(video.first_frame_of)
