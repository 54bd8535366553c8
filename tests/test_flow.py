import pickle
import struct

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stg_pyg.errors import InputError
from stg_pyg.flow import (
    DISFlow,
    consistent_flow,
    read_flo,
    resolve_flow,
    warp,
    write_flo,
)


def texture(height=96, width=128, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def shifted(image, dx, dy):
    """The image moved by (dx, dy): the new pixel i was at i - (dx, dy)."""
    return np.roll(image, (dy, dx), axis=(0, 1))


def interior(flow, margin=16):
    return flow[margin:-margin, margin:-margin]


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_dis_finds_backward_flow(preset):
    previous = texture()
    flow = DISFlow(preset)(shifted(previous, 3, -2), previous)
    assert flow.dtype == np.float32 and flow.shape == (96, 128, 2)
    np.testing.assert_allclose(np.median(interior(flow), axis=(0, 1)), [-3, 2], atol=0.1)


def test_dis_of_equal_frames_is_still():
    assert np.abs(DISFlow()(texture(), texture())).max() < 0.1


def test_reduced_flow_is_in_pixels_of_the_full_size():
    previous = cv2.resize(texture(64, 80), (320, 256))
    current = shifted(previous, 12, -8)
    flow = DISFlow(max_size=160)(current, previous)
    assert flow.shape == (256, 320, 2)
    np.testing.assert_allclose(np.median(interior(flow, 40), axis=(0, 1)), [-12, 8], atol=0.5)


def test_reduced_flow_scales_each_axis_by_its_own_ratio(monkeypatch):
    class Ones:
        def calc(self, current, previous, flow):
            return np.ones((*current.shape, 2), dtype=np.float32)

    monkeypatch.setattr(cv2.DISOpticalFlow, "create", staticmethod(lambda preset: Ones()))
    frame = np.zeros((75, 100, 3), dtype=np.uint8)
    flow = DISFlow(max_size=50)(frame, frame)  # 75 rows become 38
    np.testing.assert_allclose(flow, np.broadcast_to([2, 75 / 38], (75, 100, 2)), rtol=1e-6)
    assert DISFlow(max_size=100)(frame, frame).max() == 1


@pytest.mark.parametrize("size", [(1, 1), (12, 200), (20, 100), (13, 60), (100, 8)])
def test_small_and_narrow_frames(size):
    frame = np.zeros((*size, 3), dtype=np.uint8)
    flow = DISFlow("fast")(frame, frame)
    assert flow.shape == (*size, 2)
    assert np.abs(flow).max() < 0.1


def test_mirrored_views_are_taken():
    previous = texture()
    current = shifted(previous, 3, 0)
    flow = DISFlow()(current[:, ::-1], previous[:, ::-1])
    assert np.median(interior(flow)[..., 0]) == pytest.approx(3, abs=0.1)


def test_dis_can_be_sent_to_another_process():
    copy = pickle.loads(pickle.dumps(DISFlow("fast", 100)))
    assert repr(copy) == "DISFlow(preset='fast', max_size=100)"


def test_dis_rejects():
    frame = np.zeros((40, 40, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="preset"):
        DISFlow("slow")
    with pytest.raises(ValueError, match="max_size"):
        DISFlow(max_size=0)
    for bad in (frame[..., 0], frame.astype(np.float32), frame[:0]):
        with pytest.raises(InputError, match="uint8"):
            DISFlow()(bad, frame)
    with pytest.raises(InputError, match="one size"):
        DISFlow()(frame, frame[:30])


def test_flow_and_warp_bring_the_mask_along():
    previous = texture()
    current = shifted(previous, 3, -2)
    mask = np.zeros((96, 128), dtype=np.float32)
    mask[30:60, 40:80] = 1
    q = warp(torch.from_numpy(mask), DISFlow()(current, previous))
    assert (q.numpy() - shifted(mask, 3, -2)).__abs__().mean() < 0.005


def test_consistent_flow_masks_what_an_object_uncovers():
    background, patch = texture(seed=11), texture(seed=3)[20:60, 20:60]
    previous, current = background.copy(), background.copy()
    previous[30:70, 40:80] = patch
    current[30:70, 48:88] = patch
    flow, valid = consistent_flow(DISFlow(), current, previous, 1, 0)
    assert flow.shape == (96, 128, 2) and valid.dtype == np.bool_
    assert np.median(flow[40:60, 58:78, 0]) == pytest.approx(-8, abs=0.1)
    assert valid[40:60, 58:78].mean() > 0.95 and valid[:20].mean() > 0.95
    assert valid[34:66, 41:47].mean() < 0.3  # uncovered since


def test_sources_by_name(tmp_path):
    assert repr(resolve_flow("dis")) == "DISFlow(preset='medium', max_size=480)"
    assert repr(resolve_flow("dis:fast", max_size=None)) == "DISFlow(preset='fast', max_size=None)"
    assert resolve_flow("dis:ultrafast").preset == "ultrafast"
    for bad in ("dis:slow", "flownet", str(tmp_path / "missing"), ""):
        with pytest.raises(InputError, match="dis, dis:fast, dis:ultrafast, raft, raft:small, or a folder") as raised:
            resolve_flow(bad)
        assert "\n" not in str(raised.value) and str(raised.value).startswith(bad)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_flo_round_trip(tmp_path_factory, height, width, seed):
    path = tmp_path_factory.mktemp("flow") / "00001.flo"
    flow = np.random.default_rng(seed).normal(size=(height, width, 2)).astype(np.float32)
    write_flo(path, flow)
    np.testing.assert_array_equal(read_flo(path, (height, width)), flow)
    assert [p.name for p in path.parent.iterdir()] == ["00001.flo"]


def test_flo_bytes(tmp_path):
    path = tmp_path / "a.flo"
    write_flo(path, np.array([[[1, 2], [3, 4], [5, 6]]], dtype=np.float64)[:, ::-1])
    assert path.read_bytes() == b"PIEH" + struct.pack("<2i6f", 3, 1, 5, 6, 3, 4, 1, 2)
    assert np.array_equal(cv2.readOpticalFlow(str(path)), read_flo(path))
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
    ],
)
def test_bad_flo_names_the_file(tmp_path, content, message):
    path = tmp_path / "bad.flo"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_flo(path)
    assert "bad.flo" in str(raised.value) and "\n" not in str(raised.value)


def test_flo_of_another_size_or_missing(tmp_path):
    write_flo(tmp_path / "a.flo", np.zeros((2, 3, 2), dtype=np.float32))
    with pytest.raises(InputError, match="flow of 3 x 2 for frames of 2 x 3"):
        read_flo(tmp_path / "a.flo", (3, 2))
    with pytest.raises(InputError, match="check the path"):
        read_flo(tmp_path / "b.flo")
    with pytest.raises(ValueError, match="flow must be"):
        write_flo(tmp_path / "c.flo", np.zeros((2, 3), dtype=np.float32))


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    write_flo(tmp_path / "a.flo", np.zeros((1, 1, 2), dtype=np.float32))
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_flo(tmp_path / "a.flo", np.ones((1, 1, 2), dtype=np.float32))
    assert [p.name for p in tmp_path.iterdir()] == ["a.flo"]
    assert not read_flo(tmp_path / "a.flo").any()
