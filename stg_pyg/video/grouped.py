"""Videos with many objects in bounded memory: a frame's objects go through the network a few at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stg_pyg.model.stgnet import FrameOutput
from stg_pyg.ops.regions import RegionLayout
from stg_pyg.proposals.outside import ProposalSet, assign_proposals
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.video.merge import merge_objects
from stg_pyg.video.objects import ObjectState
from stg_pyg.video.segmenter import StepResult, VideoSegmenter


class GroupedSegmenter(VideoSegmenter):
    """A :class:`VideoSegmenter` whose proposals, graphs and memory reads of a frame are those of a few objects at once.

    Flow is computed once a frame, proposals from outside are shared out among all objects before the groups are made,
    and all objects compete for pixels. So a frame differs from that of all objects at once by rounding only, but in
    one case: an object that is searched for after it was lost does not see what objects of other groups occupy.

    With more than one group, ``StepResult.output`` holds masks, keys and windows but no nodes, and
    ``StepResult.frame`` is None.

    Args:
        model: as of :class:`VideoSegmenter`, and so are all other arguments.
        max_objects: most objects at once.

    Raises:
        ValueError: when ``max_objects`` is less than 1.
    """

    def __init__(self, model: Any, *arguments: Any, max_objects: int, **named: Any):
        super().__init__(model, *arguments, **named)
        if max_objects < 1:
            raise ValueError(f"max_objects must be at least 1, not {max_objects}")
        self.max_objects = max_objects
        self._flows: dict[int, tuple[Tensor, Tensor | None]] | None = None

    def _segment(
        self,
        array: np.ndarray,
        image: Tensor,
        proposals: ProposalSet | None,
        target: Tensor | None,
        scene: Tensor | None,
    ) -> StepResult:
        everyone = self.objects
        if len(everyone) <= self.max_objects:
            return super()._segment(array, image, proposals, target, scene)
        shared = None if proposals is None else self._share(proposals, everyone)
        outputs: list[FrameOutput] = []
        trust: list[tuple[Tensor | None, ...]] = []
        q: list[Tensor] = []
        self._flows = {}
        try:
            for start in range(0, len(everyone), self.max_objects):
                group = slice(start, start + self.max_objects)
                self.objects = everyone[group]
                own = shared[start // self.max_objects] if shared is not None else None
                seen = None if scene is None else torch.cat([scene[:1], scene[1:][group]])
                result = super()._segment(array, image, own, None if target is None else target[group], seen)
                assert result.output is not None and result.frame is not None
                outputs.append(without_nodes(result.output))
                trust.append((result.quality, result.agreement))
                q.append(result.frame.q)
        finally:
            self.objects = everyone
            self._flows = None
        output = joined_outputs(outputs)
        ids = [state.obj_id for state in everyone]
        selection = self.config.selection
        labels = merge_objects(output.masks.detach(), ids, selection.thr, torch.cat(q), selection.q_weight).cpu()
        quality, agreement = (torch.cat(parts) for parts in zip(*trust, strict=True))  # type: ignore[arg-type]
        return StepResult(labels, output.masks, ids, output, None, quality, agreement)

    def _share(self, proposals: ProposalSet, everyone: list[ObjectState]) -> list[ProposalSet]:
        """The proposals of every group: those of its objects, by the rule for all, and those of nobody."""
        p = self.model.motion.predict_many([torch.stack(list(state.boxes)) for state in everyone])
        owner = assign_proposals(proposals.boxes.to(p), p).cpu()
        shared: list[ProposalSet] = []
        for start in range(0, len(everyone), self.max_objects):
            rows = torch.nonzero((owner < 0) | ((owner >= start) & (owner < start + self.max_objects)))[:, 0]
            shared.append(proposals.keep(rows) if isinstance(proposals, EncodedProposals) else proposals.select(rows))
        return shared

    def _flow_to(self, array: np.ndarray, gap: int) -> tuple[Tensor, Tensor | None]:
        if self._flows is None:
            return super()._flow_to(array, gap)
        if gap not in self._flows:
            self._flows[gap] = super()._flow_to(array, gap)
        return self._flows[gap]


def without_nodes(output: FrameOutput) -> FrameOutput:
    """The output without its graphs, which are most of its memory."""
    rest: dict[str, Any] = {name: getattr(output, name)[:0].clone() for name in ("batch", "scores", "gate")}
    layout = RegionLayout((), (), output.regions.layout.shape)
    rest["regions"] = replace(output.regions, flat=output.regions.flat[:0].clone(), layout=layout, graphs=rest["batch"])
    return replace(output, **rest, selected=torch.full_like(output.selected, -1), graphs=None)


def joined_outputs(outputs: list[FrameOutput]) -> FrameOutput:
    """The outputs of groups, in order, as the output of all their objects; they must be :func:`without_nodes`."""
    names = ("masks", "chosen", "selected", "keys", "windows")
    together: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in outputs]) for name in names}
    return replace(outputs[0], **together)
