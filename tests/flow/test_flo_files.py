"""Stored flow of a sequence."""

import pickle

import numpy as np
import pytest
from flow_cases import smooth

from stg_pyg.errors import InputError
from stg_pyg.flow.dis import DISFlow
from stg_pyg.flow.flo_files import FloFiles, read_flo, write_flo
from stg_pyg.flow.interface import consistent_flow, flow_between, flow_for_sequence
from stg_pyg.flow.sources import resolve_flow
from stg_pyg.flow.warping import compose_flows

HEIGHT, WIDTH = 24, 32
FRAME = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
STEMS = [f"img-{i}" for i in range(9)]


def constant(x, y):
    return np.full((HEIGHT, WIDTH, 2), (x, y), dtype=np.float32)


@pytest.fixture
def folder(tmp_path):
    """Flow of frames 1 to 8, smooth and different in each."""
    (tmp_path / "walk").mkdir()
    for i, stem in enumerate(STEMS[1:]):
        write_flo(tmp_path / "walk" / f"{stem}.flo", smooth(i))
    return tmp_path


def stored(folder, t):
    return read_flo(folder / "walk" / f"{STEMS[t]}.flo")


def walk(folder, *fallback):
    return FloFiles(folder, *fallback).for_sequence("walk", STEMS)


def never(current, previous):
    raise AssertionError("nothing takes the place of stored flow")


@pytest.mark.parametrize("order", [(1, 2, 4, 8), (8, 4, 2, 1), (2, 2, 1)])
def test_gaps_in_any_order_are_the_compositions_of_the_files(folder, order):
    flow = walk(folder)
    for gap in order:
        expected = stored(folder, 8)
        for t in range(7, 8 - gap, -1):
            expected = compose_flows(expected, stored(folder, t)).numpy()
        found = flow_between(flow, FRAME, FRAME, 8, 8 - gap)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
        found[:] = 0  # the caller may write into it
    np.testing.assert_array_equal(flow.between(FRAME, FRAME, 5, 4), stored(folder, 5))


def test_gaps_in_turn_read_each_file_once(folder):
    """Files that were read may go."""
    flow = walk(folder)
    for gap in range(1, 9):
        flow.between(FRAME, FRAME, 8, 8 - gap)
        (folder / "walk" / f"{STEMS[9 - gap]}.flo").unlink()


def test_faulty_files_are_named_and_nothing_takes_their_place(folder):
    flow, small, path = walk(folder, never), FRAME[: HEIGHT - 1], folder / "walk" / "img-2.flo"
    path.write_bytes(path.read_bytes()[:-1])
    (folder / "walk" / "img-6.flo").unlink()
    flow.between(FRAME, FRAME, 8, 6)
    for frames, t, t_prev, message in (
        ((FRAME, FRAME), 8, 4, r"img-6\.flo"),
        ((small, small), 8, 7, r"img-8\.flo: flow of 32 x 24 for frames of 32 x 23"),  # kept from before
        ((small, small), 1, 0, r"img-1\.flo: flow of 32 x 24 for frames of 32 x 23"),
        ((FRAME, FRAME), 2, 1, r"img-2\.flo.*bytes instead of"),
        ((FRAME, small), 1, 0, "one size"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            flow.between(*frames, t, t_prev)
        assert "\n" not in str(raised.value)
    for t, t_prev in ((9, 8), (0, -1), (3, 3)):
        with pytest.raises(ValueError, match="of 9 frames"):
            flow.between(FRAME, FRAME, t, t_prev)


def test_folders_that_do_not_exist_and_frames_without_numbers(folder):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        FloFiles(folder / "nowhere")
    source = FloFiles(folder, lambda current, previous: constant(7, 0))
    with pytest.raises(InputError, match="run: no such folder"):
        source.for_sequence("run", STEMS)
    with pytest.raises(ValueError, match="for_sequence"):
        source(FRAME, FRAME)
    np.testing.assert_array_equal(flow_for_sequence(source, "walk", STEMS)(FRAME, FRAME), constant(7, 0))
    assert repr(resolve_flow(folder, max_size=100).fallback) == repr(DISFlow("medium", 100))
    copy = pickle.loads(pickle.dumps(walk(folder)))  # as to another process
    np.testing.assert_array_equal(copy.between(FRAME, FRAME, 2, 1), stored(folder, 2))
    assert repr(copy).endswith("walk', 9 frames)")


def test_consistency_without_forward_files_masks_only_unknown_flow(folder):
    holes = constant(-3, 0)
    holes[2, 3] = np.nan
    write_flo(folder / "walk" / "img-1.flo", holes)
    flow, valid = consistent_flow(walk(folder, never), FRAME, FRAME, 1, 0)
    np.testing.assert_array_equal(flow, holes)
    assert valid.dtype == np.bool_ and not valid[2, 3] and valid.sum() == valid.size - 1


def test_consistency_with_forward_files_over_two_frames(folder):
    for stem in STEMS[1:3]:
        write_flo(folder / "walk" / f"{stem}.flo", constant(-2, 0))
        write_flo(folder / "walk" / f"{stem}.fw.flo", constant(2, 0))
    occluded = constant(2, 0)
    occluded[6, 20] = (-1, 0)  # of the first step: the point at (20, 6) of frame 0
    write_flo(folder / "walk" / "img-1.fw.flo", occluded)
    bound = walk(folder)
    flow, valid = consistent_flow(bound, FRAME, FRAME, 2, 0)
    expected = np.ones((HEIGHT, WIDTH), dtype=bool)
    expected[:, :4] = False  # 4 pixels back is out of the frame
    expected[6, 24] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(flow[:, 4:], constant(-4, 0)[:, 4:])
    np.testing.assert_array_equal(flow_between(bound, FRAME, FRAME, 1, 2), constant(2, 0))
    (folder / "walk" / "img-2.fw.flo").unlink()
    assert consistent_flow(bound, FRAME, FRAME, 2, 0)[1][6, 24]
