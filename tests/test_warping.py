import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stg_pyg.flow import forward_backward_consistency, warp


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


@pytest.mark.parametrize("seed", range(3))
def test_warp_equals_remap_of_a_picture(seed):
    """Flow of every subpixel phase; a good part of it leaves the frame or straddles its border."""
    random = np.random.default_rng(seed)
    height, width = 61, 83
    image = random.random((height, width, 3), dtype=np.float32)
    flow = (np.round(random.normal(scale=25, size=(height, width, 2)) * 32) / 32).astype(np.float32)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    outside = (x <= -1) | (y <= -1) | (x >= width) | (y >= height)
    across = ~outside & ((x < 0) | (y < 0) | (x > width - 1) | (y > height - 1))
    assert outside.mean() > 0.2 and across.sum() > 50
    expected = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    warped = warp(torch.from_numpy(image).permute(2, 0, 1), flow).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(warped, expected, atol=2e-4)
    assert np.abs(warped[outside]).max() < 1e-5


def bilinear(image, x, y):
    """Zeros outside; image [H, W], positions [N], all float64."""
    padded = np.pad(image, 1)
    x, y = np.clip(x + 1, 0, padded.shape[1] - 1.001), np.clip(y + 1, 0, padded.shape[0] - 1.001)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    a, b = x - x0, y - y0
    top = (1 - a) * padded[y0, x0] + a * padded[y0, x0 + 1]
    bottom = (1 - a) * padded[y0 + 1, x0] + a * padded[y0 + 1, x0 + 1]
    return (1 - b) * top + b * bottom


def test_warp_in_float64_is_bilinear_at_any_position():
    random = np.random.default_rng(0)
    height, width = 17, 23
    image, flow = random.random((height, width)), random.normal(scale=6, size=(height, width, 2))
    y, x = np.mgrid[:height, :width] + np.moveaxis(flow[..., ::-1], -1, 0)
    inside = (x > -1) & (y > -1) & (x < width) & (y < height)
    expected = np.where(inside, bilinear(image, x, y), 0)
    warped = warp(torch.from_numpy(image), torch.from_numpy(flow)).numpy()
    np.testing.assert_allclose(warped[inside], expected[inside], atol=1e-9)
    assert not warped[~inside].any() and inside.mean() < 0.9


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


def test_warp_leaves_zero_what_is_not_valid():
    x = torch.rand(2, 3, 4, 5, requires_grad=True)
    flow = torch.zeros(4, 5, 2)
    valid = torch.rand(4, 5) > 0.5
    expected = torch.where(valid, warp(x, flow), torch.zeros(()))
    torch.testing.assert_close(warp(x, flow, valid), expected)
    torch.testing.assert_close(warp(x[0, 0], flow, valid.numpy()), expected[0, 0])
    each = torch.stack([valid, ~valid])
    batched = warp(x, flow.expand(2, -1, -1, -1), each)
    torch.testing.assert_close(batched[1], torch.where(~valid, warp(x[1], flow), torch.zeros(())))
    warp(x, flow, valid).sum().backward()
    torch.testing.assert_close(x.grad[0, 0], valid.float())
    for bad in (valid[:3], valid.float(), each):
        with pytest.raises(ValueError, match="valid must be bool"):
            warp(x, flow, bad)


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


def test_unknown_flow_is_not_consistent_and_spoils_no_neighbour():
    forward, backward = torch.zeros(4, 6, 2), torch.zeros(4, 6, 2)
    forward[0, 0], forward[0, 3] = float("nan"), 1e10
    backward[2, 2], backward[3, 4] = float("nan"), 1e10
    expected = torch.ones(4, 6, dtype=torch.bool)
    expected[0, 0] = expected[0, 3] = expected[2, 2] = expected[3, 4] = False
    assert torch.equal(forward_backward_consistency(forward, backward), expected)
