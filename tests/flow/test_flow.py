"""Sources of flow: one contract for those that look at images, their names, and the form of stored flow."""

import pickle
import struct

import cv2
import numpy as np
import pytest
import torch
from flow_cases import interior, shifted, texture
from hypothesis import given, settings
from hypothesis import strategies as st

from stg_pyg.errors import InputError
from stg_pyg.flow.dis import DISFlow
from stg_pyg.flow.flo_files import read_flo, write_flo
from stg_pyg.flow.interface import consistent_flow, flow_between, flow_for_sequence
from stg_pyg.flow.raft import RAFTFlow
from stg_pyg.flow.sources import resolve_flow

IMAGE_SOURCES = {
    "DISFlow(preset='fast', max_size={})": lambda **options: DISFlow("fast", **options),
    "DISFlow(preset='medium', max_size={})": DISFlow,
    "RAFTFlow('raft_small', max_size={}, num_updates=1)": lambda **options: RAFTFlow(
        "raft_small", "none", num_updates=1, **options
    ),
}


@pytest.fixture(params=IMAGE_SOURCES.items(), ids=["dis:fast", "dis", "raft:small"])
def source(request):
    torch.manual_seed(0)
    return request.param


# The contract of sources that look at images


@pytest.mark.parametrize("size", [(1, 2), (40, 50), (100, 8)])
def test_flow_of_frames_of_any_size(source, size):
    current, previous = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    flow, mirrored = source[1](max_size=60), (current[:, ::-1], previous[:, ::-1])
    found = flow_between(flow, current, previous, 5, 3)
    assert found.dtype == np.float32 and found.shape == (*size, 2) and np.isfinite(found).all()
    assert flow_for_sequence(flow, "clip", ["0", "1"]) is flow
    np.testing.assert_allclose(flow(*mirrored), flow(*map(np.ascontiguousarray, mirrored)), atol=1e-4)


def test_a_source_can_be_sent_to_another_process(source):
    name, make = source
    flow, pair = make(max_size=100), (shifted(texture(40, 60), 2, 1), texture(40, 60))
    copy = pickle.loads(pickle.dumps(flow))
    assert repr(copy) == repr(flow) == name.format(100)
    np.testing.assert_array_equal(copy(*pair), flow(*pair))


def test_unfit_frames_and_sizes_are_refused(source):
    frame = np.zeros((40, 40, 3), dtype=np.uint8)
    for bad in (frame[..., 0], frame.astype(np.float32), frame[:0]):
        with pytest.raises(InputError, match="uint8"):
            source[1]()(bad, frame)
    with pytest.raises(InputError, match="one size"):
        source[1]()(frame, frame[:30])
    with pytest.raises(ValueError, match="max_size"):
        source[1](max_size=0)


# What DIS finds


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_dis_finds_backward_flow(preset):
    previous, dis = texture(), DISFlow(preset)
    flow = dis(shifted(previous, 3, -2), previous)
    np.testing.assert_allclose(np.median(interior(flow), axis=(0, 1)), [-3, 2], atol=0.1)
    for height, width in ((96, 128), (12, 200), (100, 8)):  # frames of one side below what DIS takes
        assert np.abs(dis(texture(height, width), texture(height, width))).max() < 0.1
    with pytest.raises(ValueError, match="preset"):
        DISFlow("slow")


def test_reduced_flow_is_in_pixels_of_the_full_size():
    previous = cv2.resize(texture(64, 80), (320, 256))
    flow = DISFlow(max_size=160)(shifted(previous, 12, -8), previous)
    np.testing.assert_allclose(np.median(interior(flow, 40), axis=(0, 1)), [-12, 8], atol=0.5)


def test_consistent_flow_masks_what_an_object_uncovers():
    background, patch = texture(seed=11), texture(seed=3)[20:60, 20:60]
    previous, current = background.copy(), background.copy()
    previous[30:70, 40:80] = current[30:70, 48:88] = patch
    flow, valid = consistent_flow(DISFlow(), current, previous, 1, 0)
    assert flow.shape == (96, 128, 2) and valid.dtype == np.bool_
    assert np.median(flow[40:60, 58:78, 0]) == pytest.approx(-8, abs=0.1)
    assert valid[40:60, 58:78].mean() > 0.95 and valid[:20].mean() > 0.95
    assert valid[34:66, 41:47].mean() < 0.3  # uncovered since


# Names


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("dis", {}, "DISFlow(preset='medium', max_size=480)"),
        ("dis:fast", {"max_size": None}, "DISFlow(preset='fast', max_size=None)"),
        ("dis:ultrafast", {"max_size": 9}, "DISFlow(preset='ultrafast', max_size=9)"),
        ("raft", {"max_size": None}, "RAFTFlow('raft_large', max_size=None, num_updates=12)"),
        ("raft:small", {"max_size": 100}, "RAFTFlow('raft_small', max_size=100, num_updates=12)"),
    ],
)
def test_sources_by_name(name, options, expected):
    assert repr(resolve_flow(name, weights="none", **options)) == expected


def test_other_names_are_refused_with_those_there_are(tmp_path):
    for bad in ("dis:slow", "flownet", str(tmp_path / "missing"), ""):
        with pytest.raises(InputError, match="dis, dis:fast, dis:ultrafast, raft, raft:small, or a folder") as raised:
            resolve_flow(bad)
        assert "\n" not in str(raised.value) and str(raised.value).startswith(bad)


# Files


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_flo_round_trip(tmp_path_factory, height, width, seed):
    path = tmp_path_factory.mktemp("flow") / "00001.flo"
    flow = np.random.default_rng(seed).normal(size=(height, width, 2)).astype(np.float32)
    write_flo(path, flow)
    np.testing.assert_array_equal(read_flo(path, (height, width)), flow)
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(path)), flow)
    assert [p.name for p in path.parent.iterdir()] == ["00001.flo"]


def test_flo_bytes(tmp_path):
    path = tmp_path / "a.flo"
    write_flo(path, np.array([[[1, 2], [3, 4], [5, 6]]], dtype=np.float64)[:, ::-1])
    assert path.read_bytes() == b"PIEH" + struct.pack("<2i6f", 3, 1, 5, 6, 3, 4, 1, 2)
    flow = read_flo(path)
    flow += 1  # writable
    assert flow.tolist() == [[[6, 7], [4, 5], [2, 3]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too few"),
        (b"PIEH\x01\x00", "too few"),
        (b"PNG!" + struct.pack("<2i2f", 1, 1, 0, 0), "bad header"),
        (b"PIEH" + struct.pack("<2i", -1, 1), "bad header"),
        (b"PIEH" + struct.pack("<2i", 0, 1), "bad header"),
        (b"PIEH" + struct.pack("<2i3f", 2, 1, 0, 0, 0), "24 bytes instead of 28"),
        (b"PIEH" + struct.pack("<2i3f", 1, 1, 0, 0, 0), "24 bytes instead of 20"),
        (b"PIEH" + struct.pack("<2i", 2**31 - 1, 2**31 - 1), "instead of"),
        (b"PIEH" + struct.pack("<2i12f", 3, 2, *[0] * 12), "flow of 3 x 2 for frames of 2 x 3"),
        (None, "check the path"),
    ],
)
def test_bad_flo_names_the_file(tmp_path, content, message):
    path = tmp_path / "bad.flo"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_flo(path, (3, 2))
    assert "bad.flo" in str(raised.value) and "\n" not in str(raised.value)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    """A folder of the file's name cannot be replaced by it."""
    (tmp_path / "a.flo" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        write_flo(tmp_path / "a.flo", np.ones((1, 1, 2), dtype=np.float32))
    assert [p.name for p in tmp_path.iterdir()] == ["a.flo"] and (tmp_path / "a.flo" / "inside").is_dir()
    with pytest.raises(ValueError, match="flow must be"):
        write_flo(tmp_path / "c.flo", np.zeros((2, 3), dtype=np.float32))
