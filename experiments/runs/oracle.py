"""What perfect use of the proposals would reach: the bound of everything that comes after them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from stg_pyg.ops.boxes import box_iou, masks_to_boxes
from stg_pyg.ops.masks import mask_iou
from stg_pyg.proposals.outside import ProposalSet, on_device
from stg_pyg.video.segmenter import StepResult

NAMES = ("best", "fusion", "reached")
MAX_FUSED = 12
MAX_NEAR = 100


class OracleScores:
    """J of the proposals of a video, given the model's own propagation: what it was offered, not what it could have
    been offered had it chosen better before."""

    def __init__(self) -> None:
        self.values: list[tuple[float, float, float]] = []

    def add(self, result: StepResult, labels: np.ndarray | None, outside: ProposalSet | None = None) -> None:
        """Takes the frame of one step, if it has annotations; absent objects do not count.

        Proposals from ``outside`` all count, also those that the model rejected.
        """
        if labels is None or result.frame is None or result.output is None:
            return
        truth = torch.from_numpy(labels).to(result.masks.device)
        for k, obj_id in enumerate(result.obj_ids[: len(result.frame.proposals)]):
            target = (truth == obj_id).float()
            if not bool(target.any()):
                continue
            masks = torch.cat([result.frame.proposals[k].masks.float(), near_masks(outside, target)])
            own = (result.labels.to(target.device) == obj_id).float()
            reached = float(mask_iou(own[None], target[None])[0, 0])
            best = float(mask_iou((masks > 0.5).float(), target[None]).max()) if len(masks) else 0.0
            self.values.append((best, best_fusion(masks, target), reached))

    def summary(self) -> dict[str, float]:
        """Means in percent: ``best`` single proposal, best ``fusion``, and what the model ``reached``."""
        table = np.array(self.values).reshape(-1, 3)
        means = 100 * table.mean(axis=0) if len(table) else np.full(3, np.nan)
        return dict(zip(NAMES, map(float, means), strict=True))


def near_masks(outside: ProposalSet | None, target: Tensor) -> Tensor:
    """Masks [N, H, W] of the proposals whose boxes meet that of a true mask [H, W]."""
    if outside is None:
        return target.new_zeros(0, *target.shape)
    overlap = box_iou(outside.boxes.to(target), masks_to_boxes(target[None]))[:, 0]
    best = overlap.argsort(descending=True, stable=True)[:MAX_NEAR]
    return on_device(outside.select(best[overlap[best] > 0].cpu()), target).masks.float()


def best_fusion(masks: Tensor, target: Tensor) -> float:
    """J of the best mean or union of a subset of masks [N, H, W] with the true mask [H, W], both searched greedily.

    The subset grows, up to twelve masks, by the one that makes the mean at 0.5, or the union, best; the best subset on
    the way counts. Greedy, so a lower bound of the true optimum.
    """
    if len(masks) == 0:
        return 0.0
    masks = masks[mask_iou((masks > 0.5).float(), target[None])[:, 0].argsort(descending=True, stable=True)[:40]]
    best = 0.0
    for union in (False, True):
        total, chosen, left = torch.zeros_like(target), 0, masks
        while chosen < MAX_FUSED and len(left):
            sums = torch.maximum(total, left) if union else total + left
            level = 0.5 if union else 0.5 * (chosen + 1)
            scores = mask_iou((sums > level).float(), target[None])[:, 0]
            position = int(scores.argmax())
            best = max(best, float(scores[position]))
            total, chosen = sums[position], chosen + 1
            left = torch.cat([left[:position], left[position + 1 :]])
    return best


def merge_oracles(by_video: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The mean over videos, with the videos'."""
    means = {name: float(np.nanmean([scores[name] for scores in by_video.values()])) for name in NAMES}
    return {**means, "videos": by_video}
