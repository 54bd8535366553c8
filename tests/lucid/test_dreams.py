from dataclasses import replace

import cv2
import numpy as np
import pytest
from dream_cases import RED, discs, has_colour, iou

from stg_pyg.lucid.dreamer import DreamCache, Dreamer
from stg_pyg.lucid.layers import FrameParts
from stg_pyg.lucid.motion import draw_light, draw_path
from stg_pyg.lucid.render import Scene, Thing, render
from stg_pyg.lucid.splines import ThinPlateSpline, apply, center_of
from stg_pyg.ops.windows import PADDING_COLOUR

CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
STILL = ThinPlateSpline(CORNERS, np.zeros((4, 2)))
WHOLE, STANDING = (np.eye(2, 3), (96, 144)), (np.eye(3), np.eye(3))


def shift(x, y):
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def thing(parts, obj, forward, motion=(0.0, 0.0), layer=None):
    return Thing(obj, parts.boxes[obj], forward, STILL, 0.0, motion, layer)


def paint(parts, *things, window=None, shape=None, focus=0, light=None, blur=0.0):
    scene = Scene(np.eye(3), things, light, blur)
    return render(parts, scene, np.eye(2, 3) if window is None else window, shape or parts.labels.shape, focus)


@pytest.fixture(scope="module")
def parts():
    return FrameParts(*discs())


@pytest.fixture(scope="module")
def dreamer():
    return Dreamer(*discs())


def pair(dreamer, seed):
    """Both whole frames of a dream with their labels."""
    dream, shape = dreamer.dream(np.random.default_rng(seed)), dreamer.labels.shape
    return [dreamer.render(scene, np.eye(2, 3), shape)[:2] for scene in (dream.previous, dream.current)]


# What is painted


def test_things_where_they_were_make_the_frame_and_move_by_whole_pixels(parts):
    image, labels, mask = paint(parts, *(thing(parts, obj, np.eye(3)) for obj in (3, 7)), focus=7)
    assert np.abs(image.astype(int) - parts.image).mean() < 2.5
    assert all(iou(labels == obj, parts.labels == obj) > 0.97 for obj in (3, 7))
    assert iou(mask > 127, parts.labels == 7) > 0.97
    image, labels, _ = paint(parts, thing(parts, 3, shift(10, -5)))
    expected = np.roll(parts.labels == 3, (-5, 10), axis=(0, 1))
    assert iou(labels == 3, expected) > 0.97 and iou(has_colour(image, 0), expected) > 0.9
    # A spline says where a point comes from, in sides of the box: from 10 pixels further right.
    bent = replace(
        thing(parts, 3, np.eye(3)), spline=ThinPlateSpline(CORNERS, np.full((4, 2), (10 / 37, 0))), reach=0.3
    )
    assert iou(paint(parts, bent).labels == 3, np.roll(parts.labels == 3, -10, axis=1)) > 0.95


def test_background_is_filled_with_texture_and_has_no_trace_of_the_objects(parts):
    for level in (0, 1, 2):
        assert not any(has_colour(parts.background(level), channel).any() for channel in (0, 1))
    far, inner = cv2.dilate(parts.labels, np.ones((15, 15), np.uint8)) == 0, cv2.erode(parts.labels, np.ones((9, 9)))
    background = parts.background(0)
    assert np.array_equal(background[far], parts.image[far])
    # Inpainting alone leaves a smooth spot in the shape of the object.
    detail = background.astype(np.float32)
    detail = np.abs(detail - cv2.GaussianBlur(detail, (0, 0), 2.0)).mean(axis=2)
    assert detail[inner > 0].mean() > 0.5 * detail[parts.labels == 0].mean()


def test_what_is_in_front_of_an_object_does_not_fill_its_place():
    image, labels = np.full((120, 120, 3), 90, np.uint8), np.zeros((120, 120), np.uint8)
    labels[20:100, 20:100] = 1
    image[50:70, 50:70], labels[50:70, 50:70] = RED, 0
    background = FrameParts(image, labels).background(0)
    ring = np.zeros(labels.shape, bool)
    ring[30:90, 30:90], ring[40:80, 40:80] = True, False
    assert np.abs(background[ring].astype(int) - 90).max() < 20


def test_a_cut_out_brings_no_background_along(parts):
    image, labels, _ = paint(parts, thing(parts, 3, shift(50, 2)), thing(parts, 7, shift(-50, 0)))
    ring = (labels == 3) & (cv2.erode((labels == 3).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    assert has_colour(image, 0)[ring].mean() > 0.6
    image, labels = np.full((60, 60, 3), 255, np.uint8), np.zeros((60, 60), np.uint8)
    cv2.circle(image, (30, 30), 16, RED, -1)
    cv2.circle(labels, (30, 30), 16, 1, -1)
    layer = FrameParts(cv2.GaussianBlur(image, (0, 0), 0.8), labels).object(1, 0)
    assert layer.rgb[layer.alpha > 100][:, 1].max() < 70, "mixed border pixels take the colour inside"


def test_later_things_are_in_front(parts):
    over = thing(parts, 3, np.eye(3)), thing(parts, 7, shift(-40, -2))
    for order, expected in ((over, 7), (over[::-1], 3)):
        image, labels, mask = paint(parts, *order, focus=3)
        y, x = 48, 50
        assert labels[y, x] == expected and has_colour(image, int(expected == 7))[y, x]
        assert mask[y, x] == (0 if expected == 7 else 255)
        assert np.array_equal(labels == 3, mask > 127)


def test_window_shows_the_same_scene(parts):
    things = [thing(parts, obj, shift(4, 3)) for obj in (3, 7)]
    whole = paint(parts, *things)
    part = paint(parts, *things, window=np.array([[1.0, 0, 20], [0, 1, 30]]), shape=(40, 64))
    assert np.abs(part.image.astype(int) - whole.image[30:70, 20:84]).max() <= 2
    assert np.array_equal(part.labels, whole.labels[30:70, 20:84])
    small = paint(parts, *things, window=np.array([[4.0, 0, 0], [0, 4, 0]]), shape=(24, 36))
    assert iou(small.labels == 3, cv2.resize(whole.labels, (36, 24), interpolation=cv2.INTER_NEAREST) == 3) > 0.75
    beyond = paint(parts, *things, window=np.array([[1.0, 0, 134], [0, 1, -10]]), shape=(20, 20))
    assert (beyond.image[:, 10:] == PADDING_COLOUR).all() and (beyond.image[:10] == PADDING_COLOUR).all()
    assert (beyond.image[10:, :10] != PADDING_COLOUR).any()


def test_light_and_blur(parts):
    dark = np.repeat((np.arange(256) // 2).astype(np.uint8)[:, None], 3, axis=1)
    plain, dim, soft = paint(parts), paint(parts, light=dark), paint(parts, blur=2.0)
    assert np.array_equal(dim.image, plain.image // 2) and soft.image.std() < plain.image.std()
    tables = [draw_light(np.random.default_rng(seed)) for seed in range(40)]
    assert 8 < sum(table is None for table in tables) < 32
    assert all((np.diff(table.astype(int), axis=0) >= 0).all() for table in tables if table is not None)

    def softness(x, y):
        """Of the whole mask, a row and a column, where motion blurs it along its path."""
        mask = paint(parts, thing(parts, 3, np.eye(3), motion=(x, y)), focus=3).mask
        edge = (mask > 20) & (mask < 235)
        return mask.astype(int).sum(), edge[48].sum(), edge[:, 45].sum()

    sharp, wide, high = softness(0, 0), softness(8, 0), softness(0, 8)
    assert abs(wide[0] - sharp[0]) < 0.02 * sharp[0] and abs(high[0] - sharp[0]) < 0.02 * sharp[0]
    assert wide[1] > sharp[1] + 6 > wide[2] and high[2] > sharp[2] + 6 > high[1]
    assert softness(0.5, 0.5) == sharp, "too short to be seen"


# What is dreamt


def test_labels_follow_the_pixels_and_the_second_motion_is_the_smaller(dreamer):
    values, first, second = [], [], []
    for seed in range(24):
        frames = pair(dreamer, seed)
        for image, labels in frames:
            assert image.dtype == labels.dtype == np.uint8 and image.shape == (*labels.shape, 3) == (96, 144, 3)
            assert set(np.unique(labels).tolist()) <= {0, 3, 7}
            seen = [(obj, channel) for obj, channel in ((3, 0), (7, 1)) if (labels == obj).sum() > 100]
            values += [iou(labels == obj, has_colour(image, channel)) for obj, channel in seen]
        before = frames[0][1] == 3
        first.append(iou(before, dreamer.labels == 3))
        second.append(iou(before, frames[1][1] == 3))
    assert len(values) > 60 and np.median(values) > 0.85 and np.mean(values) > 0.75
    assert np.median(second) > np.median(first) + 0.1 and np.median(second) > 0.6


def test_one_seed_one_dream_and_the_frame_is_not_changed(dreamer):
    image, labels = discs()
    other = Dreamer(image, labels)
    pair(other, 99)  # what was dreamt before has no influence
    assert np.array_equal(pair(dreamer, 5)[1][0], pair(other, 5)[1][0])
    assert not np.array_equal(pair(dreamer, 5)[1][0], pair(dreamer, 6)[1][0])
    assert all(np.array_equal(a, b) for a, b in zip((image, labels), discs(), strict=True))


def test_box_is_that_of_what_is_seen(dreamer):
    for seed in range(10):
        dream = dreamer.dream(np.random.default_rng(seed), 3)
        box, seen = dreamer.box(dream.current, 3), dreamer.render(dream.current, *WHOLE, 3).mask > 127
        if box is None or not seen.any():
            assert seen.sum() < 20
            continue
        ys, xs = np.nonzero(seen)
        np.testing.assert_allclose(box, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=4)


def test_something_passes_in_front_now_and_then(dreamer):
    dreams = [dreamer.dream(np.random.default_rng(seed), 3) for seed in range(80)]
    occluded = [d.current for d in dreams if d.current.things[-1].label == 0]
    assert 0.08 < len(occluded) / len(dreams) < 0.35
    hidden = []
    for scene in occluded:
        alone = Scene(scene.camera, scene.things[:-1], None, 0.0)
        masks = [dreamer.render(s, *WHOLE, 3).mask.sum(dtype=float) for s in (scene, alone)]
        hidden.append(1 - masks[0] / max(masks[1], 1))
    assert np.mean(hidden) > 0.1


def test_objects_cross_and_leave_now_and_then(dreamer):
    """Near the other one or a side of the frame; the lower side is where things stand."""
    size = 36
    crossings, exits = [], []
    for seed in range(120):
        scene = dreamer.dream(np.random.default_rng(seed), 3).previous
        by_label = {t.label: apply(t.forward, center_of(t.box)) for t in scene.things}
        crossings.append(np.abs(by_label[3] - by_label[7]).max() < 0.8 * size)
        exits.append(min(by_label[3][0], 144 - by_label[3][0], by_label[3][1]) < 0.3 * size)
    assert 0.08 < np.mean(crossings) < 0.4 and 0.02 < np.mean(exits) < 0.2


@pytest.mark.parametrize(("box", "axis"), [((0, 30, 40, 70), 0), ((100, 30, 144, 70), 0), ((50, 60, 90, 96), 1)])
def test_a_cut_side_stays_out_of_sight(box, axis):
    box, frame = np.array(box, float), (144, 96)
    for seed in range(20):
        path = draw_path(np.random.default_rng(seed), box, frame, STANDING)
        for matrix in (path.previous, path.current):
            corners = apply(matrix, np.array([[box[i], box[j]] for i in (0, 2) for j in (1, 3)]))
            if box[axis] == 0:
                assert corners[:2, axis].max() <= 1e-9
            else:
                side = corners[2:, 0] if axis == 0 else corners[1::2, 1]
                assert side.min() >= frame[axis] - 1e-9


@pytest.mark.parametrize("box", [(7, 9, 8, 10), (0, 12, 40, 13), (0, 0, 40, 30), None])
@pytest.mark.parametrize("size", [(30, 40), (2, 3)])
def test_odd_objects_and_tiny_frames(box, size):
    image, labels = np.full((*size, 3), 90, np.uint8), np.zeros(size, np.uint8)
    if box is not None:
        labels[box[1] : box[3], box[0] : box[2]] = 255
    dreamer = Dreamer(image, labels)
    labelled = [labels for seed in range(6) for _, labels in pair(dreamer, seed)]
    assert all(labels.shape == size and set(np.unique(labels)) <= {0, 255} for labels in labelled)
    for wrong in ((image[..., 0], labels), (image, labels[1:]), (image, 1.0 * labels)):
        with pytest.raises(ValueError, match=r"image|labels"):
            Dreamer(*wrong)


def test_cache_keeps_the_latest():
    image, labels = discs()
    cache = DreamCache(2)
    a, b = cache.get("a", image, labels), cache.get("b", image, labels)
    assert cache.get("a", image, labels) is a
    cache.get("c", image, labels)
    assert cache.get("a", image, labels) is a and cache.get("b", image, labels) is not b
