"""The training loss (Eq. 9)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stg_pyg.errors import InputError
from stg_pyg.model.selection import selection_scores_batched
from stg_pyg.ops.boxes import masks_to_boxes

PROBABILITY_MARGIN = 1e-4
"""How far the ``probability`` reading keeps h from 0 and 1, where the logarithm ends."""


TRAINING_REMEDY = (
    "lower the learning rate of the preset, give --precision float32, or take another layer where one was exchanged"
)
ONLINE_REMEDY = "take fewer --online-steps, none, or another checkpoint"


def check_finite(losses: Mapping[str, float], where: str, remedy: str = TRAINING_REMEDY) -> None:
    """Stops training on losses by name, of which ``loss`` is the sum of the others, at a stage and step.

    Raises:
        InputError: one of them is not finite.
    """
    bad = {name: value for name, value in losses.items() if not math.isfinite(value)}
    if bad:
        terms = ", ".join(f"{name} is {value}" for name, value in bad.items() if name != "loss" or len(bad) == 1)
        raise InputError(f"{where}: the loss is not finite ({terms}); nothing of this step is stored: {remedy}")


class STGLoss(NamedTuple):
    """The loss and its two terms, scalars."""

    total: Tensor
    """``gamma * distance + bce``."""
    distance: Tensor
    """The sum over nodes of the first term, without gamma."""
    bce: Tensor
    """The cross entropy of the chosen mask."""


def stg_loss(
    masks: Tensor, chosen: Tensor, target: Tensor, p: Tensor, q: Tensor, box: Tensor | None = None, **options: Any
) -> STGLoss:
    r"""The loss of one object in one frame.

    .. math::
        \mathcal{L}(\widehat{M}) = \gamma \sum_v |\mathcal{S}(\widehat{M}^v | (b, \mathbf{M}))
            - \mathcal{S}(\widehat{M}^v | (p, \mathbf{Q}))|
            - \mathbf{M} \log(\sigma(\widehat{M})) - (1 - \mathbf{M}) \log(1 - \sigma(\widehat{M}))

    Eq. 9 of Liu et al., AAAI 2021, arXiv:2012.05499, with S of Eq. 6 on soft masks, so that gradient reaches every
    node; the boxes B(M > thr) are constants to it.

    Args:
        masks: [N, H, W] reconstructed soft masks of the nodes, in [0, 1]; without any the first term is 0.
        chosen: [H, W] the refined soft mask h.
        target: [H, W] the ground truth M, bool or in [0, 1].
        p: [4] the predicted box.
        q: [H, W] the warped previous mask.
        box: [4] the ground truth box b; the box of ``target > 0.5`` if not given.
        **options: gamma, lambda1, thr, reading and reduction, as of :func:`stg_loss_batched`.

    Raises:
        ValueError: when ``reading`` or ``reduction`` has another value.
    """
    batch = torch.zeros(len(masks), dtype=torch.long, device=masks.device)
    boxes = None if box is None else box[None]
    return stg_loss_batched(masks, chosen[None], target[None], p[None], q[None], batch, boxes, **options)


def stg_loss_batched(
    masks: Tensor,
    chosen: Tensor,
    target: Tensor,
    p: Tensor,
    q: Tensor,
    batch: Tensor,
    box: Tensor | None = None,
    *,
    gamma: float = 100.0,
    lambda1: float = 0.4,
    thr: float = 0.2,
    reading: Literal["logits", "probability"] = "logits",
    reduction: Literal["mean", "sum"] = "mean",
) -> STGLoss:
    """The mean of :func:`stg_loss` over B graphs, whose arguments are stacked but for the masks.

    Args:
        masks: [N, H, W] masks of all nodes.
        chosen, target, p, q, box: of each graph, as of :func:`stg_loss`.
        batch: [N] graph of every node.
        gamma: weight of the first term.
        lambda1: share of the box term in S.
        thr: threshold of the masks whose boxes enter S.
        reading: ``logits`` takes sigma(h) as printed, ``probability`` h itself, kept off 0 and 1 by
            ``PROBABILITY_MARGIN`` in a way that leaves gradient everywhere; outside of [0, 1] it counts as 0 or 1.
        reduction: of the cross entropy over pixels, ``mean`` or ``sum``.

    Raises:
        ValueError: when there is no graph, or ``reading`` or ``reduction`` has another value.
    """
    if len(chosen) == 0:
        raise ValueError("the loss needs at least one graph")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', not {reduction!r}")
    node_boxes = masks_to_boxes(masks.detach(), thr)
    target_box = masks_to_boxes(target, 0.5) if box is None else box
    truth = selection_scores_batched(masks, node_boxes, target_box, target, batch, lambda1)
    guess = selection_scores_batched(masks, node_boxes, p, q, batch, lambda1)
    distance = (truth - guess).abs().sum() / len(chosen)
    pixels = _cross_entropy(chosen, target, reading).flatten(1)
    bce = (pixels.mean(dim=1) if reduction == "mean" else pixels.sum(dim=1)).mean()
    return STGLoss(gamma * distance + bce, distance, bce)


def _cross_entropy(h: Tensor, target: Tensor, reading: str) -> Tensor:
    """Cross entropy [B, H, W] of masks h with their targets, in float32 or float64."""
    if h.dtype != torch.float64:
        h = h.to(torch.float32)
    target = target.to(h.dtype)
    if reading == "logits":
        return F.binary_cross_entropy_with_logits(h, target, reduction="none")
    if reading == "probability":
        # A clamp would stop the gradient of exactly the pixels that are most wrong; layers may leave [0, 1].
        h = h + (h.clamp(0, 1) - h).detach()
        h = PROBABILITY_MARGIN + (1 - 2 * PROBABILITY_MARGIN) * h
        return -(target * h.log() + (1 - target) * (1 - h).log())
    raise ValueError(f"reading must be 'logits' or 'probability', not {reading!r}")
