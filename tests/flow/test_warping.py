import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stg_pyg.flow.warping import forward_backward_consistency, warp


def check_against_remap(image, flow, atol):
    """Remap may round positions to 1/32 of a pixel, of which the flow is a multiple."""
    height, width = image.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    expected = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    warped = warp(torch.from_numpy(image).permute(2, 0, 1), flow).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(warped, expected.reshape(image.shape), atol=atol)
    return warped, x, y


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_warp_equals_remap(height, width, seed):
    random = np.random.default_rng(seed)
    flow = (random.integers(-160, 160, (height, width, 2)) / 32).astype(np.float32)
    check_against_remap(random.random((height, width, 1), dtype=np.float32), flow, 1e-4)


def test_warp_equals_remap_of_a_picture():
    """Flow of every subpixel phase; a good part of it leaves the frame or straddles its border."""
    random = np.random.default_rng(0)
    flow = (np.round(random.normal(scale=25, size=(61, 83, 2)) * 32) / 32).astype(np.float32)
    warped, x, y = check_against_remap(random.random((61, 83, 3), dtype=np.float32), flow, 2e-4)
    outside = (x <= -1) | (y <= -1) | (x >= 83) | (y >= 61)
    across = ~outside & ((x < 0) | (y < 0) | (x > 82) | (y > 60))
    assert outside.mean() > 0.2 and across.sum() > 50
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
    warped = warp(torch.from_numpy(image), torch.from_numpy(flow)).numpy()
    np.testing.assert_allclose(warped[inside], bilinear(image, x, y)[inside], atol=1e-9)
    assert not warped[~inside].any() and inside.mean() < 0.9


def test_warp_by_hand():
    x, right = torch.tensor([[1.0, 2, 4], [8, 16, 32]]), torch.tensor([1.0, 0]).expand(2, 3, 2)
    torch.testing.assert_close(warp(x, right), torch.tensor([[2.0, 4, 0], [16, 32, 0]]))
    down = torch.tensor([0, 0.5]).expand(2, 3, 2)
    torch.testing.assert_close(warp(x, down), torch.tensor([[4.5, 9, 18], [4, 8, 16]]))
    moved = warp(x > 8, right.numpy())
    assert moved.dtype == torch.float32
    torch.testing.assert_close(moved, torch.tensor([[0.0, 0, 0], [1, 1, 0]]))
    unknown = torch.zeros(1, 5, 2)
    unknown[0, :4, 0] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e10])
    torch.testing.assert_close(warp(torch.ones(1, 5), unknown), torch.tensor([[0.0, 0, 0, 0, 1]]))


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (2, 3, 5, 7), (1, 1), (480, 854)])
def test_no_flow_changes_nothing(shape):
    x = torch.rand(shape)
    torch.testing.assert_close(warp(x, torch.zeros(*shape[-2:], 2)), x, atol=1e-4, rtol=0)


def test_a_batch_uses_the_flow_and_the_valid_pixels_of_each():
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    flow, valid = torch.rand(2, 4, 5, 2, dtype=torch.float64) * 3 - 1, torch.rand(2, 4, 5) > 0.5
    batched, masked, shared = warp(x, flow), warp(x, flow, valid), warp(x, flow[0], valid[0].numpy())
    for i in range(2):
        torch.testing.assert_close(batched[i], warp(x[i], flow[i]))
        torch.testing.assert_close(batched[i, 1], warp(x[i, 1], flow[i]))
        torch.testing.assert_close(masked[i], torch.where(valid[i], batched[i], 0.0))
        torch.testing.assert_close(shared[i], torch.where(valid[0], warp(x[i], flow[0]), 0.0))
    for bad in (valid[0, :3], valid[0].double(), torch.cat([valid, valid])):
        with pytest.raises(ValueError, match="valid must be bool"):
            warp(x, flow, bad)


def test_warp_gradcheck():
    x = torch.rand(1, 3, 4, dtype=torch.float64, requires_grad=True)
    # Between the pixels, where the bilinear sample is smooth; some positions lie outside.
    flow = torch.rand(3, 4, 2, dtype=torch.float64) * 0.8 + 0.1 + torch.randint(-2, 3, (3, 4, 2))
    assert torch.autograd.gradcheck(warp, (x, flow.requires_grad_()))
    valid = torch.rand(3, 4) > 0.5
    assert torch.autograd.gradcheck(lambda a, b: warp(a, b, valid), (x, flow))


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
    assert consistent.tolist() == [[True] * 4 + [False] * 2] * 4  # the last two columns leave the frame
    assert torch.equal(forward_backward_consistency(forward.numpy(), backward.numpy()), consistent)
    backward[1, 3] = 0
    assert not forward_backward_consistency(forward, backward)[1, 1]
    # 0.7 pixels are 0.49 squared and within the tolerance, 0.8 pixels are not.
    assert forward_backward_consistency(forward, -forward + torch.tensor([0, 0.7]))[1, 1]
    assert not forward_backward_consistency(forward, -forward + torch.tensor([0, 0.8]), alpha=0.0)[1, 1]
    assert forward_backward_consistency(forward, -forward + torch.tensor([0, 0.8]), alpha=0.1)[1, 1]
    half = torch.tensor([0.5, 0]).expand(2, 3, 2)  # small, but it leaves the frame
    assert forward_backward_consistency(half, -half).tolist() == [[True, True, False]] * 2


def test_unknown_flow_is_not_consistent_and_spoils_no_neighbour():
    forward, backward = torch.zeros(4, 6, 2), torch.zeros(4, 6, 2)
    forward[0, 0], forward[0, 3] = float("nan"), 1e10
    backward[2, 2], backward[3, 4] = float("nan"), 1e10
    expected = torch.ones(4, 6, dtype=torch.bool)
    expected[0, 0] = expected[0, 3] = expected[2, 2] = expected[3, 4] = False
    assert torch.equal(forward_backward_consistency(forward, backward), expected)
