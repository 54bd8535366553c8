import numpy as np
import pytest

from datasets import SyntheticVideos, VideoSequence
from datasets.first_frames import FirstFrames, first_frames


class Late(VideoSequence):
    """Six frames; object 1 is there from the first, object 2 from the fourth; the frames 0, 3 and 5 are annotated."""

    name, frame_names = "late", [f"{t}" for t in range(6)]
    categories = {1: "dog", 2: "emu"}  # noqa: RUF012
    requested_frames = [0, 2, 5]  # noqa: RUF012

    def image(self, t: int) -> np.ndarray:
        return np.full((4, 5, 3), t, np.uint8)

    def annotated(self, t: int) -> bool:
        return t in (0, 3, 5)

    def labels(self, t: int) -> np.ndarray | None:
        if not self.annotated(t):
            return None
        labels = np.zeros((4, 5), np.uint8)
        labels[0], labels[3] = 1, 2 * (t > 2)
        return labels


def test_the_beginning_is_a_video():
    video = FirstFrames(Late(), 3)
    assert (video.name, video.frame_names, len(video), video.size) == ("late", ["0", "1", "2"], 3, (4, 5))
    assert video.image(2)[0, 0, 0] == 2 and video.image(-1)[0, 0, 0] == 2
    assert [video.annotated(t) for t in range(3)] == [True, False, False] and video.labels(1) is None
    assert video.first_frame_of == {1: 0} and video.requested_frames == [0, 2] and video.categories[1] == "dog"
    for method in (video.image, video.labels, video.annotated):
        with pytest.raises(IndexError):
            method(3)
    assert FirstFrames(Late(), 4).first_frame_of == {1: 0, 2: 3}
    assert len(FirstFrames(Late(), 9)) == 6


def test_all_videos_of_a_data_set():
    videos = SyntheticVideos("val", 2, 4, height=32, width=48)
    short = first_frames(videos, 2)
    assert [len(video) for video in short] == [2, 2] and [video.name for video in short] == videos.sequence_names
    assert np.array_equal(short[1].image(1), videos[1].image(1))
    assert [type(video) for video in first_frames(videos, None)] == [type(video) for video in videos]
