"""STG-Net: the parts of a frame's way, composed by injection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.graph.memory import MemoryBank, memory_graph
from stg_pyg.graph.spatial import SpatialGraph, batch_of_views, bounded_weight, build_spatial_graph, edge_weight
from stg_pyg.model.evidence import node_evidence, pixel_evidence, pixels_with_q, proposal_regions, retrieved
from stg_pyg.model.layers import make_spatial, make_temporal
from stg_pyg.model.motion import LastBox, MotionModel
from stg_pyg.model.scene import weigh
from stg_pyg.model.selection import binarised, region_selection_scores, select_best
from stg_pyg.nn.backbones.colour import ColourEncoder, ColourKeys
from stg_pyg.nn.backbones.deeplab import DeepLabV3Plus
from stg_pyg.nn.backbones.encoders import (
    KeyEncoder,
    ProposalEncoder,
    ResNetBackbone,
    SharedFeatures,
    SharedKeys,
    SmallBackbone,
)
from stg_pyg.nn.backbones.guided_unet import GuidedUNet
from stg_pyg.nn.backbones.node_gate import NodeGate
from stg_pyg.nn.backbones.registry import LITE0
from stg_pyg.nn.backbones.segmentation import SmallSegmentationNet
from stg_pyg.nn.spatial.calls import call_spatial_regions, spatial_extras
from stg_pyg.nn.temporal.label_propagation import LabelPropagation
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.ops.crops import add_pasted, crop_resize, crop_windows, normalize_image, paste, paste_extents
from stg_pyg.ops.regions import MaskRegions
from stg_pyg.proposals.base import Proposals
from stg_pyg.utils.timing import stage

LONGEST = 3
"""Longer side of a frame that is seen as a whole, in ``scene.size``."""


@dataclass
class FrameInput:
    """What is known of K objects in one frame before the graphs are built."""

    image: Tensor
    """[3, H, W] RGB in [0, 1]."""
    proposals: list[Proposals]
    """Of each object; an empty one leaves the object to Q alone."""
    p: Tensor
    """[K, 4] boxes predicted by Eq. 2."""
    q: Tensor
    """[K, H, W] masks of the previous frame, warped to this one."""
    anchors: Tensor
    """[K, F] features of each object in its first frame."""
    banks: list[MemoryBank]
    """Memory of each object."""
    obj_ids: list[int]
    frame_idx: int
    target: Tensor | None = None
    """[K, H, W] true masks, for the selection while training."""
    scene: Tensor | None = None
    """[1 + K, h, w] shares of background and objects in the cells of the frame, by the memory of whole frames."""

    @cached_property
    def normal(self) -> Tensor:
        """[3, H, W] the image as the encoders see it."""
        return normalize_image(self.image)


@dataclass
class FrameOutput:
    """Masks of one frame at every stage. N nodes over K objects, S is the side of the keys' grid."""

    masks: Tensor
    """[K, H, W] refined soft masks, the result."""
    chosen: Tensor
    """[K, H, W] soft masks selected from the spatial graphs."""
    regions: MaskRegions
    """[N, 1, H, W] reconstructed soft masks of all nodes, inside the windows of their objects."""
    batch: Tensor
    """[N] object position of each node."""
    selected: Tensor
    """[K] chosen node, -1 for an object without proposals."""
    scores: Tensor
    """[N] Eq. 6, with the learned term if there is one."""
    gate: Tensor
    """[N] gate of each node; ones where there is none."""
    keys: Tensor
    """[K, C, S, S]."""
    windows: Tensor
    """[K, 4] windows of the frame that the keys were computed from."""
    graphs: Batch | None = None

    @cached_property
    def nodes(self) -> Tensor:
        """[N, H, W] reconstructed soft masks of all nodes as frames, made when they are asked for."""
        return self.regions.to_frame()[:, 0]


class STGNet(nn.Module):
    """Spatiotemporal graph network of Liu et al., AAAI 2021 (arXiv:2012.05499), over the proposals of one frame.

    Args:
        config: constants.
        feature_encoder: (normalised image, boxes, masks) -> X of Eq. 3.
        key_encoder: normalised crops -> keys of Eq. 7.
        segmentation: (normalised crops, Q crops) -> mask logits and quality; none: proposals come from outside only.
        spatial_conv: message-passing layer, or a name for :func:`stg_pyg.nn.resolve_spatial_conv`.
        memory_attention: another name of ``temporal_conv``.
        temporal_conv: layer of the temporal graph, or a name for :func:`stg_pyg.nn.resolve_temporal_conv`.

    Raises:
        InputError: a layer is unknown or does not fit, or there are two for the temporal graph.
    """

    made_of: dict[str, Any] | None = None
    """Name and arguments of the class method that made the network; None: somebody put it together by hand."""

    def __init__(
        self,
        config: STGConfig,
        feature_encoder: nn.Module,
        key_encoder: nn.Module,
        segmentation: nn.Module | None = None,
        spatial_conv: nn.Module | str | None = None,
        memory_attention: nn.Module | str | None = None,
        temporal_conv: nn.Module | str | None = None,
    ):
        super().__init__()
        self.config = config
        self.feature_encoder, self.key_encoder, self.segmentation = feature_encoder, key_encoder, segmentation
        self.spatial_conv = make_spatial(spatial_conv if spatial_conv is not None else config.spatial.conv, config)
        self._check_features()
        given = [layer for layer in (memory_attention, temporal_conv) if layer is not None]
        if len(given) > 1:
            raise InputError("memory_attention and temporal_conv are the same layer: give one of them")
        self.memory_attention: Any = make_temporal(given[0] if given else config.temporal.conv, config)
        grid = getattr(key_encoder, "grid", 0)
        if grid % config.memory.cell:
            raise InputError(f"memory.cell = {config.memory.cell} does not divide the {grid} pixels of the keys' grid")
        self.node_gate = NodeGate() if config.spatial.node_gate else None
        self.motion = MotionModel(config.motion.steps) if config.motion.enabled else LastBox()
        self.scene_attention = LabelPropagation(config.scene.top_k, config.scene.radius, config.scene.temperature)
        self._crop_size = 128

    @property
    def sees_scenes(self) -> bool:
        """Whether whole frames are remembered: ``scene.enabled`` and ``temporal.enabled``, and the segmentation network
        makes keys."""
        wanted = self.config.scene.enabled and self.config.temporal.enabled
        return wanted and isinstance(self.segmentation, GuidedUNet)

    @property
    def crop_size(self) -> int:
        """Side in pixels of the crops of the segmentation network."""
        return self._crop_size

    @crop_size.setter
    def crop_size(self, size: int) -> None:
        self._crop_size = size
        if isinstance(self.feature_encoder, SharedFeatures):
            self.feature_encoder.size = size

    def _check_features(self) -> None:
        wanted = getattr(self.spatial_conv, "feat_channels", -1)
        made = getattr(self.feature_encoder, "out_features", -1)
        if self.config.spatial.features == "encoder" and 0 < wanted != made > 0:
            name = type(self.spatial_conv).__name__
            raise InputError(f"{name} wants {wanted} features and the encoder makes {made}; give feat_channels={made}")

    def put(self, networks: Mapping[str, nn.Module]) -> None:
        """Puts networks that have learned, by the names of the parts, in the places of those that they come from; X and
        K that are read from the maps of the segmentation network are then those of the new one."""
        for name, network in networks.items():
            setattr(self, name, network)
        net = networks.get("segmentation")
        if isinstance(net, GuidedUNet) and isinstance(self.feature_encoder, SharedFeatures):
            self.feature_encoder = SharedFeatures(net, self.feature_encoder.size, self.feature_encoder.margin)
        if isinstance(net, GuidedUNet) and isinstance(self.key_encoder, SharedKeys):
            self.key_encoder = SharedKeys(net, self.key_encoder.grid)

    @classmethod
    def small(cls, config: STGConfig | None = None, width: int = 32) -> STGNet:
        """Networks of a few million parameters for a CPU, randomly initialised."""
        config = config or STGConfig.small()
        model = cls(
            config,
            ProposalEncoder(SmallBackbone(width // 2, 2 * width), mode="crop", pool="mask", out_features=32),
            KeyEncoder(SmallBackbone(width // 2, 2 * width), 32, grid=config.temporal.key_grid, positions=True),
            SmallSegmentationNet(width),
        )
        model.made_of = {"name": "small", "width": width}
        return model

    @classmethod
    def pretrained(cls, config: STGConfig | None = None, backbone: str = LITE0, weights: str = "none") -> STGNet:
        """One backbone for all networks: RGB is seen once a window, and mask, X and K come from the same maps.

        Args:
            backbone: a model of timm.
            weights: ``none``, ``imagenet`` or a path, see :func:`stg_pyg.nn.backbones.registry.make_backbone`.
        """
        config = config or STGConfig.small()
        net = GuidedUNet.of(backbone, weights)
        features = SharedFeatures(net, margin=config.proposals.crop_margin)
        model = cls(config, features, SharedKeys(net, config.temporal.key_grid), net)
        model.made_of = {"name": "pretrained", "backbone": backbone}
        return model

    @classmethod
    def untrained(cls, config: STGConfig | None = None) -> STGNet:
        """No learned part at all, for proposals with masks from outside: colours stand for features and keys."""
        config = config or STGConfig.untrained()
        model = cls(config, ColourEncoder(), ColourKeys(config.temporal.key_grid))
        model.made_of = {"name": "untrained"}
        return model

    @classmethod
    def paper(
        cls,
        config: STGConfig | None = None,
        features: str | Path | None = None,
        keys: str | Path | None = None,
        segmentation: str | Path | None = None,
        grid: int | None = None,
        backbone: str | None = None,
    ) -> STGNet:
        """ResNet-101 features, ResNet-50 stage-4 keys, and DeepLabv3+ on ResNet-101 guided by Q.

        ``features``, ``keys`` and ``segmentation`` say where their weights come from: ``auto``, ``none`` or a path, see
        :func:`stg_pyg.utils.pretrained.load_torchvision`; None is ``none``, and for ``segmentation`` leaves the
        network out. The paper's ``features`` are ``rvos``. ``grid``: side of the grid of the keys, in the place of that
        of the configuration. ``backbone``: one ResNet of torchvision in the place of all three, as ``resnet18`` where
        there is no GPU.
        """
        config = config or STGConfig.paper()
        model = cls(
            config,
            ProposalEncoder(ResNetBackbone(backbone or "resnet101", 5, features), mode="roi", pool="avg", size=56),
            KeyEncoder(ResNetBackbone(backbone or "resnet50", 4, keys), grid=grid or config.temporal.key_grid),
            None if segmentation is None else DeepLabV3Plus.resnet(backbone or "resnet101", segmentation),
        )
        model.made_of, model.crop_size = {"name": "paper", "grid": grid, "backbone": backbone}, 512
        return model

    def forward(self, frame: FrameInput) -> FrameOutput:
        """One frame: graphs (Eq. 3), propagation (Eqs. 4-5), selection (Eq. 6), refinement from memory (Eqs. 7-8)."""
        graphs = self.build_graphs(frame)
        regions, gate = self.reconstruct(graphs)
        with stage("selection"):
            node_boxes = regions.boxes(self.config.selection.thr)
            scores, selected = self.select(graphs, regions, gate, frame, node_boxes)
            chosen, boxes = self._choose(graphs, regions, selected, node_boxes, frame.q)
        entering = binarised(chosen, self.config.selection.thr) if self.config.temporal.binary else chosen
        masks, keys, windows = self.refine(frame, entering, boxes)
        if frame.scene is not None and self.config.scene.weight > 0 and not self.training:
            masks = weigh(masks, frame.scene[1:], self.config.scene.weight, self.config.scene.blind)
        return FrameOutput(masks, chosen, regions, graphs.batch, selected, scores, gate, keys, windows, graphs)

    def encode(self, image: Tensor, masks: Tensor, boxes: Tensor) -> Tensor:
        """Features X [N, F] of masks [N, H, W] with boxes [N, 4] in an image [3, H, W]."""
        return self.feature_encoder(normalize_image(image), boxes, masks)

    @stage("graph")
    def build_graphs(self, frame: FrameInput) -> Batch:
        """The spatial graph of every object, as one batch."""
        merged = Proposals.cat(frame.proposals)
        feats = merged.feats
        known = self.config.spatial.features == "given" or isinstance(self.feature_encoder, SharedFeatures)
        if feats is None or not known:
            with stage("features"):
                feats = self.feature_encoder(frame.normal, merged.boxes, merged.masks)
        sizes = [len(proposals) for proposals in frame.proposals]
        graphs: list[SpatialGraph] = []
        for k, (proposals, x) in enumerate(zip(frame.proposals, feats.split(sizes), strict=True)):
            graph = build_spatial_graph(
                proposals.masks,
                proposals.boxes,
                x,
                obj_id=frame.obj_ids[k],
                frame_idx=frame.frame_idx,
                scores=proposals.scores,
                q=frame.q[k],
                p=frame.p[k],
                mask_iou=self.config.spatial.edge_iou == "mask",
                window=proposals.window,
                keep_bool=True,
            )
            graph.anchor = F.cosine_similarity(x, frame.anchors[k][None], dim=1)
            graphs.append(graph)
        batch = batch_of_views(graphs, merged.masks[:, None])
        if self.config.spatial.enabled and "pixel" in spatial_extras(self.spatial_conv) and len(batch.batch):
            layout = proposal_regions(batch)
            windows = frame.p.clone()
            windows[layout.graphs] = windows.new_tensor(layout.layout.windows)
            batch.pixel = self.pixel_evidence(frame, windows)
        return batch

    @stage("spatial")
    def reconstruct(self, graphs: Batch) -> tuple[MaskRegions, Tensor]:
        """Reconstructed masks [N, 1, H, W] in the windows of their objects, and gates [N], of all nodes."""
        proposals = proposal_regions(graphs)
        gate = proposals.flat.new_ones(len(graphs.batch))
        taken = spatial_extras(self.spatial_conv)
        wanted = self.node_gate is not None or (self.config.spatial.enabled and "evidence" in taken)
        evidence = node_evidence(graphs, proposals) if wanted else None
        if self.node_gate is not None:
            gate = self.node_gate(evidence, graphs.score)
        if not self.config.spatial.enabled:
            return proposals, gate
        edge_index, edge_attr, weight = self.weighted_edges(graphs, gate)
        graph = {"edge_weight": weight, "edge_attr": edge_attr, "batch": graphs.batch, "feat": graphs.feat}
        graph["boxes"] = graphs.box
        if evidence is not None and "evidence" in taken:
            logit = torch.logit(graphs.score.to(evidence.dtype), eps=1e-3)
            graph["evidence"] = torch.cat([evidence, logit[:, None] / 3], dim=1)
        if "pixel" in taken and "pixel" in graphs:
            graph["pixel"] = pixels_with_q(graphs, proposals)
        return call_spatial_regions(self.spatial_conv, graphs.x, edge_index, proposals.layout, **graph), gate

    def weighted_edges(self, graphs: Batch, gate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Edges [2, E] that propagation uses, their attributes [E, 2] and weights [E]: Eq. 3, times the gate if any."""
        edge_index, edge_attr = graphs.edge_index, graphs.edge_attr
        weight = edge_weight(edge_attr, self.config.spatial.alpha)
        if self.node_gate is not None:
            # A learned cosine may be negative; the normalisation of Eq. 5 needs weights that are not.
            weight = weight.clamp(min=0) * gate[edge_index[0]]
        if self.config.spatial.min_edge_iou > 0:
            kept = torch.nonzero(edge_attr[:, 1] >= self.config.spatial.min_edge_iou).flatten()  # waits once for all
            edge_index, edge_attr, weight = edge_index[:, kept], edge_attr[kept], weight[kept]
        if self.node_gate is None:
            weight = bounded_weight(weight, edge_index[1], len(graphs.batch))
        return edge_index, edge_attr, weight

    def select(
        self, graphs: Batch, regions: MaskRegions, gate: Tensor, frame: FrameInput, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores [N] of Eq. 6 and the best node [K] of every object, by the true mask and box while training."""
        config = self.config
        with torch.no_grad():
            p, q = frame.p, frame.q
            if self.training and frame.target is not None:
                p, q = masks_to_boxes(frame.target), frame.target
            threshold = None if self.training else config.selection.thr
            scores = region_selection_scores(regions, boxes, p, q, config.selection.lambda1, threshold)
            if config.selection.quality_weight > 0 and not self.training:
                scores = scores + config.selection.quality_weight * gate
            return scores, select_best(scores, graphs.batch, len(frame.obj_ids))

    def _choose(
        self, graphs: Batch, regions: MaskRegions, selected: Tensor, node_boxes: Tensor, q: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The selected masks [K, H, W] with their boxes [K, 4]; Q for objects without proposals."""
        filled = regions.graphs
        if len(filled) == 0:
            return q.clone(), masks_to_boxes(q.detach(), self.config.selection.thr)
        best = selected[filled]
        chosen, boxes = regions.select(best - graphs.ptr[filled])[:, 0].to(q.dtype), node_boxes[best].to(q.dtype)
        if len(filled) == len(q):
            return chosen, boxes
        boxes_of_q = masks_to_boxes(q.detach(), self.config.selection.thr)
        return q.index_copy(0, filled, chosen), boxes_of_q.index_copy(0, filled, boxes)

    @stage("temporal")
    def refine(self, frame: FrameInput, chosen: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Masks [K, H, W] after Eqs. 7-8, with the keys and their windows, which the memory takes up, from the chosen
        masks [K, H, W] and their boxes [K, 4]; an object without extent keeps its mask."""
        height, width = chosen.shape[-2:]
        windows = crop_windows(boxes, self.config.proposals.crop_margin).to(chosen.dtype)
        keys = self._keys(frame.normal, windows)
        if not self.config.temporal.enabled:
            return chosen, keys, windows
        owner = torch.arange(len(chosen), device=chosen.device)
        values = crop_resize(chosen[:, None], windows, keys.shape[-1], owner)[:, 0]
        graph = memory_graph(frame.banks, values, keys)
        refined = self.memory_attention.forward_graph(
            graph.mask, graph.key, graph.memory_mask, graph.memory_key, graph.edge_index
        )
        seen = boxes[:, 2:3] > boxes[:, 0:1]
        extents = paste_extents(windows.where(seen, -1), height, width)
        if self.config.temporal.update == "paper":
            masks = torch.where(seen[..., None], paste(refined, windows, height, width, extents), chosen)
        else:
            # The values are coarse; their change is put back, so that the detail of the chosen mask stays.
            masks = add_pasted(chosen, refined - values, windows, extents)
        return masks, keys, windows

    def encode_keys(self, image: Tensor, windows: Tensor) -> Tensor:
        """Keys [K, C, S, S] of windows [K, 4] of an image [3, H, W]."""
        return self._keys(normalize_image(image), windows)

    @torch.no_grad()
    def recall(self, image: Tensor, windows: Tensor, banks: list[MemoryBank]) -> Tensor:
        """The mean message of Eq. 7 [K, S, S], what each object's memory finds in windows [K, 4] of an image [3, H, W].

        Raises:
            InputError: the layer of the temporal graph has no messages of single frames.
        """
        if not hasattr(self.memory_attention, "messages"):
            raise InputError(f"proposals.recall: {type(self.memory_attention).__name__} does not say what it retrieves")
        keys = self.encode_keys(image, windows)
        return retrieved(self.memory_attention, keys, banks)[0]

    @torch.no_grad()
    def scene_keys(self, image: Tensor) -> Tensor:
        """Keys [C, h, w] of length 1 of a whole image [3, H, W], a cell for 8 x 8 pixels of it at ``scene.size``, or at
        less where the longer side would be more than three times that; for a network that :attr:`sees_scenes`."""
        assert isinstance(self.segmentation, GuidedUNet)
        height, width = image.shape[-2:]
        scale = self.config.scene.size * min(1 / min(height, width), LONGEST / max(height, width))
        side, other = (max(1, round(scale * x / 32)) * 32 for x in (height, width))
        resized = F.interpolate(image[None], (side, other), mode="bilinear", antialias=True, align_corners=False)
        self.segmentation.eval()
        maps = self.segmentation.encode(normalize_image(resized))
        return F.normalize(self.segmentation.keys(maps)[0], dim=0)

    @stage("evidence")
    def pixel_evidence(self, frame: FrameInput, windows: Tensor) -> Tensor:
        """What memory and X say in windows [K, 4], see :func:`~stg_pyg.model.evidence.pixel_evidence`."""
        crops = crop_resize(frame.normal[None], windows, self.config.temporal.key_size)
        parts = (self.memory_attention, self.key_encoder, self.segmentation)
        return pixel_evidence(crops, frame.anchors, frame.banks, *parts)

    @stage("keys")
    def _keys(self, normal: Tensor, windows: Tensor) -> Tensor:
        return self.key_encoder(crop_resize(normal[None], windows, self.config.temporal.key_size))
