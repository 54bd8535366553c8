"""Class-agnostic Mask R-CNN (He et al., ICCV 2017, arXiv:1703.06870): the boxes of everything that may be an object."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from stg_pyg.errors import InputError
from stg_pyg.nn.detector.parts import ClassAgnosticHeads, ScoredRegions, SmallPyramid, coco_model, make_one_class
from stg_pyg.proposals.base import Proposals
from stg_pyg.utils.pretrained import load_torchvision

Weights = str | Path


class Detector(nn.Module):
    r"""Mask R-CNN whose foreground classes count as one.

    Of all boxes :math:`b_{v,c}` of all foreground classes c with score :math:`s_{v,c} > ` ``confidence``, greedy
    non-maximum suppression over the classes together leaves those without a better one of IoU > ``nms``, and of them
    the ``max_detections`` best. The mask of a box is the one of its class.

    Args:
        model: a torchvision Mask R-CNN; its thresholds are replaced by these.
        confidence: least score, 0.05 in the paper.
        nms: IoU of non-maximum suppression, 0.6 in the paper.
        max_detections: most proposals of a frame.
        voting: every box that is left becomes the mean, weighted by the scores, of the boxes that have at least this
            IoU with it (Gidaris & Komodakis, ICCV 2015); 0 leaves it as it is, as in the paper.
        objectness: score a box by the geometric mean of :math:`s_{v,c}` and the objectness of its region, which knows
            less of the training objects (as Kim et al., arXiv:2108.06753, combine two scores); off as in the paper.

    :meth:`collapsed`, :meth:`one_class` and :meth:`small` build the model, too.
    """

    def __init__(
        self,
        model: MaskRCNN,
        confidence: float = 0.05,
        nms: float = 0.6,
        max_detections: int = 50,
        voting: float = 0.0,
        objectness: bool = False,
    ):
        super().__init__()
        self.model = model
        # The parts are kept; only what is done with their results differs.
        model.rpn.__class__, model.roi_heads.__class__ = ScoredRegions, ClassAgnosticHeads
        self.objectness = objectness
        self.set_limits(confidence, nms, max_detections, voting)
        self.precision = torch.float32
        """In which the backbone runs."""
        self._recipe: dict[str, Any] = {}

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The losses of Mask R-CNN by name; ``targets`` hold boxes [N, 4], labels [N] of 1 and masks [N, H, W]."""
        batch, targets = self.model.transform(images, targets)
        features = self._features(batch.tensors)
        regions, rpn_losses = self.model.rpn(batch, features, targets)
        _, losses = self.model.roi_heads(features, regions, batch.image_sizes, targets)
        return {**rpn_losses, **losses}

    @torch.no_grad()
    def detect(self, image: Tensor) -> Proposals:
        """The proposals of an image [3, H, W] in [0, 1], best score first: bool masks [N, H, W] and features [N, F].

        The features are the mean of the pyramid's map in the box (RoIAlign). Runs in evaluation mode whatever mode
        the module is in, and leaves that mode as it was.
        """
        was_training = self.training
        self.eval()
        size = (int(image.shape[1]), int(image.shape[2]))
        batch, _ = self.model.transform([self._reduce(image)])
        features = self._features(batch.tensors)
        regions, _ = self.model.rpn(batch, features)
        self.model.roi_heads.objectness = self.model.rpn.scores if self.objectness else None
        found, _ = self.model.roi_heads(features, regions, batch.image_sizes)
        pooled = self.model.roi_heads.box_roi_pool(features, [found[0]["boxes"]], batch.image_sizes)
        found = self.model.transform.postprocess(found, batch.image_sizes, [size])[0]
        self.train(was_training)
        return Proposals(
            boxes=found["boxes"].float(),
            masks=found["masks"][:, 0] > 0.5,
            scores=found["scores"].float(),
            feats=pooled.mean(dim=(2, 3)),
            origin=["detector"] * len(found["boxes"]),
        )

    def _features(self, images: Tensor) -> OrderedDict[str, Tensor]:
        mixed = self.precision != torch.float32
        with torch.autocast(images.device.type, dtype=self.precision, enabled=mixed):
            features = self.model.backbone(images)
        return OrderedDict((name, x.float() if mixed else x) for name, x in features.items())

    def _reduce(self, image: Tensor) -> Tensor:
        """Averages where the transform's bilinear sampling would skip pixels, which is below half size."""
        transform = self.model.transform
        short, long = sorted(image.shape[1:])
        factor = 2 * min(transform.min_size[0] / short, transform.max_size / long)
        if factor >= 1:
            return image
        height, width = (max(round(side * factor), 1) for side in image.shape[1:])
        return F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False, antialias=True)[0]

    @classmethod
    def collapsed(cls, weights: Weights = "auto", network: str = "maskrcnn_resnet50_fpn_v2", **limits: Any) -> Detector:
        """The COCO model as it is, its 90 foreground classes taken together; no training needed.

        Args:
            weights: see :func:`stg_pyg.utils.pretrained.load_torchvision`; ``none`` for random initialisation.
            network: ``maskrcnn_resnet50_fpn_v2`` or ``maskrcnn_resnet50_fpn``.
            limits: arguments of the constructor.

        Raises:
            InputError: the weights are not there or of another network, or the network is unknown.
        """
        model = coco_model(network, load_torchvision(network, weights))
        return cls(model, **limits)._made_by("collapsed", network=network, **limits)

    @classmethod
    def one_class(
        cls,
        weights: Weights = "auto",
        network: str = "maskrcnn_resnet50_fpn",
        frozen: bool | None = None,
        imagenet: bool = False,
        backbone: str = "resnet50",
        size: int = 800,
        **limits: Any,
    ) -> Detector:
        """The paper's detector: two outputs, background and object, to be trained; arguments as of :meth:`collapsed`.

        COCO weights load into everything but the classifier. The box regressor and the mask of the one class start as
        the mean over COCO's classes. ``frozen`` batch normalisation keeps its statistics; none: when there are weights.
        With ``imagenet`` the weights are those of the ``backbone`` alone, as the paper has it before COCO; a
        ``backbone`` other than ``resnet50`` has no others. ``size``: the short side that pictures are brought to.
        """
        imagenet = imagenet or backbone != "resnet50"
        state = load_torchvision(backbone if imagenet else network, weights)
        frozen = state is not None if frozen is None else frozen
        sides: dict[str, Any] = {} if size == 800 else {"min_size": size, "max_size": round(size * 5 / 3)}
        sides |= {} if backbone == "resnet50" else {"backbone": backbone}
        model = coco_model(network, None if imagenet else state, frozen, 1e-5 if imagenet else 0.0, **sides)
        if imagenet and state is not None:
            state = {name: value for name, value in state.items() if not name.startswith("fc.")}
            model.backbone.body.load_state_dict(state)
        make_one_class(model)
        made = {"network": network, "frozen": frozen, "imagenet": imagenet, "backbone": backbone, "size": size}
        return cls(model, **limits)._made_by("one_class", **made, **limits)

    @classmethod
    def small(cls, width: int = 24, size: int = 240, **limits: Any) -> Detector:
        """A light detector with random weights, trainable on a CPU.

        Args:
            width: channels of the first stage.
            size: short side in pixels that frames are reduced to, the long one being at most 16/9 of it.
            limits: arguments of the constructor, where ``voting`` is 0.6 and ``objectness`` on by default, as a network
                with little training is sure of the objects it knows and scatters its boxes.
        """
        channels, hidden = 64, 256
        sizes = ((16, 32), (64, 96), (144, 216))
        ratios = ((0.33, 0.6, 1.0, 1.7, 3.0),) * len(sizes)
        box_pool, mask_pool = (
            MultiScaleRoIAlign(["0", "1", "2"], output_size=cells, sampling_ratio=2, canonical_scale=112)
            for cells in (7, 14)
        )
        model = MaskRCNN(
            SmallPyramid(width, channels),
            min_size=size,
            max_size=round(size * 16 / 9),
            rpn_anchor_generator=AnchorGenerator(sizes, ratios),
            rpn_pre_nms_top_n_train=400,
            rpn_pre_nms_top_n_test=400,
            rpn_post_nms_top_n_train=200,
            rpn_post_nms_top_n_test=200,
            rpn_fg_iou_thresh=0.6,
            rpn_batch_size_per_image=128,
            box_batch_size_per_image=64,
            box_roi_pool=box_pool,
            box_head=TwoMLPHead(channels * 7 * 7, hidden),
            box_predictor=FastRCNNPredictor(hidden, 2),
            mask_roi_pool=mask_pool,
            mask_head=MaskRCNNHeads(channels, (channels, channels), 1),
            mask_predictor=MaskRCNNPredictor(channels, channels, 2),
        )
        limits = {"voting": 0.6, "objectness": True, **limits}
        return cls(model, **limits)._made_by("small", width=width, size=size, **limits)

    def to_checkpoint(self) -> dict[str, Any]:
        """Plain values and tensors that :meth:`from_checkpoint` builds the detector from."""
        return {"network": self._recipe, "weights": self.state_dict()}

    @classmethod
    def from_checkpoint(cls, content: dict[str, Any]) -> Detector:
        """The inverse of :meth:`to_checkpoint`, in evaluation mode.

        Raises:
            InputError: the content is of something else, or a weight is not finite.
        """
        try:
            recipe = dict(content["network"])
            name = {"small", "one_class", "collapsed"}.intersection([recipe.pop("name")]).pop()
            detector: Detector = getattr(cls, name)(**({} if name == "small" else {"weights": "none"}), **recipe)
            detector.load_state_dict(content["weights"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError("the checkpoint holds no detector of this version; train the detector again") from error
        if not all(bool(value.isfinite().all()) for value in detector.state_dict().values()):
            raise InputError("the checkpoint's detector has weights that are not finite; take an earlier one")
        return detector.eval()

    @property
    def limits(self) -> tuple[float, float, int]:
        """``confidence``, ``nms`` and ``max_detections``."""
        heads = self.model.roi_heads
        return heads.score_thresh, heads.nms_thresh, heads.detections_per_img

    def set_limits(
        self,
        confidence: float | None = None,
        nms: float | None = None,
        max_detections: int | None = None,
        voting: float | None = None,
    ) -> None:
        """Changes the limits that are given."""
        limits = {"score_thresh": confidence, "nms_thresh": nms, "detections_per_img": max_detections, "voting": voting}
        for name, value in limits.items():
            if value is not None:
                setattr(self.model.roi_heads, name, value)

    def _made_by(self, name: str, **options: Any) -> Detector:
        self._recipe = {"name": name, **options}
        return self
