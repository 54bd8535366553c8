"""Torchvision's Mask R-CNNs for COCO (He et al., ICCV 2017, arXiv:1703.06870), and what they become for one class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from stg_pyg.errors import InputError

NUM_COCO = 91
"""Outputs of COCO's models: the background and the ids up to 90, of which 80 are used."""


def coco_model(network: str, state: dict[str, Tensor] | None, frozen: bool = True) -> MaskRCNN:
    """The network with 91 outputs.

    Args:
        network: ``maskrcnn_resnet50_fpn`` or ``maskrcnn_resnet50_fpn_v2``.
        state: its weights; none for random ones.
        frozen: whether batch normalisation keeps its statistics and the first stages their weights, as torchvision
            has it for pretrained weights; the second network is not made for that.

    Raises:
        InputError: the network is unknown.
    """
    if network == "maskrcnn_resnet50_fpn_v2":
        model = detection.maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=NUM_COCO)
    elif network == "maskrcnn_resnet50_fpn":
        norm = _Frozen if frozen else nn.BatchNorm2d
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=norm, trainable_layers=3 if frozen else 5
        )
        model = MaskRCNN(backbone, NUM_COCO)
    else:
        raise InputError(f"network {network!r} is unknown; use maskrcnn_resnet50_fpn or maskrcnn_resnet50_fpn_v2")
    if state is not None:
        model.load_state_dict(state)
    return model


class _Frozen(FrozenBatchNorm2d):
    """With the epsilon that torchvision's first COCO weights were converted with."""

    def __init__(self, num_features: int):
        super().__init__(num_features, eps=0.0)


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
