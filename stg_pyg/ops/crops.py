"""Between the frame and the square crops of its boxes, differentiable and on the device of the input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from stg_pyg.ops.boxes import box_center_size, boxes_from_center_size

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def normalize_image(images: Tensor) -> Tensor:
    """Images [..., 3, H, W] in [0, 1] with the mean and standard deviation that torchvision's weights expect."""
    mean, std = images.new_tensor(IMAGE_MEAN)[:, None, None], images.new_tensor(IMAGE_STD)[:, None, None]
    return (images - mean) / std


def crop_windows(boxes: Tensor, margin: float, min_aspect: float = 0.5, min_size: float = 24.0) -> Tensor:
    """Windows [N, 4] that are cut out for boxes [N, 4].

    ``margin``, a share of the box, is added on every side, sides get ``min_size`` pixels at least, and the short one
    ``min_aspect`` of the long one, so that thin boxes are not stretched much.
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


def crop_resize_masks(masks: Tensor, windows: Tensor, size: int) -> Tensor:
    """:func:`crop_resize` of each of N masks [N, H, W] at its own window: [N, 1, size, size], of the dtype of
    ``windows``.

    Of bool masks only the part around all windows is converted, as full frames of floats are four times as large.
    """
    owner = torch.arange(len(masks), device=masks.device)
    if masks.is_floating_point() or len(masks) == 0:
        return crop_resize(masks[:, None].to(windows.dtype), windows, size, owner)
    height, width = masks.shape[-2:]
    low, high = paste_extents(windows, height, width).split(2, dim=1)
    (x0, y0), (x1, y1) = low.amin(dim=0).sub(2).clamp(min=0).tolist(), high.amax(dim=0).add(2).tolist()  # for bilinear
    part = masks[:, None, y0:y1, x0:x1].to(windows.dtype)
    return crop_resize(part, windows - windows.new_tensor([x0, y0, x0, y0]), size, owner)


def paste(crops: Tensor, windows: Tensor, height: int, width: int, extents: Tensor | None = None) -> Tensor:
    """Crops [N, S, S] put back at their windows [N, 4] in an empty frame: [N, height, width], bilinear.

    The inverse of :func:`crop_resize` up to resampling. Only the pixels of each window are computed; ``extents`` are
    :func:`paste_extents`, for a caller who has them.
    """
    frames = crops.new_zeros(len(crops), height, width)
    extents = paste_extents(windows, height, width) if extents is None else extents
    for n, (left, top, right, bottom) in enumerate(extents.tolist()):
        if right > left and bottom > top:
            frames[n, top:bottom, left:right] = _resample(crops[n], windows[n], (left, top, right, bottom))
    return frames


def add_pasted(frames: Tensor, crops: Tensor, windows: Tensor, extents: Tensor) -> Tensor:
    """Frames [N, H, W] plus what :func:`paste` makes of crops [N, S, S] at windows [N, 4], kept within [0, 1] there."""
    result = frames.clone()
    for n, (left, top, right, bottom) in enumerate(extents.tolist()):
        if right > left and bottom > top:
            part = _resample(crops[n], windows[n], (left, top, right, bottom))
            result[n, top:bottom, left:right] = (frames[n, top:bottom, left:right] + part).clamp(0, 1)
    return result


def _resample(crop: Tensor, window: Tensor, extent: tuple[int, int, int, int]) -> Tensor:
    """The pixels of ``extent`` of a crop [S, S] that lies at ``window`` [4]."""
    x0, y0, x1, y1 = window.unbind()
    left, top, right, bottom = extent
    xs = torch.arange(left, right, device=crop.device, dtype=crop.dtype) + 0.5
    ys = torch.arange(top, bottom, device=crop.device, dtype=crop.dtype) + 0.5
    grid_x, grid_y = 2 * (xs - x0) / (x1 - x0) - 1, 2 * (ys - y0) / (y1 - y0) - 1
    grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)
    return F.grid_sample(crop[None, None], grid[None], align_corners=False)[0, 0]


def paste_extents(windows: Tensor, height: int, width: int) -> Tensor:
    """Whole pixels [N, 4] that :func:`paste` writes for windows [N, 4], on the CPU; zeros for one outside the frame."""
    low, high = windows.detach().cpu().double().split(2, dim=1)
    limit = torch.tensor([width, height])
    low, high = low.floor().long().clamp(min=0), torch.minimum(high.ceil().long(), limit)
    return torch.cat([low, high], dim=1) * (low < high).all(dim=1, keepdim=True)
