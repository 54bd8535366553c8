"""What the memory of whole frames says of a result."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 0.01


def weigh(masks: Tensor, shares: Tensor, weight: float, blind: int = 1) -> Tensor:
    r"""Soft masks h and the shares y that the memory of whole frames gives the same objects, as independent evidence.

    .. math::
        h'_i = \sigma\Big(\mathrm{logit}\, h_i
        + w \max\big(\mathrm{logit} \min_{j \in \mathcal{N}(i)} y_j, 0\big)
        + w \min\big(\mathrm{logit} \max_{j \in \mathcal{N}(i)} y_j, 0\big)\Big)

    A cell is much larger than a pixel, so the memory says nothing where the cells :math:`\mathcal{N}(i)` around a pixel
    disagree: the outline is that of h.

    Args:
        masks: [K, H, W] in [0, 1].
        shares: [K, h, w] in [0, 1] of the cells, or parts of cells, of the whole frame; both are kept within 0.01 of
            the bounds.
        weight: w.
        blind: radius of the neighborhood in cells.
    """
    side = 2 * blind + 1
    most, least = F.max_pool2d(shares, side, 1, blind), -F.max_pool2d(-shares, side, 1, blind)
    said = least.logit(EPS).clamp(min=0) + most.logit(EPS).clamp(max=0)
    return torch.sigmoid(masks.logit(EPS) + weight * spread(said.to(masks), masks))


def spread(cells: Tensor, frame: Tensor) -> Tensor:
    """Values [K, h, w] of the cells of a frame at the pixels [K, H, W] of ``frame`` [..., H, W], bilinear."""
    return F.interpolate(cells[None], frame.shape[-2:], mode="bilinear", align_corners=False)[0]
