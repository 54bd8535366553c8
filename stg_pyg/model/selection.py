"""Mask selection: the score of Eq. 6 and the best node of every graph."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.typing import WITH_TORCH_SCATTER

from stg_pyg.ops.boxes import box_iou, paired_box_iou
from stg_pyg.ops.masks import paired_mask_iou, region_mask_iou
from stg_pyg.ops.regions import MaskRegions

SCATTER_DEVICES: tuple[str, ...] = ()
"""Types of the devices that torch-scatter has kernels for: built without nvcc it has none for CUDA."""
if WITH_TORCH_SCATTER:
    import torch_scatter

    SCATTER_DEVICES = ("cpu",) if torch.ops.torch_scatter.cuda_version() == -1 else ("cpu", "cuda")


def selection_score(masks: Tensor, boxes_of_masks: Tensor, p: Tensor, q: Tensor, lambda1: float = 0.4) -> Tensor:
    r"""How well every node of one graph agrees with the motion and the previous mask.

    .. math::
        \mathcal{S}(\widehat{M}^v | (p, Q)) = \lambda_1 \mathrm{IoU}(\mathcal{B}(\widehat{M}^v), p)
            + \lambda_2 \frac{\widehat{M}^v \cap Q}{\widehat{M}^v \cup Q}, \qquad \lambda_2 = 1 - \lambda_1

    Eq. 6 of Liu et al., AAAI 2021, arXiv:2012.05499. The second term is :func:`mask_iou`.

    Args:
        masks: [N, H, W] bool masks, or soft ones in [0, 1].
        boxes_of_masks: [N, 4] their boxes B(M).
        p: [4] the predicted box.
        q: [H, W] the warped previous mask, bool or in [0, 1].
        lambda1: the share of the box term, in [0, 1].

    Returns:
        [N] scores in [0, 1], differentiable in ``masks`` and ``q``.

    Raises:
        ValueError: when ``lambda1`` is outside [0, 1].
    """
    batch = torch.zeros(len(masks), dtype=torch.long, device=masks.device)
    return selection_scores_batched(masks, boxes_of_masks, p[None], q[None], batch, lambda1)


def selection_scores_batched(
    masks: Tensor, boxes_of_masks: Tensor, p: Tensor, q: Tensor, batch: Tensor, lambda1: float = 0.4
) -> Tensor:
    """:func:`selection_score` [N] of the nodes of B graphs at once, with p [B, 4] and q [B, H, W].

    Args:
        batch: [N] graph of every node; fastest when sorted, as in a ``Batch`` of PyG.

    Raises:
        ValueError: when ``lambda1`` is outside [0, 1] or ``batch`` is outside [0, B).
    """
    _check_share(lambda1)
    mask_term = paired_mask_iou(masks, q, batch)
    if len(p) == 0:
        return mask_term
    box_term = box_iou(boxes_of_masks, p).gather(1, batch[:, None])[:, 0]
    return lambda1 * box_term + (1 - lambda1) * mask_term


def region_selection_scores(
    regions: MaskRegions, boxes: Tensor, p: Tensor, q: Tensor, lambda1: float = 0.4, threshold: float | None = None
) -> Tensor:
    """:func:`selection_scores_batched` [N] of masks that are 0 outside of windows.

    Args:
        threshold: binarises the masks first; None: they are soft.

    Raises:
        ValueError: when ``lambda1`` is outside [0, 1].
    """
    _check_share(lambda1)
    mask_term = region_mask_iou(regions, q, threshold)
    box_term = paired_box_iou(boxes, p[regions.batch])
    return lambda1 * box_term + (1 - lambda1) * mask_term


def select_best(scores: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    r"""The chosen node :math:`\arg\max_v \mathcal{S}(\widehat{M}^v | (p, Q))` of every graph.

    Args:
        scores: [N] scores; NaN loses against every number.
        batch: [N] graph of every node.
        num_graphs: B.

    Returns:
        [B] long positions in [0, N), the lowest one on ties, -1 for a graph without nodes.
    """
    limit = torch.finfo(scores.dtype).min / 2
    scores = scores.detach().nan_to_num(nan=limit).clamp(min=limit)
    if scores.device.type in SCATTER_DEVICES:
        best = torch_scatter.scatter_max(scores, batch, dim=0, dim_size=num_graphs)[0]
    else:
        best = scores.new_zeros(num_graphs).scatter_reduce(0, batch, scores, "amax", include_self=False)
    # The argument that a parallel maximum returns depends on the order of its threads where scores are equal.
    count = len(scores)
    node = torch.arange(count, device=scores.device).where(scores == best[batch], count)
    first = node.new_full((num_graphs,), count).scatter_reduce(0, batch, node, "amin")
    return torch.where(first < count, first, -1)


def binarised(h: Tensor, thr: float) -> Tensor:
    r"""The binary mask :math:`\widehat{M} = (h > thr)` of soft masks [K, H, W], with the gradient of h."""
    hard = (h > thr).to(h.dtype)
    return hard + (h - h.detach()) if h.requires_grad else hard


def _check_share(lambda1: float) -> None:
    if not 0 <= lambda1 <= 1:
        raise ValueError(f"lambda1 must be in [0, 1], not {lambda1}")
