"""Parts of the detector: networks for COCO, what becomes of regions and detections, a pyramid for a CPU."""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops import boxes as box_ops

from stg_pyg.errors import InputError
from stg_pyg.nn.backbones.segmentation import ResidualBlock, conv_relu, group_norm

NUM_COCO = 91
"""Outputs of COCO's models: the background and the ids up to 90, of which 80 are used."""


def coco_model(
    network: str, state: dict[str, Tensor] | None, frozen: bool = True, eps: float = 0.0, **options: Any
) -> MaskRCNN:
    """The network with 91 outputs.

    Args:
        network: ``maskrcnn_resnet50_fpn`` or ``maskrcnn_resnet50_fpn_v2``.
        state: its weights; none for random ones.
        frozen: whether batch normalisation keeps its statistics and the first stages their weights, as torchvision
            has it for pretrained weights; the second network is not made for that.
        eps: of frozen batch normalisation, 0 for torchvision's first COCO weights, which were converted that way.
        options: of torchvision's ``MaskRCNN``, and ``backbone``, a ResNet in the place of ``resnet50``, for the first.

    Raises:
        InputError: the network is unknown.
    """
    if network == "maskrcnn_resnet50_fpn_v2":
        model = detection.maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=NUM_COCO)
    elif network == "maskrcnn_resnet50_fpn":
        norm = functools.partial(FrozenBatchNorm2d, eps=eps) if frozen else nn.BatchNorm2d
        backbone = resnet_fpn_backbone(
            backbone_name=options.pop("backbone", "resnet50"),
            weights=None,
            norm_layer=norm,
            trainable_layers=3 if frozen else 5,
        )
        model = MaskRCNN(backbone, NUM_COCO, **options)
    else:
        raise InputError(f"network {network!r} is unknown; use maskrcnn_resnet50_fpn or maskrcnn_resnet50_fpn_v2")
    if state is not None:
        model.load_state_dict(state)
    return model


@torch.no_grad()
def make_one_class(model: MaskRCNN) -> None:
    """Replaces the predictors of COCO's classes by those of one: a new classifier, the mean of the boxes and masks."""
    categories = detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    used = [i for i, name in enumerate(categories) if i > 0 and name != "N/A"]  # the others were never trained
    old_box, old_mask = model.roi_heads.box_predictor, model.roi_heads.mask_predictor
    box = FastRCNNPredictor(old_box.cls_score.in_features, 2)
    mask = MaskRCNNPredictor(old_mask.conv5_mask.in_channels, old_mask.conv5_mask.out_channels, 2)
    mask.conv5_mask.load_state_dict(old_mask.conv5_mask.state_dict())
    for name in ("weight", "bias"):
        rows = getattr(old_box.bbox_pred, name).unflatten(0, (NUM_COCO, 4))
        getattr(box.bbox_pred, name).copy_(torch.cat([rows[0], rows[used].mean(dim=0)]))
        rows = getattr(old_mask.mask_fcn_logits, name)
        getattr(mask.mask_fcn_logits, name).copy_(torch.stack([rows[0], rows[used].mean(dim=0)]))
    model.roi_heads.box_predictor, model.roi_heads.mask_predictor = box, mask


class ScoredRegions(RegionProposalNetwork):
    """A region proposal network that also keeps the objectness of the regions of its last run, by image."""

    scores: list[Tensor]

    def filter_proposals(self, *args: Any) -> tuple[list[Tensor], list[Tensor]]:
        boxes, self.scores = super().filter_proposals(*args)
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
        self.stem = nn.Sequential(conv_relu(3, w1, 2, group_norm), ResidualBlock(w1, w2, 2, group_norm))
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
    first = ResidualBlock(in_channels, out_channels, 2, group_norm)
    return nn.Sequential(first, ResidualBlock(out_channels, out_channels, 1, group_norm))
