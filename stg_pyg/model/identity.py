"""Losses that keep X and K alive: who is the same object, and which pixels of it belong together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stg_pyg.nn.backbones.guided_unet import GuidedUNet

LEAST_AREA = 0.005
"""Share of a window that an object covers at least to be compared."""
TEMPERATURE = 0.07


def feature_loss(net: GuidedUNet, maps: list[Tensor], q: Tensor, targets: Tensor, owner: Tensor) -> Tensor:
    r"""X of two masks is alike as far as they show the same object.

    .. math::
        L_X = \mathrm{BCE}\left(\sigma(s \, \mathbf{x}_i \cdot \mathbf{x}_j + b), \; y_{ij}\right), \qquad
        y_{ij} = [o_i = o_j] \, \mathrm{IoU}(m_j, m_j^*)

    over true masks i and candidates j of all windows: the true masks :math:`m^*` of owners o, rough masks Q, masks
    beside the object, and the background; with learned s and b (after SigLIP, Zhai et al., ICCV 2023). Candidates of
    the same object count as much as all others.

    Args:
        maps: of N windows.
        q, targets: [N, S, S] in [0, 1].
        owner: [N] whose object it is.
    """
    present = targets.mean(dim=(1, 2)) > LEAST_AREA
    side = targets.shape[-1]
    # A third of a window aside: partly on the object, mostly on what is around it.
    shift = (side // 3, 0) if int(owner.sum()) % 2 else (0, side // 3)
    beside = torch.roll(targets, shift, dims=(1, 2))
    candidates = torch.stack([targets, q, beside, 1 - targets], dim=1)
    x = net.features(maps, candidates)
    anchors, x = x[present, 0], x.flatten(0, 1)
    overlap = (candidates * targets[:, None]).sum(dim=(2, 3))
    either = candidates.sum(dim=(2, 3)) + targets.sum(dim=(1, 2))[:, None] - overlap
    iou = (overlap / either.clamp(min=1)).flatten()
    seen = candidates.mean(dim=(2, 3)).flatten() > LEAST_AREA
    owner_of = owner.repeat_interleave(candidates.shape[1])
    same = owner[present][:, None] == owner_of[None]
    logits = anchors @ x.T * net.likeness[0] + net.likeness[1]  # GuidedUNet.same before its sigmoid
    loss = F.binary_cross_entropy_with_logits(logits, iou * same, reduction="none") * seen
    own, other = (same & seen).sum().clamp(min=1), (~same & seen).sum().clamp(min=1)
    return 0.5 * (loss * same).sum() / own + 0.5 * (loss * ~same).sum() / other


def key_loss(net: GuidedUNet, maps: list[Tensor], targets: Tensor, owner: Tensor) -> Tensor:
    r"""What Eq. 7 retrieves of one window of an object in another is its mask there.

    .. math:: L_K = \mathrm{BCE}\Big(\textstyle\sum_j \mathrm{softmax}_j(k_i \cdot k^r_j / \tau) \, H^r_j, \; H_i\Big)

    with keys of length 1, over all ordered pairs of different windows of an object.

    The arguments are as in :func:`feature_loss`.
    """
    present = targets.mean(dim=(1, 2)) > LEAST_AREA
    pairs = (owner[:, None] == owner[None]) & present[:, None] & present[None]
    pairs.fill_diagonal_(False)
    current, memory = torch.nonzero(pairs, as_tuple=True)
    keys = F.normalize(net.keys(maps).flatten(2), dim=1)
    values = F.interpolate(targets[:, None], maps[2].shape[-2:], mode="area").flatten(1)
    similar = torch.einsum("pci,pcj->pij", keys[current], keys[memory]) / TEMPERATURE
    found = torch.einsum("pij,pj->pi", similar.softmax(dim=2), values[memory])
    loss = F.binary_cross_entropy(found.clamp(1e-4, 1 - 1e-4), values[current], reduction="sum")
    return loss / max(found.numel(), 1)
