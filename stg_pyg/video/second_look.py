"""A second look at a frame for the objects whose result is not what is known of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stg_pyg.config import STGConfig
from stg_pyg.model.stgnet import FrameInput
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.guided import GuidedProposer
from stg_pyg.proposals.outside import ProposalSet
from stg_pyg.utils.timing import stage
from stg_pyg.video.completion import find_rest, is_part
from stg_pyg.video.objects import ObjectState
from stg_pyg.video.redetect import find_again, find_among, has_collapsed

SEARCH_PAUSE = 3
"""Frames between two searches for an object that was not found."""


@stage("search")
def look_again(
    frame: FrameInput,
    masks: Tensor,
    objects: Sequence[ObjectState],
    config: STGConfig,
    proposer: GuidedProposer | None,
    outside: ProposalSet | None,
) -> bool:
    """Gives objects whose result has collapsed the proposals found elsewhere, and those whose result is only a part of
    them the proposals of the whole; tells whether there are any.

    Args:
        frame: its proposals, p and Q of these objects are replaced.
        masks: [K, H, W] soft results of the K objects.
        proposer: makes proposals where none come from ``outside``.
    """
    masks = (masks > config.thr).to(frame.image.dtype)
    completer = proposer if config.complete and outside is None else None
    found_any = False
    for k, lost in _in_doubt(masks, frame, objects, config):
        state = objects[k]
        taken = (masks.sum(dim=0) - masks[k]).clamp(max=1)
        found = _search(frame, state, taken, proposer, outside) if lost else None
        if completer is not None:
            mask = masks[k] if found is None else (found.masks[0] > config.thr).to(masks)
            found = _complete(frame, state, mask, taken, completer) or found
        if found is not None:
            found_any = True
            frame.proposals[k], frame.p[k], frame.q[k] = found, found.boxes[0], found.masks[0]
    return found_any


def _in_doubt(
    masks: Tensor, frame: FrameInput, objects: Sequence[ObjectState], config: STGConfig
) -> list[tuple[int, bool]]:
    """Of the binary masks [K, H, W] those that are not what is known of their objects: the number, and whether the
    object is to be searched for now, as the mask has collapsed, or is there in part."""
    asked = [k for k, state in enumerate(objects) if config.redetect and frame.frame_idx >= state.search_from]
    likeness = masks.new_full((len(objects),), float("inf"))
    for k in asked:
        likeness[k] = objects[k].colours.likeness(frame.image, masks[k : k + 1])[0]
    rows = torch.stack([masks.flatten(1).sum(dim=1), likeness], dim=1).tolist()  # read back once for all objects
    doubts = []
    for k, (state, (area, alike)) in enumerate(zip(objects, rows, strict=True)):
        usual = state.usual_area()
        lost = k in asked and has_collapsed(area, usual, alike, state.first_likeness)
        if lost or (config.complete and is_part(area, usual)):
            doubts.append((k, lost))
    return doubts


def _search(
    frame: FrameInput,
    state: ObjectState,
    taken: Tensor,
    proposer: GuidedProposer | None,
    outside: ProposalSet | None,
) -> Proposals | None:
    """Proposals of a lost object from anywhere in the frame; where there are none, the next search waits."""
    known = (state.usual_size(), state.colours, state.first_likeness)
    found: Proposals | None = None
    if outside is not None:
        found = find_among(outside, frame.image, *known, taken)
    elif proposer is not None:
        found = find_again(proposer, frame.image, *known, taken)
    if found is None:
        # A look through proposals that are there already costs little.
        state.search_from = frame.frame_idx + (SEARCH_PAUSE if outside is None else 1)
    return found


def _complete(
    frame: FrameInput, state: ObjectState, mask: Tensor, taken: Tensor, proposer: GuidedProposer
) -> Proposals | None:
    """Proposals of the whole object of which ``mask`` [H, W] is a part, if it is one and there are any."""
    if not is_part(float(mask.sum()), state.usual_area()):
        return None
    known = (state.usual_size(), state.usual_area(), state.colours, state.first_likeness)
    return find_rest(proposer, frame.image, mask, *known, taken)
