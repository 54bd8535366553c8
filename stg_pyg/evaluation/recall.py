"""How many of the true objects the proposals of a frame cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stg_pyg.ops.boxes import box_iou


@dataclass(frozen=True)
class RecallTable:
    """Recall in [0, 1] by IoU threshold and by number of proposals a frame."""

    thresholds: tuple[float, ...]
    counts: tuple[int, ...]
    recall: tuple[tuple[float, ...], ...]
    """A row a threshold, a column a count; NaN where there is no true box."""
    num_boxes: int
    """True boxes that were looked for."""

    def at(self, threshold: float, count: int) -> float:
        """Recall at one of the thresholds and counts."""
        return self.recall[self.thresholds.index(threshold)][self.counts.index(count)]

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON, recall in percent."""
        rows = {f"{t:g}": {str(k): 100 * self.at(t, k) for k in self.counts} for t in self.thresholds}
        return {"recall": rows, "boxes": self.num_boxes}

    def to_markdown(self) -> str:
        """A table in percent."""
        lines = ["| IoU | " + " | ".join(f"{k} proposal{'s' * (k > 1)}" for k in self.counts) + " |"]
        lines.append("| --- " * (len(self.counts) + 1) + "|")
        for threshold, row in zip(self.thresholds, self.recall, strict=True):
            lines.append(f"| {threshold:g} | " + " | ".join(f"{100 * value:.1f}" for value in row) + " |")
        return "\n".join(lines)


def box_recall(
    boxes: Sequence[Tensor],
    scores: Sequence[Tensor],
    true_boxes: Sequence[Tensor],
    thresholds: Sequence[float] = (0.5, 0.7),
    counts: Sequence[int] = (1, 5, 10, 20, 50),
) -> RecallTable:
    r"""The share of the true boxes :math:`g \in G_t` of all frames t that one of the k best proposals
    :math:`\mathrm{top}_k(t)` of their frame covers.

    .. math::
        R(\theta, k) = \frac{1}{\sum_t |G_t|} \sum_t \sum_{g \in G_t}
        \left[\max_{v \in \mathrm{top}_k(t)} \mathrm{IoU}(b_v, g) \ge \theta\right]

    A proposal may cover several true boxes. Equal scores are taken in the order given.

    Args:
        boxes: [N, 4] of every frame, in pixels.
        scores: [N] of every frame.
        true_boxes: [M, 4] of every frame; a frame without objects adds nothing.
        thresholds: of the IoU.
        counts: proposals a frame.

    Raises:
        ValueError: the sequences differ in length, or a frame's boxes and scores do.
    """
    if not len(boxes) == len(scores) == len(true_boxes):
        raise ValueError(f"{len(boxes)} frames of boxes, {len(scores)} of scores, {len(true_boxes)} of true boxes")
    best = [torch.zeros(len(counts), 0)]  # IoU of every true box with the best of the k top proposals
    for found, score, truth in zip(boxes, scores, true_boxes, strict=True):
        if len(found) != len(score):
            raise ValueError(f"{len(found)} boxes have {len(score)} scores")
        order = score.argsort(descending=True, stable=True)
        overlap = box_iou(truth.double(), found[order].double()).float().cpu()
        overlap = torch.cat([overlap.new_zeros(len(truth), 1), overlap], dim=1)
        best.append(torch.stack([overlap[:, : k + 1].amax(dim=1) for k in counts]))
    ious = torch.cat(best, dim=1)
    rows = tuple(tuple((ious >= threshold).double().mean(dim=1).tolist()) for threshold in thresholds)
    return RecallTable(tuple(thresholds), tuple(counts), rows, ious.shape[1])
