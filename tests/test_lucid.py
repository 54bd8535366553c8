import dataclasses

import cv2
import numpy as np
import pytest

from datasets import SyntheticVideos
from stg_pyg.dreams import DreamCache
from stg_pyg.lucid import (
    LucidConfig,
    degrade,
    draw_sample,
    jitter_colours,
)
from stg_pyg.rough_masks import corrupt_mask, deform, warp_by_flow
from stg_pyg.windows import PADDING_COLOUR, cut

PLAIN = LucidConfig(
    size=32,
    flow_share=0.0,
    blank_share=0.0,
    box_share=0.0,
    misplaced_share=0.0,
    absent_share=0.0,
    background_share=0.0,
    distractor_share=0.0,
)


class Frames:
    """A video of given frames and label maps."""

    def __init__(self, images, labels):
        self._images, self._labels = images, labels
        self.num_frames = len(images)

    def image(self, t):
        return self._images[t].copy()

    def labels(self, t):
        return None if self._labels[t] is None else self._labels[t].copy()


def scene(height=48, width=64, boxes=(("3", 0, (6, 8, 24, 30)), ("7", 1, (34, 14, 56, 40)))):
    """A blue frame with a red object 3 and a green object 7."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2] = 200
    labels = np.zeros((height, width), np.uint8)
    for name, channel, (x0, y0, x1, y1) in boxes:
        image[y0:y1, x0:x1] = 0
        image[y0:y1, x0:x1, channel] = 200
        labels[y0:y1, x0:x1] = int(name)
    return image, labels


def two_objects(num_frames=1, **kwargs):
    image, labels = scene(**kwargs)
    return Frames([image] * num_frames, [labels] * num_frames)


def has_colour(image, channel):
    """Pixels where a channel is far above the others, after any of the colour jitter."""
    others = np.delete(image.astype(int), channel, axis=2).max(axis=2)
    return image[..., channel].astype(int) - others > 50


def iou(a, b):
    union = (a | b).sum()
    return (a & b).sum() / union if union else 1.0


def check_sample(sample, size):
    assert sample.image.shape == (size, size, 3)
    assert sample.q.shape == sample.target.shape == (size, size)
    for array in sample:
        assert array.dtype == np.uint8 and array.flags["C_CONTIGUOUS"]


@pytest.fixture(scope="module")
def videos():
    return list(SyntheticVideos("train", num_videos=3, num_frames=6, height=48, width=64))


@pytest.mark.parametrize("config", [LucidConfig(size=32), LucidConfig(size=48, dream_share=1.0), PLAIN])
def test_same_seed_same_bytes(videos, config):
    def draw(seed):
        rng = np.random.default_rng(seed)
        return [draw_sample(rng, videos, config, k % 3) for k in range(6)]

    first, second = draw(5), draw(5)
    for a, b in zip(first, second, strict=True):
        assert all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))
        check_sample(a, config.size)
    assert any(a.image.tobytes() != b.image.tobytes() for a, b in zip(first, draw(6), strict=True))


def test_samples_without_dreams_are_pinned(videos):
    """Training that goes on from a checkpoint sees what it would have seen: another draw would shift all others."""
    rng = np.random.default_rng(11)
    samples = [draw_sample(rng, videos, LucidConfig(size=32), k % 3) for k in range(12)]
    assert rng.integers(2**32) == 3705260804
    means = [np.mean([array.mean() for array in arrays]) for arrays in zip(*samples, strict=True)]
    np.testing.assert_allclose(means, [85.1, 34.0, 36.0], atol=1.0)  # what OpenCV computes may differ in the last bit


def test_cached_dreams_are_the_same(videos):
    config, cache = LucidConfig(size=32, dream_share=1.0), DreamCache(2)
    first, second = ([np.random.default_rng(k) for k in range(12)] for _ in range(2))
    for k, (one, two) in enumerate(zip(first, second, strict=True)):
        a = draw_sample(one, videos, config, k % 3)
        b = draw_sample(two, videos, config, k % 3, cache)
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_q_of_a_dream_follows_the_target(videos):
    config = dataclasses.replace(PLAIN, size=64, dream_share=1.0)
    image, labels = scene(96, 128, boxes=(("1", 0, (40, 30, 90, 70)),))
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 160, image.shape), (0, 0), 1.5)
    image = np.clip(image + 40 + noise, 0, 255).astype(np.uint8)
    values = []
    for seed in range(40):
        sample = draw_sample(np.random.default_rng(seed), [Frames([image], [labels])], config, 0)
        values.append(iou(sample.q > 127, sample.target > 127))
    assert np.median(values) > 0.75


def test_samples_do_not_change_the_videos():
    video = two_objects(2)
    before = [video.image(t).tobytes() + video.labels(t).tobytes() for t in range(2)]
    config = LucidConfig(size=32, dream_share=0.5)
    rng = np.random.default_rng(0)
    for _ in range(10):
        draw_sample(rng, [video], config, 0)
    assert before == [video.image(t).tobytes() + video.labels(t).tobytes() for t in range(2)]


def test_target_is_the_mask_of_one_object():
    video, rng, seen = two_objects(), np.random.default_rng(0), set()
    for _ in range(24):
        sample = draw_sample(rng, [video], PLAIN, 0)
        target = sample.target > 127
        assert target.any()
        red, green = has_colour(sample.image, 0), has_colour(sample.image, 1)
        channel = int(green[target].sum() > red[target].sum())
        seen.add(channel)
        assert iou(target, (red, green)[channel]) > 0.85
        assert (red, green)[1 - channel][target].mean() < 0.05
    assert seen == {0, 1}


def test_target_is_that_of_the_dreamt_object():
    rng = np.random.default_rng(1)
    config = dataclasses.replace(PLAIN, dream_share=1.0)
    values = []
    for _ in range(12):
        sample = draw_sample(rng, [two_objects(height=64, width=96)], config, 0)
        target = sample.target > 127
        colours = [has_colour(sample.image, channel) for channel in (0, 1)]
        values.append(max(iou(target, colour) for colour in colours))
    assert np.median(values) > 0.75


@pytest.mark.parametrize(("flow_share", "frames"), [(0.0, 1), (1.0, 3)])
def test_q_is_a_rough_version_of_the_target(videos, flow_share, frames):
    image, labels = scene()
    noise = np.random.default_rng(0).integers(0, 60, image.shape, dtype=np.uint8)
    video = Frames([image + noise // 2] * frames, [labels] * frames)
    config = dataclasses.replace(PLAIN, flow_share=flow_share)
    rng = np.random.default_rng(2)
    values = []
    for _ in range(20):
        sample = draw_sample(rng, [video], config, 0)
        values.append(iou(sample.q > 127, sample.target > 127))
    assert 0.6 < np.median(values) < 1 and np.mean(values) > 0.5


def test_flow_sample_without_a_second_annotated_frame():
    image, labels = scene()
    video = Frames([image] * 3, [None, labels, None])
    rng = np.random.default_rng(0)
    for _ in range(5):
        sample = draw_sample(rng, [video], dataclasses.replace(PLAIN, flow_share=1.0), 0)
        assert sample.target.any() and sample.q.any()


def test_shares_of_one_are_always_drawn():
    video, rng = two_objects(), np.random.default_rng(3)
    for _ in range(5):
        assert not draw_sample(rng, [video], dataclasses.replace(PLAIN, blank_share=1.0), 0).q.any()
        boxes = draw_sample(rng, [video], dataclasses.replace(PLAIN, box_share=1.0), 0).q
        rows, columns = np.flatnonzero(boxes.any(axis=1)), np.flatnonzero(boxes.any(axis=0))
        inside = boxes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (inside == 255).all() and (boxes > 0).sum() == inside.size


def test_samples_taken_elsewhere_have_hardly_any_target():
    image, labels = scene(96, 160, boxes=(("1", 0, (8, 8, 20, 20)),))
    config = dataclasses.replace(PLAIN, absent_share=1.0)
    rng = np.random.default_rng(0)
    shares = [(draw_sample(rng, [Frames([image], [labels])], config, 0).target > 127).mean() for _ in range(30)]
    assert np.mean(np.array(shares) == 0) > 0.6


def test_background_is_swapped_and_the_object_stays():
    image, labels = scene(boxes=(("1", 0, (6, 8, 40, 36)),))
    foreign = Frames([np.full((48, 64, 3), (0, 200, 0), np.uint8)], [labels])
    config = dataclasses.replace(PLAIN, background_share=1.0)
    rng = np.random.default_rng(0)
    greens, reds = [], []
    for _ in range(16):
        sample = draw_sample(rng, [Frames([image], [labels]), foreign], config, 0)
        target = sample.target > 127
        greens.append(has_colour(sample.image, 1)[~target].mean())
        reds.append(has_colour(sample.image, 0)[target].mean())
    assert max(greens) > 0.8 and min(reds) > 0.6


def test_what_a_distractor_covers_is_not_target():
    image, labels = scene(boxes=(("1", 0, (6, 8, 40, 36)),))
    other_image, other_labels = scene(boxes=(("1", 1, (6, 8, 40, 36)),))
    config = dataclasses.replace(PLAIN, distractor_share=1.0)
    rng = np.random.default_rng(0)
    videos = [Frames([image], [labels]), Frames([other_image], [other_labels])]
    covered = []
    for _ in range(16):
        sample = draw_sample(rng, videos, config, 0)
        target, green = sample.target > 127, has_colour(sample.image, 1)
        covered.append(green.sum())
        assert (green & target).sum() <= 0.1 * max(target.sum(), 1)
    assert max(covered) > 50


@pytest.mark.parametrize("config", [PLAIN, LucidConfig(size=64), LucidConfig(size=128, dream_share=1.0)])
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((48, 64), (20, 20, 21, 21)),
        ((48, 64), (0, 0, 5, 4)),
        ((48, 64), (60, 44, 64, 48)),
        ((48, 64), (0, 0, 64, 48)),
        ((48, 64), (30, 0, 31, 48)),
        ((32, 40), (10, 10, 20, 25)),
    ],
    ids=["pixel", "corner", "last_corner", "everything", "line", "small_frame"],
)
def test_odd_objects_and_frames(config, size, box):
    image, labels = scene(*size, boxes=(("9", 0, box),))
    rng = np.random.default_rng(0)
    samples = [draw_sample(rng, [Frames([image], [labels])], config, 0) for _ in range(4)]
    for sample in samples:
        check_sample(sample, config.size)


@pytest.mark.parametrize("box", [(0, 0, 12, 10), (52, 38, 64, 48), (20, 20, 24, 24)])
def test_small_objects_and_those_at_the_border_are_in_their_samples(box):
    image, labels = scene(boxes=(("9", 0, box),))
    rng = np.random.default_rng(0)
    for _ in range(8):
        sample = draw_sample(rng, [Frames([image], [labels])], PLAIN, 0)
        assert iou(sample.target > 127, has_colour(sample.image, 0)) > 0.7


def test_object_that_is_rarely_annotated_is_found():
    image, labels = scene()
    video = Frames([image] * 200, [None] * 137 + [labels] + [np.zeros_like(labels)] * 62)
    for seed in range(3):
        sample = draw_sample(np.random.default_rng(seed), [video], PLAIN, 0)
        assert sample.target.any()


@pytest.mark.parametrize("label", [None, np.zeros((48, 64), np.uint8)])
def test_video_without_objects_is_refused(label):
    with pytest.raises(ValueError, match="no annotated object"):
        draw_sample(np.random.default_rng(0), [Frames([scene()[0]] * 2, [label] * 2)], PLAIN, 0)


def test_cut_by_hand():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    window = np.array([[1.0, 0, 7], [0, 1.0, 4]])
    assert np.array_equal(cut(image, window, 12), image[4:16, 7:19])
    assert np.array_equal(cut(image[..., 0], window, 12, mask=True), image[4:16, 7:19, 0])
    half = cut(np.full((24, 30, 3), 77, np.uint8), np.array([[2.0, 0, 5], [0, 2.0, 2]]), 10)
    assert half.shape == (10, 10, 3) and (half == 77).all()


@pytest.mark.parametrize("scale", [2, 4])
def test_cut_averages_whole_pixels(scale):
    image = np.random.default_rng(0).integers(0, 255, (32, 48), dtype=np.uint8)
    window = np.array([[scale, 0, 8.0], [0, scale, 4.0]])
    part = image[4 : 4 + 5 * scale, 8 : 8 + 5 * scale].astype(float).reshape(5, scale, 5, scale)
    np.testing.assert_allclose(cut(image, window, 5), part.mean(axis=(1, 3)), atol=1.0)


def test_cut_of_a_scaled_window_keeps_places():
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 32:64] = 255
    expected = np.zeros((16, 16), bool)
    expected[4:12, 8:] = True
    crop = cut(mask, np.array([[4.0, 0, 0], [0, 4.0, 0]]), 16, mask=True)
    assert np.array_equal(crop > 127, expected)
    larger = cut(mask, np.array([[0.5, 0, 24], [0, 0.5, 8]]), 32, mask=True)
    expected = np.zeros((32, 32), bool)
    expected[16:, 16:] = True
    assert np.array_equal(larger > 127, expected)


def test_cut_outside_of_the_frame():
    window = np.array([[1.0, 0, 100], [0, 1.0, 100]])
    assert (cut(np.zeros((20, 30, 3), np.uint8), window, 8) == PADDING_COLOUR).all()
    assert not cut(np.full((20, 30), 255, np.uint8), window, 8, mask=True).any()


def test_warp_by_flow_follows_the_object():
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (24, 24), dtype=np.uint8), np.ones((4, 4), np.uint8))
    current, previous = np.full((2, 64, 64, 3), 90, np.uint8)
    current[20:48, 24:52], previous[20:48, 20:48] = texture[:28, :28, None], texture[:28, :28, None]
    mask, truth = np.zeros((2, 64, 64), np.uint8)
    mask[20:48, 20:48] = truth[20:48, 24:52] = 255
    warped = warp_by_flow(current, previous, mask)
    assert warped.dtype == np.uint8
    assert iou(warped > 127, truth > 127) > 0.9 > iou(mask > 127, truth > 127)
    still = warp_by_flow(previous, previous, mask)
    assert iou(still > 127, mask > 127) > 0.98


def test_deform_keeps_most_of_the_mask_and_changes_some():
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 20:44] = 255
    rng = np.random.default_rng(0)
    values = [iou(deform(rng, mask, strength=1.0) > 127, mask > 127) for _ in range(20)]
    assert 0.5 < np.median(values) < 1.0
    weak = [iou(deform(rng, mask, strength=0.1) > 127, mask > 127) for _ in range(20)]
    assert np.median(weak) > np.median(values)
    assert not deform(rng, np.zeros_like(mask), strength=1.0).any()


def test_degrade_leaves_its_input_alone():
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 20:44] = 255
    before, rng = mask.copy(), np.random.default_rng(0)
    for _ in range(40):
        result = degrade(rng, mask, mask, LucidConfig())
        assert result.dtype == np.uint8 and result.shape == mask.shape
    assert np.array_equal(mask, before)


def test_jitter_of_colours():
    image, _ = scene()
    rng = np.random.default_rng(0)
    results = [jitter_colours(rng, image) for _ in range(10)]
    assert all(x.dtype == np.uint8 and x.shape == image.shape for x in results)
    assert len({x.tobytes() for x in results}) > 5


@pytest.mark.parametrize("box", [(10, 8, 40, 30), (20, 20, 21, 21), (0, 0, 64, 48), (60, 0, 64, 3)])
@pytest.mark.parametrize("value", [1.0, 0.6])
def test_corrupt_mask_stays_a_mask(box, value):
    x0, y0, x1, y1 = box
    mask = np.zeros((48, 64), np.float32)
    mask[y0:y1, x0:x1] = value
    before, changed = mask.copy(), 0
    for seed in range(30):
        result = corrupt_mask(np.random.default_rng(seed), mask)
        assert result.shape == mask.shape and result.dtype == np.float32
        assert result.any() and result.min() >= 0 and result.max() <= 1
        assert np.array_equal(mask, before)
        changed += not np.array_equal(result, mask)
    assert changed > 10


def test_corrupt_mask_works_around_the_object():
    mask = np.zeros((96, 160), np.float32)
    mask[40:60, 40:70] = 1
    for seed in range(20):
        result = corrupt_mask(np.random.default_rng(seed), mask)
        assert not result[:, 110:].any()
        again = corrupt_mask(np.random.default_rng(seed), mask)
        assert np.array_equal(result, again)


def test_corrupt_mask_of_nothing():
    empty = np.zeros((8, 8), np.float32)
    assert not corrupt_mask(np.random.default_rng(0), empty).any()
