import pickle

import cv2
import numpy as np
import pytest
import torch

from stg_pyg.errors import InputError
from stg_pyg.flow import (
    DISFlow,
    FloFiles,
    compose_flows,
    consistent_flow,
    flow_between,
    flow_for_sequence,
    is_known,
    read_flo,
    resolve_flow,
    warp,
    write_flo,
)
from stg_pyg.warping import UNKNOWN_FLOW

HEIGHT, WIDTH = 24, 32
FRAME = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
STEMS = [f"img-{i}" for i in range(9)]


def constant(x, y):
    return np.full((HEIGHT, WIDTH, 2), (x, y), dtype=np.float32)


def smooth(seed, size=(HEIGHT, WIDTH), scale=2.0):
    """Random smooth flow with subpixel vectors."""
    coarse = np.random.default_rng(seed).normal(scale=scale, size=(4, 5, 2)).astype(np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def folder(tmp_path):
    """Flow of frames 1 to 8, smooth and different in each."""
    (tmp_path / "walk").mkdir()
    for i, stem in enumerate(STEMS[1:]):
        write_flo(tmp_path / "walk" / f"{stem}.flo", smooth(i))
    return tmp_path


def stored(folder, t, suffix=""):
    return read_flo(folder / "walk" / f"{STEMS[t]}{suffix}.flo")


def interior(field):
    return field[8:-8, 8:-8]


class Fixed:
    def __init__(self, value=7.0):
        self.value, self.calls = value, 0

    def __call__(self, current, previous):
        self.calls += 1
        return constant(self.value, 0)


def test_one_frame_back_is_the_file_of_the_frame(folder):
    flow = FloFiles(folder).for_sequence("walk", STEMS)
    for t in (1, 5, 8):
        found = flow_between(flow, FRAME, FRAME, t, t - 1)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, stored(folder, t))


def test_two_frames_back_follow_the_point(folder):
    found = FloFiles(folder).for_sequence("walk", STEMS).between(FRAME, FRAME, 5, 3)
    first, second = stored(folder, 5), stored(folder, 4)
    y, x = 11, 14
    to_x, to_y = x + first[y, x, 0], y + first[y, x, 1]
    x0, y0 = int(np.floor(to_x)), int(np.floor(to_y))
    a, b = to_x - x0, to_y - y0
    corner = second[y0 : y0 + 2, x0 : x0 + 2]
    sampled = (1 - b) * ((1 - a) * corner[0, 0] + a * corner[0, 1]) + b * ((1 - a) * corner[1, 0] + a * corner[1, 1])
    np.testing.assert_allclose(found[y, x], first[y, x] + sampled, atol=1e-4)


def test_composition_of_affine_flows_is_exact():
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    points = np.stack([x, y], axis=-1)
    first_map = np.array([[1.02, -0.03], [0.05, 0.97]])
    second_map = np.array([[0.96, 0.04], [-0.02, 1.05]])

    def move(matrix, offset):
        return points @ matrix.T + offset - points

    first, second = move(first_map, [0.4, -0.7]), move(second_map, [-0.9, 0.3])
    expected = (points @ first_map.T + [0.4, -0.7]) @ second_map.T + [-0.9, 0.3] - points
    composed = compose_flows(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    assert composed.dtype == np.float64
    np.testing.assert_allclose(composed[4:-4, 4:-4], expected[4:-4, 4:-4], atol=1e-9)


def test_warping_twice_is_warping_by_the_composition(folder):
    image = torch.from_numpy(cv2.GaussianBlur(np.random.default_rng(9).random((HEIGHT, WIDTH)), (0, 0), 4))
    first, second = stored(folder, 3), stored(folder, 2)
    twice = warp(warp(image, second), first)
    once = warp(image, compose_flows(first, second))
    np.testing.assert_allclose(interior(once), interior(twice), atol=5e-3)
    assert interior(warp(image, first) - twice).abs().max() > 2e-2


def test_composition_leaves_unknown_what_has_no_flow():
    first, second = constant(1, 0), constant(0, 2)
    first[3, 4], first[3, 6] = UNKNOWN_FLOW, np.nan
    second[10, 11], second[12, 13] = UNKNOWN_FLOW, np.nan
    composed = compose_flows(first, second)
    expected = np.ones((HEIGHT, WIDTH), dtype=bool)
    expected[3, 4] = expected[3, 6] = expected[10, 10] = expected[12, 12] = expected[:, -1] = False
    np.testing.assert_array_equal(is_known(composed), expected)
    assert (composed[~expected] == UNKNOWN_FLOW).all()
    assert (composed[expected] == torch.tensor([1.0, 2.0])).all()  # neighbours are not spoilt
    assert warp(torch.ones(HEIGHT, WIDTH), composed)[~expected].abs().max() == 0


def test_composition_near_the_border_uses_the_pixels_inside():
    composed = compose_flows(constant(-0.25, 0), constant(-3, 1))
    torch.testing.assert_close(composed, torch.tensor([-3.25, 1.0]).expand(HEIGHT, WIDTH, 2))
    assert not is_known(compose_flows(constant(-0.75, 0), constant(-3, 1)))[:, 0].any()


@pytest.mark.parametrize("order", [(1, 2, 4, 8), (8, 4, 2, 1), (2, 2, 1)])
def test_gaps_in_any_order_give_the_same(folder, order):
    flow = FloFiles(folder).for_sequence("walk", STEMS)
    for gap in order:
        expected = stored(folder, 8)
        for t in range(7, 8 - gap, -1):
            expected = compose_flows(expected, stored(folder, t)).numpy()
        np.testing.assert_array_equal(flow.between(FRAME, FRAME, 8, 8 - gap), expected)


def test_gaps_in_turn_read_each_file_once(folder, monkeypatch):
    import stg_pyg.flo_files as module

    read = []
    monkeypatch.setattr(module, "read_flo", lambda path, size: read.append(path.stem) or read_flo(path, size))
    flow = FloFiles(folder).for_sequence("walk", STEMS)
    for gap in (1, 2, 4, 8):
        flow.between(FRAME, FRAME, 8, 8 - gap)
    assert read == STEMS[:0:-1]
    flow.between(FRAME, FRAME, 7, 6)
    assert read[8:] == STEMS[7:8]


def test_the_caller_may_write_into_the_flow(folder):
    flow = FloFiles(folder).for_sequence("walk", STEMS)
    flow.between(FRAME, FRAME, 8, 7)[:] = 0
    np.testing.assert_array_equal(flow.between(FRAME, FRAME, 8, 7), stored(folder, 8))


def test_missing_file_is_named_and_nothing_takes_its_place(folder):
    fallback = Fixed()
    flow = FloFiles(folder, fallback).for_sequence("walk", STEMS)
    (folder / "walk" / "img-6.flo").unlink()
    flow.between(FRAME, FRAME, 8, 6)
    with pytest.raises(InputError, match=r"img-6\.flo") as raised:
        flow.between(FRAME, FRAME, 8, 4)
    assert "\n" not in str(raised.value) and fallback.calls == 0


def test_files_of_another_size_or_damaged_are_named(folder):
    flow = FloFiles(folder).for_sequence("walk", STEMS)
    small = FRAME[: HEIGHT - 1]
    with pytest.raises(InputError, match=r"img-1\.flo: flow of 32 x 24 for frames of 32 x 23"):
        flow.between(small, small, 1, 0)
    path = folder / "walk" / "img-2.flo"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"img-2\.flo.*bytes instead of"):
        flow.between(FRAME, FRAME, 2, 1)
    with pytest.raises(InputError, match="one size"):
        flow.between(FRAME, small, 1, 0)


def test_frames_of_another_size_do_not_use_what_was_kept(folder):
    flow = FloFiles(folder).for_sequence("walk", STEMS)
    flow.between(FRAME, FRAME, 2, 1)
    with pytest.raises(InputError, match="for frames of"):
        flow.between(FRAME[:4], FRAME[:4], 2, 1)


@pytest.mark.parametrize(("t", "t_prev"), [(9, 8), (0, -1), (3, 3)])
def test_positions_must_be_in_the_sequence(folder, t, t_prev):
    with pytest.raises(ValueError, match="of 9 frames"):
        FloFiles(folder).for_sequence("walk", STEMS).between(FRAME, FRAME, t, t_prev)


def test_unknown_pixels_of_a_file_stay_unknown_over_two_frames(folder):
    write_flo(folder / "walk" / "img-2.flo", constant(1, 0))
    holes = constant(0, 1)
    holes[5, 6] = UNKNOWN_FLOW
    write_flo(folder / "walk" / "img-1.flo", holes)
    flow = FloFiles(folder).for_sequence("walk", STEMS)
    found = is_known(flow.between(FRAME, FRAME, 2, 0))
    assert not found[5, 5] and found[5, 6] and found[5, 4]


def test_folders_that_do_not_exist(folder):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        FloFiles(folder / "nowhere")
    with pytest.raises(InputError, match="run: no such folder"):
        FloFiles(folder).for_sequence("run", STEMS)


def test_images_alone_ask_the_fallback_once_bound(folder):
    fallback = Fixed()
    source = FloFiles(folder, fallback)
    with pytest.raises(ValueError, match="for_sequence"):
        source(FRAME, FRAME)
    np.testing.assert_array_equal(source.for_sequence("walk", STEMS)(FRAME, FRAME), constant(7, 0))


def test_dispatch_by_frame_or_by_image(folder):
    plain = Fixed()
    assert flow_for_sequence(plain, "walk", STEMS) is plain
    np.testing.assert_array_equal(flow_between(plain, FRAME, FRAME, 5, 3), constant(7, 0))
    bound = flow_for_sequence(FloFiles(folder, plain), "walk", STEMS)
    np.testing.assert_array_equal(flow_between(bound, FRAME, FRAME, 5, 4), stored(folder, 5))
    assert plain.calls == 1


def test_stored_flow_can_be_sent_to_another_process(folder):
    flow = pickle.loads(pickle.dumps(FloFiles(folder).for_sequence("walk", STEMS)))
    np.testing.assert_array_equal(flow.between(FRAME, FRAME, 2, 1), stored(folder, 2))
    assert repr(flow).endswith("walk', 9 frames)")


def test_consistency_without_forward_files_masks_only_unknown_flow(folder):
    holes = constant(-3, 0)
    holes[2, 3] = np.nan
    write_flo(folder / "walk" / "img-1.flo", holes)
    fallback = Fixed()
    flow, valid = consistent_flow(FloFiles(folder, fallback).for_sequence("walk", STEMS), FRAME, FRAME, 1, 0)
    np.testing.assert_array_equal(flow, holes)
    assert valid.dtype == np.bool_ and not valid[2, 3] and valid.sum() == valid.size - 1 and fallback.calls == 0


def test_consistency_with_forward_files_over_two_frames(folder):
    for stem in STEMS[1:3]:
        write_flo(folder / "walk" / f"{stem}.flo", constant(-2, 0))
        write_flo(folder / "walk" / f"{stem}.fw.flo", constant(2, 0))
    occluded = constant(2, 0)
    occluded[6, 20] = (-1, 0)  # of the first step: the point at (20, 6) of frame 0
    write_flo(folder / "walk" / "img-1.fw.flo", occluded)
    bound = FloFiles(folder).for_sequence("walk", STEMS)
    flow, valid = consistent_flow(bound, FRAME, FRAME, 2, 0)
    expected = np.ones((HEIGHT, WIDTH), dtype=bool)
    expected[:, :4] = False  # 4 pixels back is out of the frame
    expected[6, 24] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(flow[:, 4:], constant(-4, 0)[:, 4:])
    np.testing.assert_array_equal(flow_between(bound, FRAME, FRAME, 1, 2), constant(2, 0))
    (folder / "walk" / "img-2.fw.flo").unlink()
    assert consistent_flow(bound, FRAME, FRAME, 2, 0)[1][6, 24]


def test_resolve_of_a_folder(folder):
    source = resolve_flow(folder, max_size=100)
    assert isinstance(source, FloFiles) and repr(source.fallback) == repr(DISFlow("medium", 100))
