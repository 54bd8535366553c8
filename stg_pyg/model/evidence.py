"""What is known beside the proposals: of the pixels of a window, what the memory and X say there; of a node, how well
it agrees with what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.utils import scatter

from stg_pyg.graph.memory import MemoryBank, memory_graph
from stg_pyg.nn.backbones.encoders import SharedKeys
from stg_pyg.nn.backbones.guided_unet import GuidedUNet
from stg_pyg.ops.boxes import paired_box_iou
from stg_pyg.ops.crops import crop_resize
from stg_pyg.ops.masks import region_mask_iou
from stg_pyg.ops.regions import MaskRegions, RegionLayout, Window, graphs_of, windows_of_masks

PIXEL_EVIDENCE = ("memory", "first", "same", "rival")
"""The mean of the messages of Eq. 7, the message of the first frame, and the IoU that X of the pixel lets expect with
the object and, at most, with another object of the video; 0 where the network makes no X."""


def retrieved(attention: Any, keys: Tensor, banks: Sequence[MemoryBank]) -> tuple[Tensor, Tensor, Tensor]:
    """Of Eq. 7 for keys [K, C, S, S]: the mean of each object's messages [K, S, S], the messages [R, S, S] of all
    memory frames, and their objects [R]."""
    graph = memory_graph(banks, keys[:, 0], keys)
    found, target = (
        attention.messages(graph.key, graph.memory_mask, graph.memory_key, graph.edge_index),
        graph.edge_index[1],
    )
    return scatter(found, target, dim_size=len(keys), reduce="mean"), found, target


@torch.no_grad()
def pixel_evidence(
    crops: Tensor,
    anchors: Tensor,
    banks: Sequence[MemoryBank],
    attention: Any,
    key_encoder: nn.Module,
    net: nn.Module | None = None,
) -> Tensor:
    """:data:`PIXEL_EVIDENCE` [K, C, s, s] in one window of each of K objects, on the grid of the keys.

    Args:
        crops: [K, 3, S, S] of the normalised image.
        anchors: [K, F] features of each object in its first frame.
        attention: layer of the temporal graph; what the memory says is 0 where it has no messages of single frames.
        net: the segmentation network; X is read from its maps if ``key_encoder`` reads K from them.
    """
    maps = None
    if isinstance(net, GuidedUNet) and isinstance(key_encoder, SharedKeys):
        net.eval()
        maps = net.encode(crops)
        keys = key_encoder.of_maps(maps).to(crops.dtype)
    else:
        keys = key_encoder(crops)
    evidence = keys.new_zeros(len(keys), len(PIXEL_EVIDENCE), *keys.shape[-2:])
    if hasattr(attention, "messages"):
        evidence[:, 0], found, target = retrieved(attention, keys, banks)
        first = torch.ones_like(target, dtype=torch.bool)
        first[1:] = target[1:] != target[:-1]
        evidence[target[first], 1] = found[first]
    if isinstance(net, GuidedUNet) and maps is not None:
        x = net.features_of_pixels(maps).to(crops.dtype)
        likeness = net.same(x.movedim(1, -1).flatten(0, 2), anchors).view(len(x), *x.shape[-2:], -1).movedim(-1, 1)
        likeness = F.interpolate(likeness, keys.shape[-2:], mode="bilinear", align_corners=False)
        own = torch.eye(len(x), dtype=torch.bool, device=x.device)[:, :, None, None]
        evidence[:, 2] = likeness.where(own, 0).amax(dim=1)
        evidence[:, 3] = likeness.where(~own, 0).amax(dim=1)
    return evidence


def pixels_with_q(graphs: Batch, proposals: MaskRegions) -> Tensor:
    """The evidence at the pixels of ``graphs`` [B, C, s, s] with Q in the same windows."""
    windows = graphs.box.new_zeros(len(graphs.pixel), 4)
    windows[proposals.graphs] = windows.new_tensor(proposals.layout.windows)
    owner = torch.arange(len(windows), device=windows.device)
    q = crop_resize(graphs.q[:, None], windows, graphs.pixel.shape[-1], owner)
    return torch.cat([graphs.pixel, q.to(graphs.pixel.dtype)], dim=1)


def proposal_regions(graphs: Batch) -> MaskRegions:
    """The masks of a batch of spatial graphs inside their windows; where those are not known they are found."""
    sizes = (graphs.ptr[1:] - graphs.ptr[:-1]).tolist()
    filled = [size for size in sizes if size]
    if "window" in graphs:
        boxes = [tuple(window) for window, size in zip(graphs.window.tolist(), sizes, strict=True) if size]
        windows: tuple[Window, ...] = tuple(boxes)
    else:
        windows = windows_of_masks(graphs.x, filled)
    layout = RegionLayout(tuple(filled), windows, (1, graphs.x.size(-2), graphs.x.size(-1)))
    return MaskRegions.cropped(graphs.x, layout, graphs_of(graphs.batch, layout), graphs.feat.dtype)


def node_evidence(graphs: Batch, proposals: MaskRegions | None = None) -> Tensor:
    """What speaks for each node, [N, 5]: likeness to the first frame, agreement with Q, with p, with the other nodes
    (mean mask IoU), and the mean likeness to them (mean cosine); ``proposals`` are :func:`proposal_regions`."""
    proposals = proposal_regions(graphs) if proposals is None else proposals
    with torch.no_grad():
        with_q = region_mask_iou(proposals, graphs.q).to(graphs.anchor)
        with_p = paired_box_iou(graphs.box, graphs.p[graphs.batch])
    target = graphs.edge_index[1]
    others = graphs.edge_attr.new_zeros(len(graphs.batch), graphs.edge_attr.shape[1])
    others = others.index_add(0, target, graphs.edge_attr)
    degree = others.new_zeros(len(graphs.batch)).index_add(0, target, others.new_ones(len(target)))
    degree = degree.clamp(min=1)[:, None]
    others = others / degree
    return torch.stack([graphs.anchor, with_q, with_p, others[:, 1], others[:, 0]], dim=1)
