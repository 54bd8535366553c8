import hashlib
import pickle
import weakref

import numpy as np
import pytest

from datasets import SyntheticVideos, VideoSequence
from stg_pyg.evaluation.metrics import region_similarity


def digest(video: VideoSequence, frames: range = range(0, 24, 6)) -> str:
    return hashlib.sha256(b"".join(video.image(t).tobytes() + video.labels(t).tobytes() for t in frames)).hexdigest()


@pytest.fixture(scope="module")
def videos() -> list[VideoSequence]:
    return list(SyntheticVideos("train", num_videos=16))


def test_names_and_numbers():
    dataset = SyntheticVideos("val", num_videos=3, num_frames=5, height=48, width=80)
    assert dataset.sequence_names == ["val-0000", "val-0001", "val-0002"]
    assert dataset[1].frame_names == ["00000", "00001", "00002", "00003", "00004"] and dataset[1].size == (48, 80)
    np.testing.assert_array_equal(dataset[1].image(-1), dataset[1].image(4))
    assert (len(SyntheticVideos("train")), len(SyntheticVideos("val")), len(SyntheticVideos("test"))) == (60, 12, 12)
    with pytest.raises(IndexError):
        dataset[1].image(5)


def test_same_bytes_again_in_any_order_whatever_the_caller_does_to_them():
    first, second = SyntheticVideos("test"), SyntheticVideos("test", num_videos=2)
    before = digest(first[1], range(24))
    assert before == digest(second[1], range(24)) == digest(pickle.loads(pickle.dumps(first))[1], range(24))
    backwards = SyntheticVideos("test")[1]
    frames = [backwards.image(t) for t in reversed(range(24))][::-1]
    assert all(np.array_equal(frame, first[1].image(t)) for t, frame in enumerate(frames))
    first[1].image(0)[:] = 0
    first[1].labels(0)[:] = 7
    assert digest(first[1], range(24)) == before


def test_videos_of_all_splits_and_seeds_differ():
    videos = [v for split in ("train", "val", "test") for v in SyntheticVideos(split, num_videos=8)]
    videos += SyntheticVideos("train", num_videos=8, seed=1)[:]
    assert len({digest(v, range(1)) for v in videos}) == 32


def test_memory_is_bounded_and_forgotten_videos_come_back():
    dataset = SyntheticVideos("train", num_videos=40, num_frames=2, height=32, width=48)
    before = digest(dataset[0], range(2))
    alive = [weakref.ref(video) for video in dataset]
    assert sum(ref() is not None for ref in alive) == 32 and alive[0]() is None
    assert digest(dataset[0], range(2)) == before


def test_objects_are_visible_at_once(videos):
    for video in videos:
        assert video.first_frame_of == dict.fromkeys(range(1, len(video.object_ids) + 1), 0)
        assert np.bincount(video.labels(0).ravel())[1:].min() >= 40
    assert {len(v.object_ids) for v in videos} == {1, 2, 3, 4}


@pytest.mark.parametrize("max_objects", [1, 2, 6])
def test_number_of_objects_is_bounded(max_objects):
    counts = {len(v.object_ids) for v in SyntheticVideos("val", max_objects=max_objects, num_frames=1)}
    assert 1 <= min(counts) <= max(counts) <= max_objects


@pytest.mark.parametrize(("height", "width", "num_frames"), [(32, 32, 1), (33, 400, 3), (200, 40, 2), (240, 426, 2)])
def test_other_sizes(height, width, num_frames):
    for video in SyntheticVideos("test", num_videos=4, num_frames=num_frames, height=height, width=width):
        assert video.size == (height, width) == video.labels(num_frames - 1).shape
        assert np.bincount(video.labels(0).ravel())[1:].min() >= 40 * (min(height, 0.6 * width) / 96) ** 2


def test_objects_disappear_and_return(videos):
    maps = [np.stack([v.labels(t) for t in range(len(v))]) for v in videos]
    areas = [np.stack([(x == i).sum(axis=(1, 2)) for i in v.object_ids], 1) for x, v in zip(maps, videos, strict=True)]
    gone = [(a == 0).any() for a in areas]
    back = [((a[:-1] == 0) & (a[1:] > 0)).any() for a in areas]
    assert 0.1 <= np.mean(gone) <= 0.7
    assert np.mean(back) >= 0.05


def test_objects_are_occluded_within_the_frame(videos):
    occluded = []
    for video in videos:
        actors = [a for a in video._scene.actors if a.label]
        lowest = 1.0
        for t in range(len(video)):
            labels = video.labels(t)
            for actor in actors:
                whole = np.count_nonzero(actor.mask(t, *video.size)[0] > 127)
                if whole >= 40:
                    lowest = min(lowest, np.count_nonzero(labels == actor.label) / whole)
        occluded.append(lowest < 0.6)
    assert 0.4 <= np.mean(occluded) <= 0.95


def test_objects_move_and_deform(videos):
    def likeness(*pairs: tuple[int, int]) -> float:
        all_of = [(v, i, s, t) for v in videos for i in v.object_ids for s, t in pairs]
        return float(np.mean([region_similarity(v.labels(s) == i, v.labels(t) == i) for v, i, s, t in all_of]))

    assert likeness((0, 6), (0, 12)) < 0.4 and likeness((4, 5)) > 0.5


def test_objects_look_unlike_their_surroundings_in_most_videos(videos):
    contrasts = []
    for video in videos:
        image, labels = video.image(0).astype(float), video.labels(0)
        background = image[labels == 0].mean(axis=0)
        contrasts += [np.linalg.norm(image[labels == i].mean(axis=0) - background) for i in video.object_ids]
    assert np.mean(np.array(contrasts) > 40) > 0.7
    unlabelled = [any(a.label == 0 for a in v._scene.actors) for v in videos]
    assert 0.4 <= np.mean(unlabelled) < 1, "distractors and occluders"


@pytest.mark.parametrize(
    "arguments",
    [{"split": "dev"}, {"height": 31}, {"num_frames": 0}, {"max_objects": 0}, {"seed": -1}, {"num_videos": -1}],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError):
        SyntheticVideos(**arguments)
