"""Proposals from a file for one video of somebody's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from stg_pyg.errors import InputError
from stg_pyg.proposals.rle import EncodedProposals, encode_masks
from stg_pyg.proposals.store import open_proposals
from stg_pyg.video.frames import FrameSource

_NAMES_SHOWN = 5


class VideoProposals:
    """The proposals of one video, at any size of its frames.

    Args:
        path: COCO results (.json), or a folder of ``experiments.proposals``.
        source: the video.
        sequence: name of the video in ``path``; None: the name of the source, or whatever the only video there is.

    Raises:
        InputError: the file is broken, has nothing of the video, or has frames that the video does not have.
    """

    def __init__(self, path: Path, source: FrameSource, sequence: str | None = None):
        self._stored, self._frame_size = open_proposals(path), source.size
        self.sequence = sequence or source.name
        known = self._stored.sequences
        if sequence is None and self.sequence not in known and len(known) == 1:
            self.sequence = known[0]
        if self.sequence not in known:
            shown = ", ".join(known[:_NAMES_SHOWN]) + (", ..." if len(known) > _NAMES_SHOWN else "")
            raise InputError(
                f"{path}: has no proposals of a video named {self.sequence!r} but of {shown or 'none at all'}; "
                "name the video with --sequence NAME"
            )
        self._stored.check(self.sequence, [source.frame_name(t) for t in range(source.count())])

    def at(self, name: str, size: tuple[int, int]) -> EncodedProposals:
        """The proposals of the frame of that name, for a frame reduced to ``size`` (H, W)."""
        return resize_proposals(self._stored.frame(self.sequence, name, self._frame_size), size)


def resize_proposals(proposals: EncodedProposals, size: tuple[int, int]) -> EncodedProposals:
    """The proposals for the same frame at another size (H, W); masks are decoded one at a time."""
    if proposals.size == size:
        return proposals
    factors = torch.tensor([size[1] / proposals.size[1], size[0] / proposals.size[0]] * 2)
    counts: list[bytes | None] = []
    for n, known in enumerate(proposals.has_mask.tolist()):
        if known:
            mask = proposals.select(n).masks[0].numpy().astype(np.float32)
            reduced = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_AREA) > 0.5
            counts += encode_masks(torch.from_numpy(reduced)[None])
        else:
            counts.append(None)
    return replace(proposals, boxes=proposals.boxes * factors, counts=counts, size=size)
