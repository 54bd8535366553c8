"""Optical flow: DIS, Middlebury files, and the warp that makes Q of the previous mask."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stg_pyg.errors import InputError

FLO_MAGIC = 202021.25
FLO_HEADER = struct.Struct("<fii")
# Below 8 pixels at the finest scale (1/4) DIS takes its scales from the width alone and reads outside of the image.
DIS_MIN_SIDE = 32
DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}

Flow = NDArray[np.float32]
Image = NDArray[np.uint8]


class FlowEstimator(Protocol):
    """Backward flow between two frames."""

    def __call__(self, current: Image, previous: Image) -> Flow:
        """Flow [H, W, 2] in pixels (x, y): pixel i of ``current`` [H, W, 3] lies at i + flow(i) in ``previous``."""
        ...


class DISFlow:
    """Dense inverse search (Kroeger et al., ECCV 2016) of OpenCV, on the CPU.

    Args:
        preset: ``ultrafast``, ``fast`` or ``medium``.
        max_size: frames with a longer side are reduced to it before the search; None for full size.

    Raises:
        ValueError: for another preset, or ``max_size`` less than 1.
    """

    def __init__(self, preset: Literal["ultrafast", "fast", "medium"] = "medium", max_size: int | None = None) -> None:
        if preset not in DIS_PRESETS:
            raise ValueError(f"preset must be one of {', '.join(DIS_PRESETS)}, not {preset!r}")
        if max_size is not None and max_size < 1:
            raise ValueError(f"max_size must be at least 1 or None, not {max_size}")
        self.preset = preset
        self.max_size = max_size

    def __call__(self, current: Image, previous: Image) -> Flow:
        """Backward flow [H, W, 2], float32, in pixels of the full size.

        Args:
            current: [H, W, 3] uint8 RGB.
            previous: [H, W, 3] uint8 RGB.

        Raises:
            InputError: when the frames are not uint8 RGB or differ in size.
        """
        for frame in (current, previous):
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
                raise InputError(f"flow needs frames [H, W, 3] of uint8, not {list(frame.shape)} of {frame.dtype}")
        if current.shape != previous.shape:
            raise InputError(
                f"flow needs frames of one size, not {current.shape[:2]} and {previous.shape[:2]}: resize them"
            )
        height, width = current.shape[:2]
        scale = 1.0 if self.max_size is None else min(1.0, self.max_size / max(height, width))
        small = max(1, round(height * scale)), max(1, round(width * scale))
        # A new object a call keeps this one free of state, so that it can be copied to other processes.
        search = cv2.DISOpticalFlow.create(DIS_PRESETS[self.preset])
        flow = search.calc(_prepare(current, small), _prepare(previous, small), None)  # type: ignore[call-overload]
        flow = flow[: small[0], : small[1]]
        if small != (height, width):
            flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)
            flow = flow * np.array([width / small[1], height / small[0]], dtype=np.float32)
        return np.ascontiguousarray(flow, dtype=np.float32)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(preset={self.preset!r}, max_size={self.max_size})"


def _prepare(frame: Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The frame in gray, reduced to (height, width), with its borders repeated to the smallest size that DIS takes."""
    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    if gray.shape != size:
        gray = cv2.resize(gray, size[::-1], interpolation=cv2.INTER_AREA)
    missing = [max(0, DIS_MIN_SIDE - side) for side in size]
    return np.pad(gray, [(0, missing[0]), (0, missing[1])], mode="edge").astype(np.uint8, copy=False)


def warp(x: Tensor, flow: Tensor | Flow) -> Tensor:
    """Samples ``x`` at i + flow(i), bilinear, with zeros outside: the mask Q from the previous mask and backward flow.

    Args:
        x: [H, W], [C, H, W] or [B, C, H, W]; what is not floating becomes float32.
        flow: [H, W, 2] in pixels (x, y), or [B, H, W, 2] with x of four dimensions. NaN and unknown flow (above 1e9 in
            .flo files) sample the zeros outside.

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
    return sampled.reshape(x.shape).to(x.dtype if x.is_floating_point() else dtype)


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
        [H, W] bool on the grid of ``flow_fw``; False where it leaves the frame.
    """
    forward = torch.as_tensor(flow_fw)
    height, width = forward.shape[:2]
    backward = warp(torch.as_tensor(flow_bw, device=forward.device).movedim(-1, 0), forward).movedim(0, -1)
    target = _pixel_grid(height, width, forward) + forward
    inside = ((target >= 0) & (target <= target.new_tensor([width - 1, height - 1]))).all(dim=-1)
    bound = alpha * (forward.square().sum(dim=-1) + backward.square().sum(dim=-1)) + beta
    return inside & ((forward + backward).square().sum(dim=-1) < bound)


def _pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Positions (x, y) of the pixels, [H, W, 2]."""
    y = torch.arange(height, dtype=like.dtype, device=like.device)
    x = torch.arange(width, dtype=like.dtype, device=like.device)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)


def read_flo(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> Flow:
    """Reads a Middlebury .flo file.

    Args:
        path: the file.
        size: the (H, W) that it must have, None for any.

    Returns:
        [H, W, 2] float32 flow in pixels (x, y).

    Raises:
        InputError: when the file is missing, is not a .flo file, is truncated or has another size.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path") from None
    remedy = "write it again as Middlebury .flo"
    if len(content) < FLO_HEADER.size:
        raise InputError(f"{path}: {len(content)} bytes are too few for a flow file: {remedy}")
    magic, width, height = FLO_HEADER.unpack_from(content)
    if magic != FLO_MAGIC or width < 1 or height < 1:
        raise InputError(f"{path}: not a flow file (bad header): {remedy}")
    expected = FLO_HEADER.size + 8 * width * height
    if len(content) != expected:
        raise InputError(f"{path}: {len(content)} bytes instead of {expected} for {width} x {height} flow: {remedy}")
    if size is not None and (height, width) != tuple(size):
        raise InputError(
            f"{path}: flow of {width} x {height} for frames of {size[1]} x {size[0]}: compute it at their size"
        )
    flow = np.frombuffer(content, dtype="<f4", offset=FLO_HEADER.size).reshape(height, width, 2)
    return flow.astype(np.float32)


def write_flo(path: str | os.PathLike[str], flow: Flow) -> None:
    """Writes flow [H, W, 2] in pixels as Middlebury .flo, under a temporary name first so that no half file remains.

    Raises:
        ValueError: when the shape is another.
    """
    if flow.ndim != 3 or flow.shape[2] != 2 or flow.size == 0:
        raise ValueError(f"flow must be [H, W, 2], not {list(flow.shape)}")
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        header = FLO_HEADER.pack(FLO_MAGIC, flow.shape[1], flow.shape[0])
        temporary.write_bytes(header + np.ascontiguousarray(flow, dtype="<f4").tobytes())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
