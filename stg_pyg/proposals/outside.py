"""Proposals that come from outside: which object they belong to, and the pieces of one object put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from stg_pyg.config import STGConfig
from stg_pyg.ops.boxes import box_iou, masks_to_boxes
from stg_pyg.ops.masks import mask_iou, region_mask_iou
from stg_pyg.ops.regions import MaskRegions, RegionLayout
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.rle import EncodedProposals

Familiar = Callable[[int, Proposals], Tensor]
ProposalSet = Proposals | EncodedProposals
"""The proposals of a frame whose masks may be decoded only when they are selected."""


def assign_proposals(boxes: Tensor, predicted: Tensor) -> Tensor:
    r"""The object :math:`\arg\max_o \mathrm{IoU}(b, p_o)` of every proposal, "Preparation" of Liu et al., AAAI 2021.

    A proposal that meets no predicted box belongs to none; as printed, any overlap is enough, so that a single object
    collects background, see :func:`accepted`.

    Args:
        boxes: [N, 4] boxes b of the proposals.
        predicted: [K, 4] boxes p of the objects.

    Returns:
        [N] positions of objects, long, -1 for none. The first object wins a tie.
    """
    if len(boxes) == 0 or len(predicted) == 0:
        return torch.full((len(boxes),), -1, dtype=torch.long, device=boxes.device)
    iou, position = box_iou(boxes, predicted).max(dim=1)
    return torch.where(iou > 0, position, -1)


def proposals_of_objects(
    proposals: ProposalSet, p: Tensor, q: Tensor, config: STGConfig, familiar: Familiar | None = None
) -> list[Proposals]:
    """The proposals of each of K objects, "Preparation" of Liu et al., AAAI 2021, and rejection by ``config``.

    Only the masks of accepted proposals are decoded, at most ``config.max_nodes`` an object.

    Args:
        proposals: N proposals of a frame.
        p: [K, 4] predicted boxes.
        q: [K, H, W] warped previous masks.
        familiar: tells which proposals [N] look like object k; they pass ``config.min_mask_iou``.

    Returns:
        K proposals on the device and of the dtype of ``q``.
    """
    boxes = proposals.boxes.to(p)
    owner = assign_proposals(boxes, p)
    overlap = box_iou(boxes, p)
    result = []
    for k in range(len(p)):
        own = torch.nonzero(owner == k)[:, 0]
        if len(own) > config.assignment.max_nodes:
            nearest = overlap[own, k].argsort(descending=True, stable=True)[: config.assignment.max_nodes]
            own = own[nearest.sort().values]
        mine = assembled(on_device(proposals.select(own.cpu()), q), q[k], config.assignment.assemble)
        mine.extent = torch.tensor([mine.window]).expand(len(mine), 4)  # found once, used by all that follows
        passed = accepted(mine, p[k], q[k], config)
        if familiar is not None and config.assignment.min_mask_iou > 0 and not bool(passed.all()):
            passed |= familiar(k, mine)
        result.append(mine.select(passed))
    return result


def accepted(proposals: Proposals, p: Tensor, q: Tensor, config: STGConfig) -> Tensor:
    """Which proposals of one object pass its rejection rules, [N] bool; the paper's admit all."""
    near = torch.ones_like(proposals.mask_known)
    if config.assignment.min_box_iou > 0:
        near &= box_iou(proposals.boxes, p[None])[:, 0] >= config.assignment.min_box_iou
    if config.assignment.min_mask_iou > 0 and len(proposals):
        overlap = region_mask_iou(_inside_window(proposals, q.dtype), q[None])
        near &= (overlap >= config.assignment.min_mask_iou) | ~proposals.mask_known
    return near


def assembled(proposals: Proposals, q: Tensor, share: float) -> Proposals:
    r"""The proposals and, if there are several such, the union of those that lie inside Q.

    .. math::
        \bigcup \{ M^v : |M^v \cap Q| > s \, |M^v| \}

    Proposals from segmentation into disjoint parts cover an object in pieces, none of which is a good mask of it.

    Args:
        proposals: of one object.
        q: [H, W] its warped previous mask.
        share: s; with 1 nothing is added.
    """
    if share >= 1 or len(proposals) < 2:
        return proposals
    regions = _inside_window(proposals, q.dtype)
    masks, (x0, y0, x1, y1) = regions.values[0].flatten(1), regions.layout.windows[0]
    area = masks.sum(dim=1)
    inside = (masks @ (q[y0:y1, x0:x1] > 0.5).to(q.dtype).flatten() > share * area) & (area > 0)
    if int(inside.sum()) < 2:
        return proposals
    pieces = proposals.masks[inside]
    union = pieces.amax(dim=0) if pieces.is_floating_point() else pieces.any(dim=0)
    score = (proposals.scores[inside] * area[inside]).sum() / area[inside].sum()
    feats = None if proposals.feats is None else proposals.feats[inside].mean(dim=0, keepdim=True)
    whole = Proposals.from_masks(union[None], score[None], feats=feats, origin=["assembled"])
    return Proposals.cat([proposals, whole])


def _inside_window(proposals: Proposals, dtype: torch.dtype) -> MaskRegions:
    """The masks of the proposals of one object inside their window."""
    layout = RegionLayout((len(proposals),), (proposals.window,), (1, *proposals.size))
    graphs = torch.zeros(1, dtype=torch.long, device=proposals.device)
    return MaskRegions.cropped(proposals.masks[:, None], layout, graphs, dtype)


def joined(outside: Proposals, own: Proposals) -> Proposals:
    """Both sets, with the scores of the outside ones scaled to the mean of the own ones: scores of different makers are
    not comparable, and with a constant 1 the outside ones would always win."""
    if len(outside) == 0 or len(own) == 0:
        return Proposals.cat([outside, own])
    factor = own.scores.mean() / outside.scores.mean().clamp(min=1e-6)
    return Proposals.cat([replace(outside, scores=(outside.scores * factor).clamp(max=1)), own])


def feature_of_mask(proposals: ProposalSet, mask: Tensor, default: Tensor) -> Tensor:
    """Feature X [F] of the proposal that is most like a given mask [H, W]; zeros, like nothing, if none
    reaches an IoU of 0.5, and ``default`` where the proposals have no features."""
    near = torch.nonzero(box_iou(proposals.boxes.to(mask), masks_to_boxes(mask[None]))[:, 0] > 0)[:, 0]
    candidates = on_device(proposals.select(near.cpu()), mask)
    if candidates.feats is None:
        return default
    feats = candidates.feats.to(mask.dtype)
    likeness = mask_iou(candidates.masks, mask[None])[:, 0]
    if len(likeness) == 0 or float(likeness.max()) < 0.5:
        return feats.new_zeros(feats.shape[1])
    return feats[int(likeness.argmax())]


def on_device(proposals: Proposals, like: Tensor) -> Proposals:
    """The proposals on the device of ``like``, boxes and scores of its dtype, and masks too unless they are bool."""
    proposals = proposals.to(like.device)
    masks = proposals.masks if proposals.masks.dtype == torch.bool else proposals.masks.to(like.dtype)
    boxes, scores = proposals.boxes.to(like.dtype), proposals.scores.to(like.dtype)
    return replace(proposals, boxes=boxes, masks=masks, scores=scores)
