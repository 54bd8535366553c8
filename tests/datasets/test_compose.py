import cv2
import numpy as np
import pytest

from datasets import ComposedVideos, SyntheticVideos, VideoSequence
from datasets.composed.parts import Actor, Source
from stg_pyg.errors import InputError

HEIGHT, WIDTH = 60, 100
COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (180, 180, 30), (30, 180, 180)]


class Square(VideoSequence):
    """A square of one colour that moves to the right in front of grey."""

    def __init__(self, number: int, num_frames=20, speed=1.0, seen=range(99), height=99, sparse=False):
        self.name, self.frame_names = f"square{number}", [f"{t:05d}" for t in range(num_frames)]
        self.number, self.speed, self.seen, self.height, self.sparse = number, speed, seen, height, sparse
        self.reads = 0

    def image(self, t: int) -> np.ndarray:
        image = np.full((HEIGHT, WIDTH, 3), 100 + self.number, np.uint8)
        image[self.labels(t) > 0] = COLOURS[self.number]
        return image

    def labels(self, t: int) -> np.ndarray | None:
        self.reads += 1
        if self.sparse and t:
            return None
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        x = round(30 + self.speed * t)
        height = min(20 + self.number, self.height)
        labels[20 : 20 + height, x : x + 20] = 1 + self.number % 2 if t in self.seen else 0
        return labels


@pytest.fixture
def squares() -> list[VideoSequence]:
    return [Square(i, num_frames=20 + i) for i in range(5)]


def interior(mask: np.ndarray) -> np.ndarray:
    return cv2.erode(np.pad(mask.astype(np.uint8), 1), np.ones((7, 7), np.uint8))[1:-1, 1:-1] > 0


def test_every_video_is_the_ground_in_turn(squares):
    dataset = ComposedVideos(squares, 7, objects=(2, 3), seed=0, split="train")
    grounds = [name.split("-", 1)[1] for name in dataset.sequence_names]
    assert len(set(grounds[:5])) == 5 and grounds[5:] == grounds[:2]
    ground = next(s for s in squares if s.name == grounds[0])
    assert dataset[0].frame_names == ground.frame_names and dataset[0].size == (HEIGHT, WIDTH)


def test_pixels_are_those_of_the_nearest_object(squares):
    by_name, checked, hidden = {s.name: s for s in squares}, 0, 0
    for video in ComposedVideos(squares, 6, objects=(3, 4), seed=1):
        ground = by_name[video.name.split("-", 1)[1]]
        colours = [np.array(COLOURS[ground.number], float)]
        colours += [np.clip(np.array(COLOURS[a.source.video.number]) * a.gain, 0, 255) for a in video.actors]
        for t in range(0, len(video), 4):
            image, labels = video.image(t).astype(float), video.labels(t)
            whole = [ground.labels(t) > 0, *(actor.alpha(t, video.size) >= 128 for actor in video.actors)]
            for i, (mask, colour) in enumerate(zip(whole, colours, strict=True)):
                in_front = np.any([np.zeros_like(mask), *whole[i + 1 :]], axis=0)
                np.testing.assert_array_equal(labels == i + 1, mask & ~in_front)
                hidden += np.count_nonzero(mask & in_front)
                inside = interior(labels == i + 1)
                checked += bool(inside.any())
                assert not inside.any() or np.abs(image[inside] - colour).max() <= 2, (video.name, t, i + 1)
            outside = interior(labels == 0)
            np.testing.assert_array_equal(image[outside], ground.image(t)[outside])
    assert checked > 20 and hidden > 100


def test_every_object_is_visible_where_it_first_appears():
    base = list(SyntheticVideos("train", num_videos=8, num_frames=24, height=96, width=160, max_objects=2))
    dataset = ComposedVideos(base, 8, objects=(2, 4), seed=0)
    late, counts = [], []
    for video in dataset:
        for obj_id, first in video.first_frame_of.items():
            assert np.count_nonzero(video.labels(first) == obj_id) >= 20
            assert not any((video.labels(t) == obj_id).any() for t in range(first))
        late.append(max(video.first_frame_of.values()) > 0)
        counts.append(len(video.object_ids))
    assert late == [False, True, False, False] * 2 and min(counts) >= 2 and max(counts) == 4


def test_how_much_of_an_object_must_be_visible():
    """At least 20 pixels, and 200 in frames of 854 x 480."""
    video = ComposedVideos([Square(0, speed=0, height=12), Square(1, speed=0)], 2)[0]
    x, y = video._ground.centers[0]
    for right, share in ((1, 0), (2, 0), (3, 0.1), (11, 0.5)):
        # 22 columns are opaque, and reach one beyond the object on either side.
        covering = Actor(video._others[0], 0, 0, 1.2, False, (float(x) + right, float(y)), (1.0, 1.0))
        assert video._visible_share([covering]) == pytest.approx(share), right
    for height, width, least in ((480, 854, 200), (960, 1708, 800)):
        video.size = height, width
        assert video._min_visible == least


def test_same_bytes_again_in_any_order(squares):
    first, second = (ComposedVideos(squares, n, seed=3) for n in (3, 5))
    again = [second[2].image(t) for t in reversed(range(len(second[2])))][::-1]
    assert all(np.array_equal(first[2].image(t), frame) for t, frame in enumerate(again))
    assert np.array_equal(first[1].labels(4), second[1].labels(4))
    other = ComposedVideos(squares, 3, seed=4)
    assert any(
        a.name != b.name or not np.array_equal(a.image(0), b.image(0)) for a, b in zip(first, other, strict=True)
    )


def test_nothing_is_read_before_it_is_needed(squares):
    dataset = ComposedVideos(squares, 5)
    names = [(video.name, len(video)) for video in dataset]
    assert len(names) == 5 and sum(s.reads for s in squares) <= len(squares), "the first masks alone"
    dataset[0].labels(0)
    planned = sum(s.reads for s in squares)
    dataset[0].labels(7)
    assert sum(s.reads for s in squares) - planned <= len(dataset[0].object_ids)


def test_an_object_moves_as_in_its_own_video():
    source = Source(Square(1, num_frames=20, speed=2.0))
    actor = Actor(source, 0, 0, 0.5, False, (50.0, 30.0), (1.0, 1.0))
    centers = []
    for t in range(4, 15):
        opacity = actor.alpha(t, (HEIGHT, WIDTH)).sum(axis=0) / 255.0
        centers.append(float((opacity * (np.arange(WIDTH) + 0.5)).sum() / opacity.sum()))
        assert centers[-1] == pytest.approx(actor.center(t)[0], abs=0.1)
        assert abs(np.count_nonzero(opacity > opacity.max() / 2) - 9) <= 1, "half as wide, less the edge"
    np.testing.assert_allclose(np.diff(centers), 1.0, atol=0.1)
    mirrored = Actor(source, 0, 0, 0.5, True, (50.0, 30.0), (1.0, 1.0))
    assert mirrored.center(10)[0] - 50 == pytest.approx(50 - actor.center(10)[0])
    assert [actor.frame(t) for t in (0, 19, 20, 38, 39)] == [0, 19, 18, 0, 1], "backwards at the end"
    assert not Actor(source, 0, 5, 1.0, False, (50.0, 30.0), (1.0, 1.0)).alpha(4, (HEIGHT, WIDTH)).any()


def test_an_object_that_leaves_its_own_video_is_hidden():
    video = ComposedVideos([Square(0), Square(1, seen=range(10))], 2, objects=(2, 2), seed=0)
    composed = next(v for v in video if v.name.endswith("square0"))
    shown = [bool((composed.labels(t) == 2).any()) for t in range(20)]
    assert any(shown) and not all(shown)


def test_wrong_arguments_and_videos(squares):
    for arguments in ({"num_videos": 0}, {"num_videos": 1, "objects": (3, 2)}, {"num_videos": 1, "seed": -1}):
        with pytest.raises(ValueError):
            ComposedVideos(squares, **arguments)
    for videos, message in (
        (squares[:1], "at least two"),
        ([Square(0, seen=()), Square(1, seen=())], "shows an object"),
    ):
        with pytest.raises(InputError, match=message):
            ComposedVideos(videos, 1)
    with pytest.raises(InputError, match=r"square[01] is not annotated"):
        ComposedVideos([Square(0, sparse=True), Square(1, sparse=True)], 2)[0].labels(0)
