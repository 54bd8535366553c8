import numpy as np
import pytest

from datasets import SyntheticVideos, VideoSequence
from datasets.cache import cached

SIDE = 6


class Plain(VideoSequence):
    """Three frames, the middle one not annotated; object 4 comes in the last one."""

    def __init__(self) -> None:
        self.name, self.frame_names = "plain", ["a", "b", "c"]
        self.decoded: list[int] = []

    def image(self, t: int) -> np.ndarray:
        return np.zeros((SIDE, SIDE, 3), np.uint8)

    def labels(self, t: int) -> np.ndarray | None:
        self.decoded.append(t)
        labels = np.zeros((SIDE, SIDE), np.uint8)
        labels[1, 1], labels[3, 3] = 2, 4 * (t == 2)
        return None if t == 1 else labels


class Rich(Plain):
    """The same, and it knows more of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.categories = {2: "dog", 4: "cat"}

    @property
    def requested_frames(self) -> list[int]:  # type: ignore[override]
        return [0, 2]

    def annotated(self, t: int) -> bool:
        return t != 1


def test_what_a_sequence_says_without_more_knowledge():
    video = Plain()
    assert [video.annotated(t) for t in range(3)] == [True, False, True]
    assert video.categories == {} and video.requested_frames == [0, 1, 2]
    assert video.first_frame_of == {2: 0, 4: 2} and video.object_ids == [2, 4]
    synthetic = SyntheticVideos("val", num_videos=1, num_frames=3, height=32, width=48)[0]
    assert synthetic.annotated(2) and synthetic.requested_frames == [0, 1, 2]


def test_frames_without_annotation_are_not_decoded():
    video = Rich()
    assert video.first_frame_of == {2: 0, 4: 2}
    assert video.decoded == [0, 2]


@pytest.mark.parametrize("make", [Plain, Rich])
def test_the_cache_passes_everything_through(make):
    video = make()
    (fast,) = cached([video], 0.01)
    assert fast.categories == video.categories
    assert fast.requested_frames == video.requested_frames
    assert [fast.annotated(t) for t in range(3)] == [True, False, True]
    assert fast.first_frame_of == video.first_frame_of


def test_the_cache_does_not_decode_to_answer():
    video = Rich()
    (fast,) = cached([video], 0.01)
    assert fast.annotated(0) and not fast.annotated(1) and fast.requested_frames == [0, 2]
    assert video.decoded == []
