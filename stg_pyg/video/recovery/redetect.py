"""Finding an object again that propagation has lost."""

from __future__ import annotations

import torch
from torch import Tensor

from stg_pyg.config import RecoveryConfig
from stg_pyg.ops.crops import crop_resize, paste
from stg_pyg.ops.masks import mask_iou
from stg_pyg.proposals.appearance import ColourModel
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.guided import GuidedProposer
from stg_pyg.proposals.outside import ProposalSet, on_device

CANDIDATES = 4
MAX_CANDIDATES = 100
SEEN_CELLS = 16
"""A side that windows are asked at for their shares."""


def has_collapsed(
    area: float, usual_area: float, likeness: float, first_likeness: float, config: RecoveryConfig
) -> bool:
    """Whether a mask is empty, far too small, or of other colours than the object in its first frame, by areas in
    pixels and :meth:`ColourModel.likeness`."""
    too_small = area == 0 or area < config.lost_area * usual_area
    return too_small or likeness < config.lost_likeness * first_likeness


def find_again(
    proposer: GuidedProposer,
    image: Tensor,
    size: Tensor,
    colours: ColourModel,
    first_likeness: float,
    taken: Tensor,
    config: RecoveryConfig,
    anchor: Tensor | None = None,
    share: Tensor | None = None,
) -> Proposals | None:
    """Proposals of a lost object from a grid of boxes over the frame, or nothing where no place is convincing.

    The segmentation network sees every window without a rough mask; the best places by its expected quality times the
    likeness of colours are looked at again with what it found there as Q.

    Args:
        image: [3, H, W] in [0, 1].
        size: [2] usual (width, height) of the object in pixels.
        taken: [H, W] pixels of other objects.
        anchor: [F] X of the object in its first frame, which the places must resemble; None: colours alone tell.
        share: [H, W] of the object by the memory of whole frames; only windows are looked into in which it has some,
            and what it says there counts as colours do.
    """
    height, width = image.shape[-2:]
    grid = proposer.search(height, width, size)
    if share is not None:
        seen = crop_resize(share[None, None], grid.windows, SEEN_CELLS).flatten(1).amax(dim=1) > config.min_share
        if not bool(seen.any()):
            return None
        grid = grid.at(torch.nonzero(seen)[:, 0].tolist())
    crops, scores, feats = proposer.look_into(image, grid)
    scores = scores * proposer.same(scores, feats, anchor)
    like = colours.posterior(image) if share is None else colours.posterior(image) * share
    posterior = crop_resize(torch.stack([like, taken])[None], grid.windows, proposer.size)
    best = _most_convincing(crops, scores, posterior[:, 0], posterior[:, 1])[:CANDIDATES]
    if len(best) == 0:
        return None
    rough = Proposals.from_masks(paste(crops[best], grid.windows[best], height, width), scores[best])
    (fine,) = proposer.propose(image, [proposer.closer(rough.masks, "found")])
    posterior = like.expand_as(fine.masks)
    same = proposer.same(fine.scores, fine.feats, anchor)
    order = _most_convincing(fine.masks, fine.scores * same, posterior, taken.expand_as(fine.masks))
    if len(order) == 0 or float(same[order[0]]) < config.min_same:
        return None
    fine = fine.select(order)
    best = fine.masks[:1] > 0.5
    likeness = float(colours.likeness(image, best)[0])
    if likeness < config.min_likeness * first_likeness or float(fine.scores[0]) < config.min_quality:
        return None
    same = mask_iou((fine.masks > 0.5).float(), best.float())[:, 0] > 0.3
    return fine.select(same)


def find_among(
    proposals: ProposalSet,
    image: Tensor,
    size: Tensor,
    colours: ColourModel,
    first_likeness: float,
    taken: Tensor,
    config: RecoveryConfig,
) -> Proposals | None:
    """The proposals of a lost object among all those of a frame, or nothing where none is convincing.

    Those count whose box is of about the usual size and whose colours are those of the first frame; the best one by
    likeness of colours times likeness of area is returned with the ones that overlap it.

    ``image``, ``size`` and ``taken`` are as in :func:`find_again`.
    """
    boxes = proposals.boxes.to(image)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ratio = area / size.prod().clamp(min=1.0)
    ratio = torch.minimum(ratio, 1 / ratio.clamp(min=1e-6))
    near = torch.nonzero(ratio > config.lost_area)[:, 0]
    near = near[ratio[near].argsort(descending=True, stable=True)[:MAX_CANDIDATES]]
    candidates = on_device(proposals.select(near.cpu()), image)
    known = candidates.mask_known
    candidates, ratio = candidates.select(known), ratio[near][known]
    masks = candidates.masks.to(image.dtype)
    likeness = colours.likeness(image, masks)
    free = (masks * taken).sum(dim=(1, 2)) < 0.5 * masks.sum(dim=(1, 2))
    values = likeness * ratio.sqrt() * (free & (likeness >= config.min_likeness * first_likeness))
    if len(values) == 0 or float(values.max()) == 0:
        return None
    best = int(values.argmax())
    same = mask_iou(masks, masks[best : best + 1])[:, 0] > 0.3
    order = torch.cat([torch.tensor([best], device=same.device), torch.nonzero(same)[:, 0]]).unique_consecutive()
    order = torch.cat([order[:1], order[1:][order[1:] != best]])
    return candidates.select(order)


def _most_convincing(masks: Tensor, scores: Tensor, posterior: Tensor, taken: Tensor) -> Tensor:
    """Positions of the masks [N, ...] that are not empty and not other objects, in order of their scores [N] times the
    mean colour posterior inside of them."""
    inside = (masks > 0.5).float().flatten(1)
    area = inside.sum(dim=1)
    overlap = (inside * taken.flatten(1)).sum(dim=1)
    values = scores * (inside * posterior.flatten(1)).sum(dim=1) / area.clamp(min=1)
    values = torch.where((area > 20) & (overlap < 0.5 * area), values, torch.zeros_like(values))
    order = values.argsort(descending=True, stable=True)
    return order[values[order] > 0]
