"""One video at a time: the streaming object that feeds STG-Net frame by frame and keeps the history of its objects."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stg_pyg.errors import InputError
from stg_pyg.flow.dis import DISFlow
from stg_pyg.flow.interface import FlowEstimator, consistent_flow, flow_between
from stg_pyg.flow.warping import warp
from stg_pyg.graph.memory import MemoryBank
from stg_pyg.graph.scene import SceneMemory
from stg_pyg.learning.updates import OnlineUpdates, agreement, expected_quality, is_trusted
from stg_pyg.model.scene import spread
from stg_pyg.model.stgnet import FrameInput, FrameOutput, STGNet
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.ops.crops import crop_resize, crop_windows
from stg_pyg.proposals.appearance import ColourModel
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.guided import GuidedProposer, ObjectView
from stg_pyg.proposals.outside import ProposalSet, feature_of_mask, joined, proposals_of_objects
from stg_pyg.utils.timing import stage
from stg_pyg.video.inputs import check_proposals, given_masks, image_forms, outside_inference_mode
from stg_pyg.video.merge import merge_objects
from stg_pyg.video.objects import ObjectState, is_cut, is_familiar
from stg_pyg.video.recovery.completion import is_part
from stg_pyg.video.recovery.second_look import look_again


@dataclass
class StepResult:
    """Result of one frame with K objects."""

    labels: Tensor
    """[H, W] uint8, the user's object ids, 0 for background."""
    masks: Tensor
    """[K, H, W] soft masks."""
    obj_ids: list[int]
    """K ids, in the order of ``masks``."""
    output: FrameOutput | None = None
    """Every stage of the frame; none where all objects were given."""
    frame: FrameInput | None = None
    quality: Tensor | None = None
    """[K] IoU with the true mask that the segmentation network expects of the best proposals of each object, and"""
    agreement: Tensor | None = None
    """[K] IoU of its result with Q, for the objects that were there before the frame."""


class VideoSegmenter:
    """Segments a video frame by frame with a bounded history.

    Args:
        model: the network; its ``segmentation`` part, if any, makes proposals where none are given.
        flow: estimator of the backward flow between two frames.
        crop_size: side of the crops of the segmentation network; None: the model's.
        mixed_precision: run the segmentation network in bfloat16.
        first_frame: position of the first frame in its sequence, for flow that is stored by frame.
        seed: of what the updates of the segmentation network draw (``config.online.update_every``).

    Example:
        >>> video = VideoSegmenter(model)
        >>> labels = video.step(first_image, masks=first_labels).labels
        >>> labels = video.step(next_image).labels
    """

    def __init__(
        self,
        model: STGNet,
        flow: FlowEstimator | None = None,
        crop_size: int | None = None,
        mixed_precision: bool = False,
        first_frame: int = 0,
        seed: int = 0,
    ):
        self.model, self.config = model, model.config
        crop_size = model.crop_size if crop_size is None else crop_size
        self.flow = flow or DISFlow("medium", max_size=480)
        self.updates: OnlineUpdates | None = None
        self.proposer: GuidedProposer | None = None
        net = model.segmentation
        if net is not None:
            if self.config.online.update_every > 0 and not model.training:
                self.updates = OnlineUpdates(net, self.config.online, crop_size, mixed_precision, seed)
                net = self.updates.net
            self.proposer = GuidedProposer(net, crop_size, self.config.proposals.crop_margin, mixed_precision)
        self.frame_idx, self.first_frame = -1, first_frame
        self.objects: list[ObjectState] = []
        self._images: deque[np.ndarray] = deque(maxlen=max(self.config.warping.gaps))
        self.scene: SceneMemory | None = None
        if model.sees_scenes and not model.training:
            self.scene = SceneMemory(self.config.scene.gaps, self.config.scene.detail)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        tensors = itertools.chain(self.model.parameters(), self.model.buffers())
        return next(tensors, torch.empty(0)).device

    @outside_inference_mode()
    @stage("frame")
    def step(
        self,
        image: ArrayLike | Tensor,
        proposals: ProposalSet | None = None,
        masks: ArrayLike | Tensor | None = None,
        target: Tensor | None = None,
    ) -> StepResult:
        """The next frame of the video.

        Args:
            image: RGB, uint8 [H, W, 3], as an array or a picture of PIL, or a float tensor [3, H, W] in [0, 1].
            proposals: from anywhere, encoded ones too; none: the segmentation network makes them.
            masks: [H, W] label map of objects given in this frame, new ones or corrections, as an array, a tensor or a
                picture of PIL (indexed or grey); it overrules the result.
            target: [K, H, W] true masks, for training.

        Raises:
            InputError: if sizes or values do not fit, or the first frame has no object. After a step that failed in
                making its result the segmenter is as it was before, and takes the frame again.
        """
        array, tensor = image_forms(image, self.device)
        given = {} if masks is None else given_masks(masks, tensor)
        if not self.objects and not given:
            raise InputError("the first frame needs a mask with at least one object: pass masks=<label map>")
        if self._images and self._images[-1].shape != array.shape:
            raise InputError(f"the frame is {array.shape[1]} x {array.shape[0]}, the one before it was another size")
        if self.objects and proposals is None and self.proposer is None:
            raise InputError("no proposals were given and the model has no segmentation network to make them")
        if proposals is not None:
            check_proposals(proposals, tensor)
        self.frame_idx += 1
        result: StepResult | None = None
        searches = [state.search_from for state in self.objects]
        try:
            scene_key, shares = self._scene_of(tensor)
            if self.objects:
                result = self._segment(array, tensor, proposals, target, shares)
            added = self._new_objects(tensor, given, proposals)
        except BaseException:  # the frame may be given again, so nothing of it is kept
            self.frame_idx -= 1
            for state, search_from in zip(self.objects, searches, strict=True):
                state.search_from = search_from
            raise
        labels = result.labels if result is not None else torch.zeros(tensor.shape[1:], dtype=torch.uint8)
        soft = {state.obj_id: mask for state, mask in zip(self.objects, result.masks, strict=True)} if result else {}
        for obj_id, mask in given.items():
            labels = torch.where(labels == obj_id, torch.zeros_like(labels), labels)
            labels = torch.where(mask.cpu() > 0.5, torch.tensor(obj_id, dtype=torch.uint8), labels)
            soft[obj_id] = mask
        self.objects += added
        self._remember(tensor, labels.to(self.device), given, result.output if result else None, scene_key)
        self._images.append(array)
        if self.updates is not None and proposals is None:
            self._learn(array, labels, given, result)
        ids = [state.obj_id for state in self.objects]
        masks_out = torch.stack([soft[i] for i in ids])
        if result is None:
            return StepResult(labels, masks_out, ids)
        return replace(result, labels=labels, masks=masks_out, obj_ids=ids)

    @stage("update")
    def _learn(self, array: np.ndarray, labels: Tensor, given: dict[int, Tensor], result: StepResult | None) -> None:
        """Shows a frame and its labels to the updates of the network, which learn from them when it is time."""
        assert self.updates is not None
        shown = labels.cpu().numpy()
        if given:
            self.updates.give(self.frame_idx, array, shown, list(given))
        elif result is not None and result.quality is not None and result.agreement is not None:
            trusted = is_trusted(result.quality, result.agreement, self.config.online).tolist()
            # A part of an object would teach the network that the rest is background.
            parts = {
                state.obj_id
                for state in self.objects
                if is_part(state.areas[-1], state.usual_area(), self.config.recovery)
            }
            ids = [i for i, good in zip(result.obj_ids, trusted, strict=True) if good and i not in parts]
            self.updates.see(self.frame_idx, array, shown, ids)
        self.updates.learn(self.frame_idx)

    def _segment(
        self,
        array: np.ndarray,
        image: Tensor,
        proposals: ProposalSet | None,
        target: Tensor | None,
        scene: Tensor | None,
    ) -> StepResult:
        warped = self._warp_history(array)
        p = self.model.motion.predict_many([torch.stack(list(state.boxes)) for state in self.objects])
        q = torch.stack([views[self.config.warping.gaps[0]] for views in warped])
        per_object = self._propose(image, proposals, p, q, warped, scene)
        frame = FrameInput(
            image,
            per_object,
            p,
            q,
            torch.stack([state.anchor for state in self.objects]),
            [state.bank for state in self.objects],
            [state.obj_id for state in self.objects],
            self.frame_idx,
            target,
            scene,
        )
        output = self.model(frame)
        looks_again = (self.config.recovery.redetect or self.config.recovery.complete) and not self.model.training
        if looks_again:
            again = look_again(frame, output.masks, self.objects, self.config, self.proposer, proposals)
            if again is not None:
                frame, output = again, self.model(again)
        ids = [state.obj_id for state in self.objects]
        masks = output.masks.detach()
        with stage("merge"):
            labels = merge_objects(masks, ids, self.config.selection.thr, q, self.config.selection.q_weight).cpu()
        quality, agrees = expected_quality(frame.proposals, masks), agreement(masks, frame.q, self.config.selection.thr)
        return StepResult(labels, output.masks, ids, output, frame, quality, agrees)

    @stage("scene")
    @torch.no_grad()
    def _scene_of(self, image: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Keys [C, h, w] of a whole frame and the shares [1 + K, h, w] that background and objects have in its cells,
        by the memory of whole frames, if there is one."""
        if self.scene is None:
            return None, None
        key = self.model.scene_keys(image)
        if not self.objects:
            return key, None
        return key, self.model.scene_attention(key, *self.scene.read(self.frame_idx))

    @stage("warp")
    def _warp_history(self, array: np.ndarray) -> list[dict[int, Tensor]]:
        """Masks of the frames t - k warped to this one, by k, of every object; a missing frame is left out."""
        warped: list[dict[int, Tensor]] = [{} for _ in self.objects]
        gaps = [gap for gap in self.config.warping.gaps if gap <= len(self._images)]
        for gap, known in zip(gaps, self._known_at(gaps), strict=True):
            if not known:
                continue
            flow, valid = self._flow_to(array, gap)
            masks = torch.stack([self.objects[k].masks[self.frame_idx - gap] for k in known])
            for k, mask in zip(known, warp(masks, flow, valid), strict=True):
                warped[k][gap] = mask
        return warped

    def _known_at(self, gaps: Sequence[int]) -> list[list[int]]:
        """Of each gap, the objects that have a mask of the frame t - gap; none where all are empty, but for Q."""
        known = [[k for k, state in enumerate(self.objects) if self.frame_idx - gap in state.masks] for gap in gaps]
        pairs = [(gap, k) for gap, ks in zip(gaps, known, strict=True) for k in ks]
        flags = [self.objects[k].masks[self.frame_idx - gap].amax() > 0 for gap, k in pairs]
        visible = {gap for (gap, _), flag in zip(pairs, torch.stack(flags).tolist(), strict=True) if flag}
        return [
            ks if gap in visible or gap == self.config.warping.gaps[0] else []
            for gap, ks in zip(gaps, known, strict=True)
        ]

    @stage("flow")
    def _flow_to(self, array: np.ndarray, gap: int) -> tuple[Tensor, Tensor | None]:
        """Backward flow [H, W, 2] from this frame to the one ``gap`` before, and where it holds [H, W], if tested."""
        t, previous = self.first_frame + self.frame_idx, self._images[-gap]
        if not self.config.warping.consistency:
            return torch.from_numpy(flow_between(self.flow, array, previous, t, t - gap)).to(self.device), None
        flow, valid = consistent_flow(self.flow, array, previous, t, t - gap)
        return torch.from_numpy(flow).to(self.device), torch.from_numpy(valid).to(self.device)

    def _propose(
        self,
        image: Tensor,
        proposals: ProposalSet | None,
        p: Tensor,
        q: Tensor,
        warped: list[dict[int, Tensor]],
        scene: Tensor | None,
    ) -> list[Proposals]:
        if proposals is not None:
            with stage("assign"):
                outside = proposals_of_objects(
                    proposals,
                    p,
                    q,
                    self.config,
                    lambda k, own: is_familiar(image, own, self.objects[k], self.config.assignment),
                )
            if self.config.spatial.features != "given":
                outside = [replace(part, feats=None) for part in outside]
            elif any(part.feats is None for part in outside):
                raise InputError('the proposals have no features, which features="given" takes as X of Eq. 3')
            outside = self._segmented(image, outside, q)
            if not self.config.proposals.own_evidence or self.proposer is None:
                return outside
        assert self.proposer is not None
        recalled: list[Tensor | None] = [None] * len(self.objects)
        if self.config.proposals.recall:
            windows = crop_windows(p, self.config.proposals.crop_margin)
            recalled = list(self.model.recall(image, windows, [state.bank for state in self.objects]))
        seen: list[Tensor | None] = [None] * len(self.objects)
        if scene is not None and self.config.scene.propose:
            seen = list(spread(scene[1:], image))
        views = [
            ObjectView(p[k], own, state.last_mask, state.first_mask, state.colours, recalled[k], seen[k])
            for k, (state, own) in enumerate(zip(self.objects, warped, strict=True))
        ]
        evidence = self.proposer.look_all(image, views)
        if self.config.proposals.evidence:
            evidence = [part.only(self.config.proposals.evidence) for part in evidence]
        made = self.proposer.propose(image, evidence)
        if self.config.proposals.compete and len(made) > 1:
            anchors = torch.stack([state.anchor for state in self.objects])
            made = [self.proposer.compared(own, anchors, k) for k, own in enumerate(made)]
        if proposals is None:
            return made
        return [joined(theirs, replace(own, feats=None)) for theirs, own in zip(outside, made, strict=True)]

    def _segmented(self, image: Tensor, proposals: list[Proposals], q: Tensor) -> list[Proposals]:
        """The proposals of every object with a mask each; boxes are segmented by the network, guided by Q [K, H, W],
        those of all objects in one batch. A box stays what it was, b of Eq. 3."""
        again = [~own.mask_known for own in proposals]
        if self.proposer is None:
            if any(bool(part.any()) for part in again):
                raise InputError("some proposals have no mask and the model has no segmentation network to make one")
            return proposals
        if self.config.proposals.resegment:
            again = [torch.ones_like(part) for part in again]
        todo = [k for k, part in enumerate(again) if bool(part.any())]
        if not todo:
            return proposals
        evidence = [self.proposer.look_at(proposals[k].boxes[again[k]], q[k]) for k in todo]
        result = list(proposals)
        for k, made in zip(todo, self.proposer.propose(image, evidence), strict=True):
            own, known = proposals[k], ~again[k]
            masks, scores = own.masks.to(q.dtype), own.scores.clone()
            masks[again[k]], scores[again[k]] = made.masks, made.scores
            windows = made.extent if not bool(known.any()) else None
            result[k] = Proposals(own.boxes, masks, scores, own.feats, own.origin, extent=windows)
        return result

    @torch.no_grad()
    def _new_objects(self, image: Tensor, given: dict[int, Tensor], proposals: ProposalSet | None) -> list[ObjectState]:
        """The beginning of the history of the objects that are given for the first time."""
        known, added = {state.obj_id for state in self.objects}, []
        for obj_id, mask in given.items():
            if obj_id in known:
                continue
            state = self._new_object(image, obj_id, mask)
            if self.config.spatial.features == "given" and proposals is not None:
                state.anchor = feature_of_mask(proposals, mask, state.anchor)
            added.append(state)
        return added

    @stage("memory")
    @torch.no_grad()
    def _remember(
        self,
        image: Tensor,
        labels: Tensor,
        given: dict[int, Tensor],
        output: FrameOutput | None,
        scene_key: Tensor | None,
    ) -> None:
        """Writes the masks of this frame to the history and the memory of every object."""
        masks = [(labels == state.obj_id).to(image.dtype) for state in self.objects]
        if self.scene is not None and scene_key is not None:
            self.scene.write(self.frame_idx, scene_key, torch.stack(masks), bool(given))
        boxes = masks_to_boxes(torch.stack(masks))
        areas = torch.stack([mask.sum() for mask in masks])
        rows = torch.cat([areas[:, None], boxes], dim=1).tolist()  # read back once for all objects
        for k, (state, mask, (area, *edges)) in enumerate(zip(self.objects, masks, rows, strict=True)):
            state.masks[self.frame_idx] = mask
            state.masks.pop(self.frame_idx - max(self.config.warping.gaps), None)
            if not area:
                continue
            box = boxes[k]
            state.last_mask = mask
            state.boxes.append(box)
            state.areas.append(area)
            if not is_cut(edges, (image.shape[1], image.shape[2])) and not is_part(
                area, state.usual_area(), self.config.recovery
            ):
                state.whole_boxes.append(box)
            if output is not None and state.obj_id not in given:
                window, key = output.windows[k], output.keys[k]
            else:
                window = crop_windows(box[None], self.config.proposals.crop_margin)[0]
                key = self.model.encode_keys(image, window[None])[0]
            value = crop_resize(mask[None, None], window[None], key.shape[-1])[0, 0]
            state.bank.write(self.frame_idx, key, value)

    def _new_object(self, image: Tensor, obj_id: int, mask: Tensor) -> ObjectState:
        box = masks_to_boxes(mask[None])
        anchor = self.model.encode(image, mask[None], box)[0]
        history, config = self.config.motion.steps + 1, self.config.memory
        colours = ColourModel(image, mask)
        return ObjectState(
            obj_id,
            mask,
            mask,
            anchor,
            colours,
            float(colours.likeness(image, mask[None])[0]),
            MemoryBank(config.frames, dtype=getattr(torch, config.dtype), cell=config.cell),
            deque(maxlen=history),
            deque(maxlen=history),
            deque(maxlen=50),
        )
