"""Warping by flow, against OpenCV and by hand; flows composed, and where they hold."""

import cv2
import numpy as np
import pytest
import torch
from flow_cases import smooth
from hypothesis import given, settings
from hypothesis import strategies as st

from stg_pyg.flow.warping import UNKNOWN_FLOW, compose_flows, forward_backward_consistency, is_known, warp


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_warp_equals_remap(height, width, seed):
    """Remap may round positions to 1/32 of a pixel, of which the flow is a multiple."""
    random = np.random.default_rng(seed)
    flow = (random.integers(-160, 160, (height, width, 2)) / 32).astype(np.float32)
    image = random.random((height, width), dtype=np.float32)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    expected = cv2.remap(image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    np.testing.assert_allclose(warp(torch.from_numpy(image), flow).numpy(), expected, atol=1e-4)


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


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 5, 7), (1, 1), (480, 854)])
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
    ("x", "flow"), [((4, 5), (5, 4, 2)), ((4, 5), (4, 5)), ((3, 4, 5), (3, 4, 5, 2)), ((2, 1, 4, 5), (3, 4, 5, 2))]
)
def test_warp_rejects(x, flow):
    with pytest.raises(ValueError, match="flow"):
        warp(torch.zeros(x), torch.zeros(flow))


def test_composition_of_affine_flows_is_exact():
    points = np.stack(np.meshgrid(np.arange(32), np.arange(24)), axis=-1).astype(np.float64)
    first_map, second_map = np.array([[1.02, -0.03], [0.05, 0.97]]), np.array([[0.96, 0.04], [-0.02, 1.05]])
    first, second = points @ first_map.T + [0.4, -0.7] - points, points @ second_map.T + [-0.9, 0.3] - points
    expected = (points @ first_map.T + [0.4, -0.7]) @ second_map.T + [-0.9, 0.3] - points
    composed = compose_flows(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    assert composed.dtype == np.float64
    np.testing.assert_allclose(composed[4:-4, 4:-4], expected[4:-4, 4:-4], atol=1e-9)


def test_warping_twice_is_warping_by_the_composition():
    image = torch.from_numpy(cv2.GaussianBlur(np.random.default_rng(9).random((24, 32)), (0, 0), 4))
    twice = warp(warp(image, smooth(1)), smooth(2))[8:-8, 8:-8]
    once = warp(image, compose_flows(smooth(2), smooth(1)))[8:-8, 8:-8]
    np.testing.assert_allclose(once, twice, atol=5e-3)
    assert (warp(image, smooth(2))[8:-8, 8:-8] - twice).abs().max() > 2e-2


def test_composition_leaves_unknown_what_has_no_flow_and_spoils_no_neighbour():
    first, second = torch.tensor([1.0, 0]).repeat(24, 32, 1), torch.tensor([0.0, 2]).repeat(24, 32, 1)
    first[3, 4], first[3, 6] = UNKNOWN_FLOW, np.nan
    second[10, 11], second[12, 13] = UNKNOWN_FLOW, np.nan
    composed = compose_flows(first, second)
    expected = torch.ones(24, 32, dtype=torch.bool)
    expected[3, 4] = expected[3, 6] = expected[10, 10] = expected[12, 12] = expected[:, -1] = False
    assert torch.equal(is_known(composed), expected) and (composed[~expected] == UNKNOWN_FLOW).all()
    assert (composed[expected] == torch.tensor([1.0, 2.0])).all()
    assert warp(torch.ones(24, 32), composed)[~expected].abs().max() == 0
    for shift, there in ((-0.25, True), (-0.75, False)):  # near the border the pixels inside are used
        flow = compose_flows(torch.tensor([shift, 0]).expand(4, 6, 2), torch.tensor([-3.0, 1]).expand(4, 6, 2))
        assert is_known(flow)[:, 0].all() == there and flow[1, 1].tolist() == [shift - 3, 1]


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
