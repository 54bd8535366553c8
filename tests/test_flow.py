import pickle
import struct

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stg_pyg.errors import InputError
from stg_pyg.flow import DISFlow, forward_backward_consistency, read_flo, warp, write_flo


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


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_warp_equals_remap(height, width, seed):
    random = np.random.default_rng(seed)
    image = random.random((height, width), dtype=np.float32)
    # Remap may round positions to 1/32 of a pixel.
    flow = (random.integers(-160, 160, (height, width, 2)) / 32).astype(np.float32)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    expected = cv2.remap(
        image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0
    )
    warped = warp(torch.from_numpy(image), torch.from_numpy(flow))
    np.testing.assert_allclose(warped.numpy(), expected.reshape(height, width), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_warp_by_hand(dtype):
    x = torch.tensor([[1, 2, 4], [8, 16, 32]], dtype=dtype)
    right = torch.tensor([1.0, 0]).expand(2, 3, 2)
    torch.testing.assert_close(warp(x, right), torch.tensor([[2, 4, 0], [16, 32, 0]], dtype=dtype))
    down = torch.tensor([0, 0.5]).expand(2, 3, 2)
    torch.testing.assert_close(warp(x, down), torch.tensor([[4.5, 9, 18], [4, 8, 16]], dtype=dtype))


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (2, 3, 5, 7), (1, 1), (480, 854)])
def test_no_flow_changes_nothing(shape):
    x = torch.rand(shape)
    flow = torch.zeros(*shape[-2:], 2)
    torch.testing.assert_close(warp(x, flow), x, atol=1e-4, rtol=0)


def test_warp_of_a_batch_uses_the_flow_of_each():
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    flow = torch.rand(2, 4, 5, 2, dtype=torch.float64) * 3 - 1
    batched = warp(x, flow)
    for i in range(2):
        torch.testing.assert_close(batched[i], warp(x[i], flow[i]))
        torch.testing.assert_close(batched[i, 1], warp(x[i, 1], flow[i]))
    torch.testing.assert_close(warp(x, flow[0])[1], warp(x[1], flow[0]))


def test_warp_takes_masks_and_arrays():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1, 1] = True
    warped = warp(mask, np.ones((4, 4, 2), dtype=np.float32))
    assert warped.dtype == torch.float32
    assert warped[0, 0] == pytest.approx(1) and warped.sum() == pytest.approx(1)


def test_unknown_flow_samples_zeros():
    flow = torch.zeros(1, 5, 2)
    flow[0, :4, 0] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e10])
    torch.testing.assert_close(warp(torch.ones(1, 5), flow), torch.tensor([[0.0, 0, 0, 0, 1]]))


def test_warp_gradcheck():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    # Between the pixels, where the bilinear sample is smooth; some positions lie outside.
    flow = torch.rand(3, 4, 2, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    flow += torch.randint(-2, 3, (3, 4, 2), generator=generator)
    assert torch.autograd.gradcheck(warp, (x, flow.requires_grad_()))


@pytest.mark.parametrize(
    ("x", "flow"),
    [((4, 5), (5, 4, 2)), ((4, 5), (4, 5)), ((3, 4, 5), (3, 4, 5, 2)), ((2, 1, 4, 5), (3, 4, 5, 2)), ((4,), (4, 1, 2))],
)
def test_warp_rejects(x, flow):
    with pytest.raises(ValueError, match="flow"):
        warp(torch.zeros(x), torch.zeros(flow))


def test_consistency_by_hand():
    forward = torch.zeros(4, 6, 2)
    forward[..., 0] = 2
    backward = -forward
    consistent = forward_backward_consistency(forward, backward)
    assert consistent.dtype == torch.bool
    assert consistent.tolist() == [[True] * 4 + [False] * 2] * 4  # the last two columns leave the frame
    backward[1, 3] = 0
    assert not forward_backward_consistency(forward, backward)[1, 1]
    # 0.7 pixels are 0.49 squared and within the tolerance, 0.8 pixels are not.
    assert forward_backward_consistency(forward, -forward + torch.tensor([0, 0.7]))[1, 1]
    assert not forward_backward_consistency(forward, -forward + torch.tensor([0, 0.8]), alpha=0.0)[1, 1]
    assert forward_backward_consistency(forward, -forward + torch.tensor([0, 0.8]), alpha=0.1)[1, 1]


def test_consistency_outside_is_false_even_for_small_flow():
    half = torch.tensor([0.5, 0]).expand(2, 3, 2)
    assert forward_backward_consistency(half, -half).tolist() == [[True, True, False]] * 2


def test_consistency_takes_arrays():
    still = np.zeros((3, 4, 2), dtype=np.float32)
    assert forward_backward_consistency(still, still).all()
    assert not forward_backward_consistency(still, still + 1).any()


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
