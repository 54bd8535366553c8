"""Axis-aligned boxes: float tensors [N, 4] of (x0, y0, x1, y1) in pixels, x1 and y1 exclusive."""

from __future__ import annotations

import torch
from torch import Tensor


def masks_to_boxes(masks: Tensor, threshold: float = 0.5) -> Tensor:
    r"""The function :math:`\mathcal{B}(\cdot)` of Eq. 6: the tight box of every mask.

    Args:
        masks: [N, H, W], bool, or soft values compared with ``threshold``.
        threshold: a pixel belongs to the mask when its value is larger.

    Returns:
        [N, 4] boxes in pixels; zeros for an empty mask. The dtype is that of ``masks`` when floating, else float32.
    """
    dtype = masks.dtype if masks.is_floating_point() else torch.float32
    n, height, width = masks.shape
    if n == 0 or height == 0 or width == 0:
        return torch.zeros(n, 4, dtype=dtype, device=masks.device)
    # The maximum first, then the comparison: several times faster than `any` of all comparisons.
    values, threshold = (masks.view(torch.uint8), 0) if masks.dtype == torch.bool else (masks.detach(), threshold)
    columns, rows = (values.amax(dim=1) > threshold).to(dtype), (values.amax(dim=2) > threshold).to(dtype)
    x0, y0 = columns.argmax(dim=1), rows.argmax(dim=1)
    x1, y1 = width - columns.flip(1).argmax(dim=1), height - rows.flip(1).argmax(dim=1)
    boxes = torch.stack([x0, y0, x1, y1], dim=1).to(dtype)
    return boxes * columns.amax(dim=1, keepdim=True)


def masks_to_boxes_inside(masks: Tensor, window: tuple[int, int, int, int], threshold: float = 0.5) -> Tensor:
    """:func:`masks_to_boxes` [N, 4] of masks [N, H, W] that are 0 outside of a window (x0, y0, x1, y1) in whole pixels,
    of which nothing else is read."""
    x0, y0, x1, y1 = window
    return shift_boxes(masks_to_boxes(masks[:, y0:y1, x0:x1], threshold), x0, y0)


def shift_boxes(boxes: Tensor, x: float, y: float) -> Tensor:
    """Boxes [N, 4] moved by x and y; those without extent stay zeros."""
    return (boxes + boxes.new_tensor([x, y, x, y])) * (boxes[:, 2:3] > boxes[:, 0:1])


def box_area(boxes: Tensor) -> Tensor:
    """Area [...] of boxes [..., 4]; a box with no extent has area 0."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [N, M] of boxes [N, 4] and [M, 4]; 0 where the union is empty."""
    return paired_box_iou(a[:, None], b[None])


def paired_box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [...] of boxes [..., 4] with those at the same place in another tensor."""
    size = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    intersection = size.clamp(min=0).prod(dim=-1)
    union = box_area(a) + box_area(b) - intersection
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), union.new_zeros(()))


def box_center_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centers [..., 2] and sizes [..., 2] (width, height) of boxes [..., 4]."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def boxes_from_center_size(center: Tensor, size: Tensor) -> Tensor:
    """Boxes [..., 4] with the given centers [..., 2] and sizes [..., 2]."""
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def clip_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes cut at the borders of a frame of ``height`` x ``width`` pixels."""
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)
