"""Which object a proposal belongs to."""

from __future__ import annotations

import torch
from torch import Tensor

from stg_pyg.ops.boxes import box_iou
from stg_pyg.ops.masks import paired_mask_iou


def assign_proposals(
    boxes: Tensor,
    predicted: Tensor,
    *,
    min_iou: float = 0.0,
    masks: Tensor | None = None,
    q: Tensor | None = None,
    min_mask_iou: float = 0.0,
) -> Tensor:
    r"""The object :math:`\arg\max_o \mathrm{IoU}(b, p_o)` of every proposal, "Preparation" of Liu et al., AAAI 2021.

    A proposal that meets no predicted box belongs to none. As printed, any overlap is enough, so that a single object
    collects background; ``min_iou`` and ``min_mask_iou`` reject such proposals. 0, the default, is the paper's rule.

    Args:
        boxes: [N, 4] boxes b of the proposals.
        predicted: [K, 4] boxes p of the objects.
        min_iou: smallest IoU(b, p) of a proposal with its object.
        masks: [N, H, W] masks of the proposals, needed with ``min_mask_iou``.
        q: [K, H, W] warped previous masks of the objects, needed with ``min_mask_iou``.
        min_mask_iou: smallest soft mask IoU of a proposal with Q of its object.

    Returns:
        [N] positions of objects, long, -1 for none. The first object wins a tie.

    Raises:
        ValueError: when ``min_mask_iou`` is given without ``masks`` and ``q``.
    """
    if min_mask_iou > 0 and (masks is None or q is None):
        raise ValueError("min_mask_iou needs masks and q")
    if len(boxes) == 0 or len(predicted) == 0:
        return torch.full((len(boxes),), -1, dtype=torch.long, device=boxes.device)
    iou, position = box_iou(boxes, predicted).max(dim=1)
    accepted = (iou > 0) & (iou >= min_iou)
    if min_mask_iou > 0 and masks is not None and q is not None:
        accepted &= paired_mask_iou(masks, q, position) >= min_mask_iou
    return torch.where(accepted, position, -1)
