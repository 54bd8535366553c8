"""Parts of the detector: what becomes of regions and detections, and a pyramid for a CPU."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops import boxes as box_ops

from stg_pyg.nn.backbones.segmentation import ResidualBlock, conv_relu


class ScoredRegions(RegionProposalNetwork):
    """A region proposal network that also keeps the objectness of the regions of its last run, by image."""

    scores: list[Tensor]

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        boxes, self.scores = super().filter_proposals(proposals, objectness, image_shapes, num_anchors_per_level)
        return boxes, self.scores


class ClassAgnosticHeads(RoIHeads):
    """RoI heads with one non-maximum suppression over all classes instead of one a class, then box voting."""

    voting: float
    objectness: list[Tensor] | None = None
    """Scores of the regions of each image, to be combined with those of the classes."""

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        counts = [len(regions) for regions in proposals]
        all_boxes = self.box_coder.decode(box_regression, proposals).split(counts)
        all_scores = class_logits.softmax(dim=-1)
        if self.objectness is not None:
            all_scores = (all_scores * torch.cat(self.objectness)[:, None]).sqrt()
        results = []
        for boxes, scores, shape in zip(all_boxes, all_scores.split(counts), image_shapes, strict=True):
            region, label = torch.nonzero(scores[:, 1:] > self.score_thresh, as_tuple=True)
            label = label + 1
            boxes, scores = box_ops.clip_boxes_to_image(boxes[region, label], shape), scores[region, label]
            keep = box_ops.remove_small_boxes(boxes, min_size=1e-2)
            keep = keep[box_ops.nms(boxes[keep], scores[keep], self.nms_thresh)][: self.detections_per_img]
            kept = boxes[keep]
            if self.voting > 0:
                votes = (box_ops.box_iou(kept, boxes) >= self.voting) * scores
                kept = votes @ boxes / votes.sum(dim=1, keepdim=True)
            results.append((kept, scores[keep], label[keep]))
        kept_boxes, kept_scores, labels = (list(column) for column in zip(*results, strict=True))
        return kept_boxes, kept_scores, labels


class SmallPyramid(nn.Module):
    """A residual network with a feature pyramid of strides 8, 16 and 32, normalised in groups."""

    def __init__(self, width: int, out_channels: int):
        super().__init__()
        self.out_channels = out_channels
        w1, w2, w3, w4, w5 = width, 2 * width, 4 * width, 6 * width, 8 * width
        self.stem = nn.Sequential(conv_relu(3, w1, 2, _group_norm), ResidualBlock(w1, w2, 2, _group_norm))
        self.stage3 = _stage(w2, w3)
        self.stage4 = _stage(w3, w4)
        self.stage5 = _stage(w4, w5)
        self.context = nn.Linear(w5, w5)
        self.pyramid = FeaturePyramidNetwork([w3, w4, w5], out_channels)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        x3 = self.stage3(self.stem(images.contiguous(memory_format=torch.channels_last)))
        x4 = self.stage4(x3)
        x5 = self.stage5(x4)
        x5 = x5 + self.context(x5.mean(dim=(2, 3)))[:, :, None, None]
        return self.pyramid(OrderedDict([("0", x3), ("1", x4), ("2", x5)]))


def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
    first = ResidualBlock(in_channels, out_channels, 2, _group_norm)
    return nn.Sequential(first, ResidualBlock(out_channels, out_channels, 1, _group_norm))


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(8, channels), channels)
