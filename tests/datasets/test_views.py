"""Videos seen through others: behind a cache, or their first frames alone."""

import numpy as np
import pytest

from datasets import VideoSequence
from datasets.cache import CachedSequence, FrameCache, cached
from datasets.first_frames import FirstFrames, first_frames

IMAGE, MASK = 4 * 5 * 3, 4 * 5


class Late(VideoSequence):
    """Six frames; object 1 is there from the first, object 2 from the fourth; the frames 0, 3 and 5 are annotated."""

    frame_names = list("abcdef")  # noqa: RUF012
    categories = {1: "dog", 2: "emu"}  # noqa: RUF012
    requested_frames = [0, 2, 5]  # noqa: RUF012

    def __init__(self, name: str = "late", shade: int = 0) -> None:
        self.name, self.shade = name, shade
        self.read: list[tuple[str, int]] = []

    def image(self, t: int) -> np.ndarray:
        self.read.append(("image", t))
        return np.full((4, 5, 3), 10 * t + self.shade, np.uint8)

    def annotated(self, t: int) -> bool:
        return t in (0, 3, 5)

    def labels(self, t: int) -> np.ndarray | None:
        self.read.append(("labels", t))
        labels = np.zeros((4, 5), np.uint8)
        labels[0], labels[3] = 1, 2 * (t > 2)
        return labels if self.annotated(t) else None


class Plain(Late):
    """The same, which knows nothing of itself without decoding."""

    categories, requested_frames = VideoSequence.categories, VideoSequence.requested_frames
    annotated = VideoSequence.annotated

    def labels(self, t: int) -> np.ndarray | None:
        return Late().labels(t)


def test_what_a_sequence_says_of_itself():
    plain, late = Plain(), Late()
    assert [plain.annotated(t) for t in range(6)] == [True, False, False, True, False, True]
    assert plain.categories == {} and plain.requested_frames == [0, 1, 2, 3, 4, 5]
    assert plain.first_frame_of == late.first_frame_of == {1: 0, 2: 3}
    assert late.read == [("labels", t) for t in (0, 3, 5)], "no frame without annotation is decoded"


def test_a_cache_gives_what_the_sequence_gives_and_reads_it_once():
    video = Late()
    (fast,) = cached([video], 0.1)
    assert (fast.name, fast.frame_names, fast.requested_frames) == ("late", video.frame_names, [0, 2, 5])
    assert fast.categories == video.categories and [fast.annotated(t) for t in (0, 1)] == [True, False]
    assert video.read == [], "answers need no decoding"
    assert fast.first_frame_of == {1: 0, 2: 3}
    video.read.clear()
    for _ in range(3):
        for t in range(6):
            np.testing.assert_array_equal(fast.image(t), np.full((4, 5, 3), 10 * t))
            assert (fast.labels(t) is None) == (t not in (0, 3, 5))
    assert sorted(video.read) == sorted((kind, t) for kind in ("image", "labels") for t in range(6))


@pytest.mark.parametrize("names", ["ab", "aa"])
def test_videos_share_a_cache_and_are_kept_apart(names):
    """Also two of one name, of different data sets."""
    videos = [Late(name, shade) for shade, name in enumerate(names)]
    fast = cached(videos, 1.0)
    assert [x.image(1).flat[0] for x in (*fast, *fast)] == [10, 11, 10, 11]
    assert [video.read for video in videos] == [[("image", 1)], [("image", 1)]]


def test_a_cache_keeps_to_its_bytes_and_drops_what_was_not_used_for_longest():
    video = Late()
    cache = FrameCache(2 * IMAGE + MASK)
    fast = CachedSequence(video, cache)
    for t in (0, 1, 0, 2, 0):  # 2 drops 1
        fast.image(t)
    assert video.read == [("image", 0), ("image", 1), ("image", 2)]
    for t in range(6):
        fast.labels(t), fast.image(t)
        held = sum(0 if value is None else value.nbytes for value in cache._items.values())
        assert held == cache._bytes <= cache.max_bytes
    tight = CachedSequence(Late(), FrameCache(1))
    assert [tight.image(t).flat[0] for t in (0, 1, 0)] == [0, 10, 0], "larger than the cache"


def test_the_beginning_of_a_video_is_a_video():
    video = FirstFrames(Late(), 3)
    assert (video.name, video.frame_names, len(video), video.size) == ("late", ["a", "b", "c"], 3, (4, 5))
    assert video.image(2).flat[0] == video.image(-1).flat[0] == 20
    assert [video.annotated(t) for t in range(3)] == [True, False, False] and video.labels(1) is None
    assert video.first_frame_of == {1: 0} and video.requested_frames == [0, 2] and video.categories[1] == "dog"
    for method in (video.image, video.labels, video.annotated):
        with pytest.raises(IndexError):
            method(3)
    assert FirstFrames(Late(), 4).first_frame_of == {1: 0, 2: 3} and len(FirstFrames(Late(), 9)) == 6
    videos = [Late("a"), Late("b")]
    assert [len(x) for x in first_frames(videos, 2)] == [2, 2] and first_frames(videos, None) == videos
