"""Between the frame and the square crops of its boxes, differentiable and on the device of the input."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from stg_pyg.boxes import box_center_size, boxes_from_center_size

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def normalize_image(images: Tensor) -> Tensor:
    """Images [..., 3, H, W] in [0, 1] with the mean and standard deviation that torchvision's weights expect."""
    mean, std = images.new_tensor(IMAGE_MEAN)[:, None, None], images.new_tensor(IMAGE_STD)[:, None, None]
    return (images - mean) / std


def crop_windows(boxes: Tensor, margin: float, min_aspect: float = 0.5, min_size: float = 24.0) -> Tensor:
    """Windows [N, 4] that are cut out for boxes [N, 4].

    Args:
        margin: share of the box added on every side (0.15 in the paper).
        min_aspect: the short side is grown to this share of the long one, so that thin boxes are not stretched much.
        min_size: least side in pixels.
    """
    center, size = box_center_size(boxes)
    size = (size * (1 + 2 * margin)).clamp(min=min_size)
    size = torch.maximum(size, min_aspect * size.flip(-1))
    return boxes_from_center_size(center, size)


def crop_resize(images: Tensor, windows: Tensor, size: int, image_of_window: Tensor | None = None) -> Tensor:
    """Windows of images, resampled to ``size`` x ``size`` with averaging (RoIAlign); zeros outside of the image.

    Args:
        images: [B, C, H, W].
        windows: [N, 4] in pixels.
        image_of_window: [N] position of each window's image in the batch; all the first when omitted.

    Returns:
        [N, C, size, size].
    """
    if image_of_window is None:
        image_of_window = torch.zeros(len(windows), device=windows.device)
    rois = torch.cat([image_of_window[:, None].to(images.dtype), windows.to(images.dtype)], dim=1)
    return roi_align(images, rois, output_size=size, sampling_ratio=2, aligned=True)


def paste(crops: Tensor, windows: Tensor, height: int, width: int) -> Tensor:
    """Crops [N, S, S] put back at their windows [N, 4] in an empty frame: [N, height, width], bilinear.

    The inverse of :func:`crop_resize` up to resampling. Only the pixels of each window are computed.
    """
    frames = crops.new_zeros(len(crops), height, width)
    for n, (x0, y0, x1, y1) in enumerate(windows.tolist()):
        left, top = max(math.floor(x0), 0), max(math.floor(y0), 0)
        right, bottom = min(math.ceil(x1), width), min(math.ceil(y1), height)
        if right <= left or bottom <= top:
            continue
        xs = torch.arange(left, right, device=crops.device, dtype=crops.dtype) + 0.5
        ys = torch.arange(top, bottom, device=crops.device, dtype=crops.dtype) + 0.5
        grid_x, grid_y = 2 * (xs - x0) / (x1 - x0) - 1, 2 * (ys - y0) / (y1 - y0) - 1
        grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)
        frames[n, top:bottom, left:right] = F.grid_sample(crops[n][None, None], grid[None], align_corners=False)[0, 0]
    return frames
