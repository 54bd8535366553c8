"""First masks from less than a mask: a box or a few points on an object, by the Q-guided segmentation network."""

from __future__ import annotations

import torch
from torch import Tensor

from stg_pyg.ops.boxes import boxes_from_center_size, clip_boxes
from stg_pyg.ops.crops import paste
from stg_pyg.ops.masks import mask_iou
from stg_pyg.proposals.guided import Evidence, GuidedProposer

SMALLEST_WINDOW = 16.0
"""Side in pixels of the smallest window that is tried around points; each next one is larger by this factor."""
WINDOW_GROWTH = 1.4


def mask_of_box(proposer: GuidedProposer, image: Tensor, box: Tensor) -> Tensor:
    """Soft mask [H, W] of the object in a box, 0 outside of it.

    The network sees the window of the box, and the box itself as the rough mask Q.

    Args:
        image: [3, H, W] in [0, 1].
        box: [4] around all of the object, in pixels.
    """
    masks, _, inside = _guided_by_boxes(proposer, image, box[None])
    return masks[0] * inside[0]


def mask_of_points(proposer: GuidedProposer, image: Tensor, points: Tensor) -> Tensor:
    """Soft mask [H, W] of the object that points are on.

    Square boxes of many sizes around the points are segmented as in :func:`mask_of_box`. The mask is taken that has the
    highest product of the share of points in it, the IoU that the network expects of it, and its mean IoU with the
    others, weighted by theirs: an object is found from boxes of several sizes, a chance shape from one.

    Args:
        image: [3, H, W] in [0, 1].
        points: [N, 2] (x, y) in pixels of the frame, N >= 1.
    """
    height, width = image.shape[-2:]
    masks, quality, _ = _guided_by_boxes(proposer, image, boxes_around(points, height, width))
    binary = (masks > 0.5).to(image.dtype)
    columns = points[:, 0].long().clamp(0, width - 1)
    rows = points[:, 1].long().clamp(0, height - 1)
    hit = binary[:, rows, columns].mean(dim=1)
    agreement = (mask_iou(binary, binary) * quality).mean(dim=1)
    return masks[int((hit * quality * agreement).argmax())]


def boxes_around(points: Tensor, height: int, width: int) -> Tensor:
    """Boxes [M, 4] of growing size around all points [N, 2], up to the size of the frame; square where points allow."""
    low, high = points.amin(dim=0), points.amax(dim=0)
    sides = [SMALLEST_WINDOW]
    while sides[-1] * WINDOW_GROWTH < max(height, width):
        sides.append(sides[-1] * WINDOW_GROWTH)
    size = torch.tensor(sides, dtype=points.dtype, device=points.device)[:, None].expand(-1, 2)
    size = torch.maximum(size, 1.1 * (high - low))
    return clip_boxes(boxes_from_center_size(((low + high) / 2).expand_as(size), size), height, width)


def _guided_by_boxes(proposer: GuidedProposer, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Soft masks [M, H, W], their expected IoU [M], and the boxes [M, 4] as masks [M, H, W]."""
    height, width = image.shape[-2:]
    inside = torch.zeros(len(boxes), height, width, dtype=image.dtype, device=image.device)
    for mask, box in zip(inside, boxes, strict=True):
        x0, y0, x1, y1 = (round(value) for value in box.tolist())
        mask[max(y0, 0) : y1, max(x0, 0) : x1] = 1
    evidence = [proposer.look_at(box[None], mask) for box, mask in zip(boxes, inside, strict=True)]
    merged = Evidence.cat(evidence)
    crops, quality = proposer.segment(image, merged)
    return paste(crops, merged.windows, height, width), quality, inside
