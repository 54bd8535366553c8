"""What a video remembers of each of its objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from stg_pyg.config import AssignmentConfig
from stg_pyg.graph.memory import MemoryBank
from stg_pyg.proposals.appearance import ColourModel
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.guided import median_size


@dataclass
class ObjectState:
    """History of one object of a video."""

    obj_id: int
    first_mask: Tensor
    """[H, W]."""
    last_mask: Tensor
    """[H, W] the latest mask that was not empty."""
    anchor: Tensor
    """[F] features of the first frame."""
    colours: ColourModel
    first_likeness: float
    """Likeness of the object's colours to itself in the first frame."""
    bank: MemoryBank
    boxes: deque[Tensor]
    """Boxes [4] of the latest masks that were not empty, oldest first."""
    whole_boxes: deque[Tensor]
    """Those that neither the border of the frame cuts nor are of a mere part: they tell how large the object is, which
    boxes of an object that leaves the frame or passes behind something do not."""
    areas: deque[float]
    """Pixels of the latest masks that were not empty."""
    search_from: int = 0
    """No search for the object before this frame."""
    masks: dict[int, Tensor] = field(default_factory=dict)
    """Masks [H, W] of the latest frames, empty ones too, by frame."""

    def usual_size(self) -> Tensor:
        """Median (width, height) [2] in pixels of the boxes that are whole, or of all where none is."""
        return median_size(self.whole_boxes or self.boxes)

    def usual_area(self) -> float:
        """Median of the areas in pixels."""
        return float(np.median(self.areas))


def is_cut(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box (x0, y0, x1, y1) touches the border of a frame of ``size`` (height, width), so that a part of the
    object may be outside of it."""
    x0, y0, x1, y1 = box
    return min(x0, y0) < 1 or x1 > size[1] - 1 or y1 > size[0] - 1


def is_familiar(image: Tensor, proposals: Proposals, state: ObjectState, config: AssignmentConfig) -> Tensor:
    """Which proposals [N] have about the size that the object had last and its colours of the first frame, so that they
    are trusted where Q is not good enough to tell."""
    masks = proposals.masks.to(image.dtype)
    ratio = masks.sum(dim=(1, 2)) / state.last_mask.sum().clamp(min=1)
    likeness = state.colours.likeness(image, masks)
    least, most = config.familiar_size
    similar = (ratio > least) & (ratio < most)
    return similar & (likeness >= config.familiar_likeness * state.first_likeness)
