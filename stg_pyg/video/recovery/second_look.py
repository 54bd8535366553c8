"""A second look at a frame for the objects whose result is not what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from stg_pyg.config import RecoveryConfig, STGConfig
from stg_pyg.model.scene import spread
from stg_pyg.model.stgnet import FrameInput
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.guided import GuidedProposer
from stg_pyg.proposals.outside import ProposalSet
from stg_pyg.utils.timing import stage
from stg_pyg.video.objects import ObjectState
from stg_pyg.video.recovery.completion import find_rest, is_part
from stg_pyg.video.recovery.redetect import find_again, find_among, has_collapsed


@stage("search")
def look_again(
    frame: FrameInput,
    masks: Tensor,
    objects: Sequence[ObjectState],
    config: STGConfig,
    proposer: GuidedProposer | None,
    outside: ProposalSet | None,
) -> FrameInput | None:
    """The frame in which objects whose result has collapsed have the proposals found elsewhere, and those whose result
    is only a part of them the proposals of the whole; None where there are none.

    Args:
        masks: [K, H, W] soft results of the K objects.
        proposer: makes proposals where none come from ``outside``.
    """
    masks = (masks > config.selection.thr).to(frame.image.dtype)
    completer = proposer if config.recovery.complete and outside is None else None
    proposals, p, q = list(frame.proposals), frame.p.clone(), frame.q.clone()
    found_any = False
    for k, lost in _in_doubt(masks, frame, objects, config):
        state = objects[k]
        taken = (masks.sum(dim=0) - masks[k]).clamp(max=1)
        found = _search(frame, k, state, taken, config.recovery, proposer, outside) if lost else None
        if found is not None and outside is not None and config.spatial.features != "given":
            found = replace(found, feats=None)  # of whatever made it, and so not to be compared with X
        if completer is not None:
            mask = masks[k] if found is None else (found.masks[0] > config.selection.thr).to(masks)
            found = _complete(frame, state, mask, taken, config.recovery, completer) or found
        if found is not None:
            found_any = True
            proposals[k], p[k], q[k] = found, found.boxes[0], found.masks[0]
    return replace(frame, proposals=proposals, p=p, q=q) if found_any else None


def _in_doubt(
    masks: Tensor, frame: FrameInput, objects: Sequence[ObjectState], config: STGConfig
) -> list[tuple[int, bool]]:
    """Of the binary masks [K, H, W] those that are not what is known of their objects: the number, and whether the
    object is to be searched for now, as the mask has collapsed, or is there in part."""
    asked = [k for k, state in enumerate(objects) if config.recovery.redetect and frame.frame_idx >= state.search_from]
    likeness = masks.new_full((len(objects),), float("inf"))
    for k in asked:
        likeness[k] = objects[k].colours.likeness(frame.image, masks[k : k + 1])[0]
    rows = torch.stack([masks.flatten(1).sum(dim=1), likeness], dim=1).tolist()  # read back once for all objects
    doubts = []
    for k, (state, (area, alike)) in enumerate(zip(objects, rows, strict=True)):
        usual = state.usual_area()
        lost = k in asked and has_collapsed(area, usual, alike, state.first_likeness, config.recovery)
        if lost or (config.recovery.complete and is_part(area, usual, config.recovery)):
            doubts.append((k, lost))
    return doubts


def _search(
    frame: FrameInput,
    k: int,
    state: ObjectState,
    taken: Tensor,
    config: RecoveryConfig,
    proposer: GuidedProposer | None,
    outside: ProposalSet | None,
) -> Proposals | None:
    """Proposals of the lost object k from anywhere in the frame; where there are none, the next search waits."""
    known = (state.usual_size(), state.colours, state.first_likeness)
    found: Proposals | None = None
    if outside is not None:
        found = find_among(outside, frame.image, *known, taken, config)
    elif proposer is not None:
        anchor = state.anchor if config.identity else None
        share = None if frame.scene is None else spread(frame.scene[1 + k : 2 + k], frame.image)[0]
        found = find_again(proposer, frame.image, *known, taken, config, anchor, share)
    if found is None:
        # A look through proposals that are there already costs little.
        state.search_from = frame.frame_idx + (config.pause if outside is None else 1)
    return found


def _complete(
    frame: FrameInput,
    state: ObjectState,
    mask: Tensor,
    taken: Tensor,
    config: RecoveryConfig,
    proposer: GuidedProposer,
) -> Proposals | None:
    """Proposals of the whole object of which ``mask`` [H, W] is a part, if it is one and there are any."""
    if not is_part(float(mask.sum()), state.usual_area(), config):
        return None
    known = (state.usual_size(), state.usual_area(), state.colours, state.first_likeness)
    return find_rest(proposer, frame.image, mask, *known, taken, config)
