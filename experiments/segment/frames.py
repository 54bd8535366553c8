"""One frame of somebody's own video, between its own size and the size that is worked on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from stg_pyg.errors import InputError
from stg_pyg.utils.images import UInt8Array
from stg_pyg.video.frames import pixels
from stg_pyg.video.segmenter import StepResult

Size = tuple[int, int]
"""(H, W) in pixels."""


@dataclass
class FrameResult:
    """The result of one frame [H, W]."""

    name: str
    size: Size
    thr: float
    """Threshold on the soft masks."""
    given: UInt8Array | None = None
    """[H, W] object ids that were given for this frame."""
    result: StepResult | None = None
    """What the segmenter says, at the size that is worked on; nothing before the first given mask."""

    def labels(self) -> UInt8Array:
        """Object ids [H, W]: soft masks are enlarged and merged, given objects are as they were given."""
        if self.result is None:
            return np.zeros(self.size, np.uint8)
        if tuple(self.result.labels.shape) == self.size:
            return self.result.labels.numpy()
        own = set() if self.given is None else {int(i) for i in np.unique(self.given)}
        labels, best = np.zeros(self.size, np.uint8), np.full(self.size, self.thr, np.float32)
        for obj_id in self.result.obj_ids:
            if obj_id not in own:
                height = self._soft(self.result, obj_id)
                labels[height > best] = obj_id
                best = np.maximum(best, height)
        return labels if self.given is None else np.where(self.given > 0, self.given, labels).astype(np.uint8)

    def alphas(self, obj_ids: list[int]) -> Iterator[tuple[int, UInt8Array]]:
        """Every object's soft mask [H, W] as 0 to 255, one at a time; black where it is not there yet."""
        for obj_id in obj_ids:
            alpha = np.zeros(self.size, np.uint8)
            if self.given is not None and bool((self.given == obj_id).any()):
                alpha[self.given == obj_id] = 255
            elif self.result is not None and obj_id in self.result.obj_ids:
                alpha = np.round(255 * self._soft(self.result, obj_id)).astype(np.uint8)
                if self.given is not None:
                    alpha[self.given > 0] = 0
            yield obj_id, alpha

    def scores(self, obj_ids: list[int]) -> dict[int, float | None]:
        """Confidence in every object: mean soft mask over the pixels that it has; None where it has none."""
        scores: dict[int, float | None] = dict.fromkeys(obj_ids)
        if self.result is None:
            return scores
        labels = self.result.labels.to(self.result.masks.device)
        for obj_id, mask in zip(self.result.obj_ids, self.result.masks, strict=True):
            own = labels == obj_id
            if bool(own.any()):
                scores[obj_id] = round(float(mask[own].mean()), 4)
        return scores

    def _soft(self, result: StepResult, obj_id: int) -> np.ndarray:
        mask = result.masks[result.obj_ids.index(obj_id)].float().cpu().numpy()
        if mask.shape == self.size:
            return mask
        return np.asarray(cv2.resize(mask, self.size[::-1], interpolation=cv2.INTER_LINEAR))


def reduced_size(size: Size, max_size: int | None) -> Size:
    """(H, W) with the longer side at ``max_size`` at most."""
    scale = 1.0 if max_size is None else min(1.0, max_size / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def reduce_frame(frame: UInt8Array, size: Size) -> UInt8Array:
    """The frame at a smaller size."""
    if frame.shape[:2] == size:
        return frame
    return np.asarray(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def reduce_labels(labels: UInt8Array, size: Size, what: str) -> UInt8Array:
    """Object ids [H, W] at a smaller size; a pixel goes to the id, 0 among them, that covers most of it.

    Raises:
        InputError: an object of ``what`` has no pixel left.
    """
    if labels.shape == size:
        return labels
    share = np.full(size, -1.0, np.float32)
    reduced = np.zeros(size, np.uint8)
    ids = np.unique(labels).tolist()
    for obj_id in ids:
        cover = cv2.resize((labels == obj_id).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        # Of two ids with equal shares the greater one wins, which leaves objects their pixels against background.
        reduced[cover >= share] = obj_id
        share = np.maximum(share, cover)
    lost = sorted({*ids} - {*np.unique(reduced).tolist(), 0})
    if lost:
        raise InputError(f"{what}: object {lost[0]} vanishes at {pixels(size)}; give a larger --max-size")
    return reduced
