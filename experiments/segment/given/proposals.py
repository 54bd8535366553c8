"""Proposals for one video of somebody's own, from a file or by a detector."""

from __future__ import annotations

from pathlib import Path

import torch

from experiments.proposals import detect
from stg_pyg.errors import InputError
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.proposals.store import open_proposals
from stg_pyg.utils.images import UInt8Array
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

    def at(self, name: str, image: UInt8Array) -> EncodedProposals:
        """The proposals of the frame of that name, whose picture [H, W, 3] may have been reduced."""
        height, width = image.shape[:2]
        return self._stored.frame(self.sequence, name, self._frame_size).resized((height, width))


class DetectedProposals:
    """The proposals of a detector, which looks at every frame when it comes."""

    def __init__(self, detector: Detector, device: torch.device):
        self._detector, self._device = detector.to(device), device

    def at(self, name: str, image: UInt8Array) -> EncodedProposals:
        """As of :class:`VideoProposals`."""
        return detect(self._detector, image, self._device)
