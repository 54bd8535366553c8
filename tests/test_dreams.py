import cv2
import numpy as np
import pytest

from stg_pyg import dream_motion, dreams
from stg_pyg.dream_layers import FrameParts
from stg_pyg.dream_render import Scene, Thing, _line_kernel, render
from stg_pyg.dreams import DreamCache, Dreamer
from stg_pyg.thin_plate import ThinPlateSpline
from stg_pyg.windows import PADDING_COLOUR

RED, GREEN = (220, 20, 20), (20, 220, 20)
CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
STILL = ThinPlateSpline(CORNERS, np.zeros((4, 2)))


def discs(height=96, width=144):
    """A grey textured frame with a red disc 3 and a green disc 7."""
    rng = np.random.default_rng(0)
    grey = np.clip(cv2.GaussianBlur(rng.normal(110, 60, (height, width)), (0, 0), 1.5), 0, 255)
    image, labels = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8), np.zeros((height, width), np.uint8)
    for obj, colour, center in ((3, RED, (45, 48)), (7, GREEN, (95, 50))):
        cv2.circle(image, center, 18, colour, -1)
        cv2.circle(labels, center, 18, obj, -1)
    return image, labels


def is_colour(image, colour):
    strong, others = int(np.argmax(colour)), np.delete(image.astype(int), int(np.argmax(colour)), axis=2)
    return image[..., strong].astype(int) - others.max(axis=2) > 60


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


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


def test_things_where_they_were_make_the_frame(parts):
    image, labels, mask = paint(parts, *(thing(parts, obj, np.eye(3)) for obj in (3, 7)), focus=7)
    assert np.abs(image.astype(int) - parts.image).mean() < 2.5
    assert iou(labels == 3, parts.labels == 3) > 0.97 and iou(labels == 7, parts.labels == 7) > 0.97
    assert iou(mask > 127, parts.labels == 7) > 0.97


def test_shifted_object_by_whole_pixels(parts):
    image, labels, _ = paint(parts, thing(parts, 3, shift(10, -5)))
    expected = np.roll(parts.labels == 3, (-5, 10), axis=(0, 1))
    assert iou(labels == 3, expected) > 0.97
    assert iou(is_colour(image, RED), expected) > 0.9


def test_background_has_no_trace_of_the_objects(parts):
    for level in (0, 1, 2):
        background = parts.background(level)
        assert not is_colour(background, RED).any() and not is_colour(background, GREEN).any()
        far = cv2.dilate(parts.labels, np.ones((15, 15), np.uint8)) == 0
        if level == 0:
            assert np.array_equal(background[far], parts.image[far])


def test_filled_hole_has_texture(parts):
    """Fine detail comes with the fill: inpainting alone leaves a smooth spot in the shape of the object."""
    inner = cv2.erode(parts.labels, np.ones((9, 9), np.uint8)) > 0
    detail = parts.background(0).astype(np.float32)
    detail = np.abs(detail - cv2.GaussianBlur(detail, (0, 0), 2.0)).mean(axis=2)
    assert detail[inner].mean() > 0.5 * detail[parts.labels == 0].mean()


def test_cut_out_brings_no_background_along(parts):
    image, labels, _ = paint(parts, thing(parts, 3, shift(50, 2)), thing(parts, 7, shift(-50, 0)))
    ring = (labels == 3) & (cv2.erode((labels == 3).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    assert is_colour(image, RED)[ring].mean() > 0.6


def test_later_things_are_in_front(parts):
    over = thing(parts, 3, np.eye(3)), thing(parts, 7, shift(-40, -2))
    for order, expected in ((over, 7), (over[::-1], 3)):
        image, labels, mask = paint(parts, *order, focus=3)
        y, x = 48, 50
        assert labels[y, x] == expected and is_colour(image, GREEN if expected == 7 else RED)[y, x]
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


def test_labels_follow_the_pixels_of_dreams():
    dreamer, values = Dreamer(*discs()), []
    for seed in range(12):
        pair = dreamer.pair(np.random.default_rng(seed))
        for image, labels in ((pair.previous, pair.previous_labels), (pair.current, pair.labels)):
            assert image.dtype == labels.dtype == np.uint8 and image.shape == (*labels.shape, 3) == (96, 144, 3)
            assert set(np.unique(labels).tolist()) <= {0, 3, 7}
            for obj, colour in ((3, RED), (7, GREEN)):
                if (labels == obj).sum() > 100:
                    values.append(iou(labels == obj, is_colour(image, colour)))
    assert len(values) > 30 and np.median(values) > 0.85 and np.mean(values) > 0.75


def test_the_second_motion_is_the_smaller():
    image, labels = discs()
    dreamer, first, second = Dreamer(image, labels), [], []
    for seed in range(24):
        pair = dreamer.pair(np.random.default_rng(seed))
        first.append(iou(pair.previous_labels == 3, labels == 3))
        second.append(iou(pair.previous_labels == 3, pair.labels == 3))
    assert np.median(second) > np.median(first) + 0.1 and np.median(second) > 0.6


def test_one_seed_one_dream():
    one, two = (Dreamer(*discs()) for _ in range(2))
    two.pair(np.random.default_rng(99))  # what was dreamt before has no influence
    pairs = [d.pair(np.random.default_rng(5)) for d in (one, two)]
    assert all(np.array_equal(a, b) for a, b in zip(*pairs, strict=True))
    assert not np.array_equal(pairs[0].current, one.pair(np.random.default_rng(6)).current)


def test_frame_is_not_changed():
    image, labels = discs()
    before = image.tobytes(), labels.tobytes()
    dreamer = Dreamer(image, labels)
    for seed in range(3):
        dreamer.pair(np.random.default_rng(seed))
    assert before == (image.tobytes(), labels.tobytes())


def test_box_is_that_of_what_is_seen():
    dreamer = Dreamer(*discs())
    for seed in range(10):
        dream = dreamer.dream(np.random.default_rng(seed), 3)
        box = dreamer.box(dream.current, 3)
        seen = dreamer.render(dream.current, np.eye(2, 3), (96, 144), 3).mask > 127
        if box is None or not seen.any():
            assert seen.sum() < 20
            continue
        ys, xs = np.nonzero(seen)
        np.testing.assert_allclose(box, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=4)


def test_an_object_may_leave(monkeypatch):
    monkeypatch.setattr(dreams, "_LEAVING_SHARE", 1.0)
    image, labels = discs()
    labels[labels == 7] = 0
    dreamer = Dreamer(image, labels)
    shares = [(dreamer.pair(np.random.default_rng(seed)).labels == 3).sum() / (labels == 3).sum() for seed in range(16)]
    assert min(shares) < 0.3 and np.mean(shares) < 0.85


def test_something_may_pass_in_front(monkeypatch):
    image, labels = discs()
    labels[labels == 7] = 0
    areas = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(dreams, "_OCCLUDER_SHARE", share)
        dreamer = Dreamer(image, labels)
        areas.append(np.mean([(dreamer.pair(np.random.default_rng(k)).labels == 3).sum() for k in range(16)]))
    assert areas[1] < 0.85 * areas[0]


def test_objects_may_cross(monkeypatch):
    monkeypatch.setattr(dreams, "_CROSSING_SHARE", 1.0)
    monkeypatch.setattr(dreams, "_OCCLUDER_SHARE", 0.0)
    monkeypatch.setattr(dreams, "_LEAVING_SHARE", 0.0)
    dreamer, hidden = Dreamer(*discs()), []
    for seed in range(12):
        dream = dreamer.dream(np.random.default_rng(seed), 3)
        assert dream.current.things[-1].label == 7 and dream.focus == 3
        alone = Scene(dream.current.camera, dream.current.things[:-1], None, 0.0)
        masks = [dreamer.render(s, np.eye(2, 3), (96, 144), 3).mask for s in (dream.current, alone)]
        hidden.append(1 - masks[0].sum() / max(masks[1].sum(), 1))
    assert np.mean(hidden) > 0.15


@pytest.mark.parametrize(("box", "axis"), [((0, 30, 40, 70), 0), ((100, 30, 144, 70), 0), ((50, 60, 90, 96), 1)])
def test_a_cut_side_stays_out_of_sight(box, axis):
    box, frame, cameras = np.array(box, float), (144, 96), (np.eye(3), np.eye(3))
    for seed in range(20):
        path = dream_motion.draw_path(np.random.default_rng(seed), box, frame, cameras)
        for matrix in (path.previous, path.current):
            corners = dream_motion.apply(matrix, np.array([[box[i], box[j]] for i in (0, 2) for j in (1, 3)]))
            if box[axis] == 0:
                assert corners[:2, axis].max() <= 1e-9
            else:
                side = corners[2:, 0] if axis == 0 else corners[1::2, 1]
                assert side.min() >= frame[axis] - 1e-9


def test_light_and_blur(parts):
    dark = np.repeat((np.arange(256) // 2).astype(np.uint8)[:, None], 3, axis=1)
    plain, dim, soft = paint(parts), paint(parts, light=dark), paint(parts, blur=2.0)
    assert np.array_equal(dim.image, plain.image // 2)
    assert soft.image.std() < plain.image.std()
    tables = [dream_motion.draw_light(np.random.default_rng(seed)) for seed in range(40)]
    assert 8 < sum(table is None for table in tables) < 32
    assert all((np.diff(table.astype(int), axis=0) >= 0).all() for table in tables if table is not None)


def test_motion_blur_is_along_the_path(parts):
    sharp = paint(parts, thing(parts, 3, np.eye(3)), focus=3)
    moved = paint(parts, thing(parts, 3, np.eye(3), motion=(8.0, 0.0)), focus=3)
    partly = (moved.mask > 20) & (moved.mask < 235)
    assert partly.sum() > 2 * ((sharp.mask > 20) & (sharp.mask < 235)).sum()
    assert abs(moved.mask.astype(int).sum() - sharp.mask.astype(int).sum()) < 0.02 * sharp.mask.astype(int).sum()
    kernel = _line_kernel(np.array([6.0, 0.0]))
    assert kernel.sum() == pytest.approx(1) and np.count_nonzero(kernel.sum(axis=1)) == 1
    assert _line_kernel(np.array([0.5, 0.5])) is None


@pytest.mark.parametrize("box", [(0, 0, 40, 30), (7, 9, 8, 10), (0, 12, 40, 13), (39, 29, 40, 30), None])
def test_odd_objects(box):
    image, labels = np.full((30, 40, 3), 90, np.uint8), np.zeros((30, 40), np.uint8)
    if box is not None:
        labels[box[1] : box[3], box[0] : box[2]] = 255
    dreamer = Dreamer(image, labels)
    for seed in range(12):
        pair = dreamer.pair(np.random.default_rng(seed))
        assert set(np.unique(pair.labels).tolist()) <= {0, 255}


def test_tiny_frame():
    dreamer = Dreamer(np.zeros((2, 3, 3), np.uint8), np.ones((2, 3), np.uint8))
    for seed in range(8):
        assert dreamer.pair(np.random.default_rng(seed)).labels.shape == (2, 3)


def test_wrong_frames_are_refused():
    image, labels = discs()
    with pytest.raises(ValueError, match="image"):
        Dreamer(image[..., 0], labels)
    with pytest.raises(ValueError, match="labels"):
        Dreamer(image, labels[1:])
    with pytest.raises(ValueError, match="labels"):
        Dreamer(image, labels.astype(np.int64))


def test_cache_keeps_the_latest():
    image, labels = discs()
    cache = DreamCache(2)
    a, b = cache.get("a", image, labels), cache.get("b", image, labels)
    assert cache.get("a", image, labels) is a
    cache.get("c", image, labels)
    assert cache.get("a", image, labels) is a and cache.get("b", image, labels) is not b


def test_mixed_border_pixels_take_the_colour_inside():
    image, labels = np.full((60, 60, 3), 255, np.uint8), np.zeros((60, 60), np.uint8)
    cv2.circle(image, (30, 30), 16, RED, -1)
    cv2.circle(labels, (30, 30), 16, 1, -1)
    layer = FrameParts(cv2.GaussianBlur(image, (0, 0), 0.8), labels).object(1, 0)
    assert layer.rgb[layer.alpha > 100][:, 1].max() < 70


def test_what_is_in_front_of_an_object_does_not_fill_its_place():
    image, labels = np.full((120, 120, 3), 90, np.uint8), np.zeros((120, 120), np.uint8)
    labels[20:100, 20:100] = 1
    image[50:70, 50:70], labels[50:70, 50:70] = RED, 0
    background = FrameParts(image, labels).background(0)
    ring = np.zeros(labels.shape, bool)
    ring[30:90, 30:90], ring[40:80, 40:80] = True, False
    assert np.abs(background[ring].astype(int) - 90).max() < 20
