"""Flow fields: warping by them, composing them, and telling where they hold."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

UNKNOWN_FLOW = 1e10
"""Value of both components where no flow is known, as in Middlebury .flo files; anything above 1e9 counts."""
_KNOWN_BOUND = 1e9

Flow = NDArray[np.float32]
Image = NDArray[np.uint8]


def warp(x: Tensor, flow: Tensor | Flow, valid: Tensor | NDArray[np.bool_] | None = None) -> Tensor:
    """Samples ``x`` at i + flow(i), bilinear, with zeros outside: the mask Q from the previous mask and backward flow.

    Args:
        x: [H, W], [C, H, W] or [B, C, H, W]; what is not floating becomes float32.
        flow: [H, W, 2] in pixels (x, y), or [B, H, W, 2] with x of four dimensions. NaN and unknown flow (above 1e9 in
            .flo files) sample the zeros outside.
        valid: bool, the shape of ``flow`` without its last dimension; the result is zero where it is False.

    Returns:
        The shape of ``x``, differentiable in ``x`` and ``flow``, exact to about 1e-4 pixels at 1080p in float32.

    Raises:
        ValueError: when the shapes disagree.
    """
    flow = torch.as_tensor(flow, device=x.device)
    if not 2 <= x.ndim <= 4 or flow.ndim not in (3, 4) or (flow.ndim == 4 and x.ndim < 4):
        raise ValueError(f"cannot warp {list(x.shape)} by flow {list(flow.shape)}")
    images = x[(None,) * (4 - x.ndim)]
    flow = flow[None] if flow.ndim == 3 else flow
    batch, _, height, width = images.shape
    if flow.shape[1:] != (height, width, 2) or flow.shape[0] not in (1, batch):
        raise ValueError(f"flow {list(flow.shape)} does not fit images {list(x.shape)}")
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    flow = flow.to(dtype)
    grid = _pixel_grid(height, width, flow) + flow
    # Pixel centers of grid_sample without align_corners, which unlike with it also holds for a side of one pixel.
    grid = (2 * grid + 1) / flow.new_tensor([width, height]) - 1
    grid = grid.nan_to_num(nan=3.0).clamp(-3, 3).expand(batch, -1, -1, -1)
    sampled = F.grid_sample(images.to(dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if valid is not None:
        mask = torch.as_tensor(valid, device=x.device)
        mask = mask[None] if mask.ndim == 2 else mask
        if mask.dtype != torch.bool or mask.shape not in (flow.shape[:3], (1, *flow.shape[1:3])):
            raise ValueError(f"valid must be bool {list(flow.shape[:3])}, not {mask.dtype} {list(mask.shape)}")
        sampled = sampled.masked_fill(~mask[:, None], 0)
    return sampled.reshape(x.shape).to(x.dtype if x.is_floating_point() else dtype)


def is_known(flow: Tensor | Flow) -> Tensor:
    """[..., H, W] bool, where flow [..., H, W, 2] is finite and not above 1e9 in size."""
    return (torch.as_tensor(flow).abs() <= _KNOWN_BOUND).all(dim=-1)  # False for NaN


def compose_flows(first: Tensor | Flow, second: Tensor | Flow) -> Tensor:
    r"""The flow a -> c from the flows a -> b and b -> c.

    .. math::
        w_{ac}(i) = w_{ab}(i) + w_{bc}(i + w_{ab}(i))

    The second flow is sampled bilinearly over the pixels that have one.

    Args:
        first: [H, W, 2] flow a -> b in pixels.
        second: [H, W, 2] flow b -> c in pixels.

    Returns:
        [H, W, 2] on the grid of ``first``; :data:`UNKNOWN_FLOW` where ``first`` is unknown, and where less than half
        of the weight of the sample lies on known pixels of the frame.

    Raises:
        ValueError: when the shapes disagree.
    """
    start = torch.as_tensor(first)
    follow = torch.as_tensor(second, device=start.device).to(start.dtype)
    known = is_known(follow)
    values = torch.where(known[..., None], follow, torch.zeros_like(follow))
    sampled = warp(torch.cat([values, known[..., None].to(values.dtype)], dim=-1).movedim(-1, 0), start)
    weight = sampled[2]
    composed = start + sampled[:2].movedim(0, -1) / weight.clamp(min=0.5)[..., None]
    return torch.where((weight >= 0.5)[..., None], composed, torch.full_like(composed, UNKNOWN_FLOW))


def forward_backward_consistency(
    flow_fw: Tensor | Flow, flow_bw: Tensor | Flow, alpha: float = 0.01, beta: float = 0.5
) -> Tensor:
    r"""Where two flows undo each other, the occlusion test of Sundaram et al., ECCV 2010.

    .. math::
        |w_f(i) + w_b(i + w_f(i))|^2 < \alpha (|w_f(i)|^2 + |w_b(i + w_f(i))|^2) + \beta

    Args:
        flow_fw: [H, W, 2] flow a -> b in pixels.
        flow_bw: [H, W, 2] flow b -> a in pixels.
        alpha: tolerance relative to the squared lengths.
        beta: tolerance in squared pixels.

    Returns:
        [H, W] bool on the grid of ``flow_fw``; False where it leaves the frame, and where a flow is unknown.
    """
    forward = torch.as_tensor(flow_fw)
    height, width = forward.shape[:2]
    there_and_back = compose_flows(forward, flow_bw)
    backward = there_and_back - forward
    target = _pixel_grid(height, width, forward) + forward
    inside = ((target >= 0) & (target <= target.new_tensor([width - 1, height - 1]))).all(dim=-1)
    bound = alpha * (forward.square().sum(dim=-1) + backward.square().sum(dim=-1)) + beta
    return inside & is_known(there_and_back) & (there_and_back.square().sum(dim=-1) < bound)


def _pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Positions (x, y) of the pixels, [H, W, 2]."""
    y = torch.arange(height, dtype=like.dtype, device=like.device)
    x = torch.arange(width, dtype=like.dtype, device=like.device)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
