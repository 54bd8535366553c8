"""What is known of the pixels of a window beside the proposals: what the memory and X say there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.utils import scatter

from stg_pyg.graph.memory import MemoryBank, memory_graph
from stg_pyg.nn.backbones.encoders import SharedKeys
from stg_pyg.nn.backbones.guided_unet import GuidedUNet

PIXEL_EVIDENCE = ("memory", "first", "same", "rival")
"""The mean of the messages of Eq. 7, the message of the first frame, and the IoU that X of the pixel lets expect with
the object and, at most, with another object of the video; 0 where the network makes no X."""


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
        banks: memory of each object.
        attention: layer of the temporal graph; what the memory says is 0 where it has no messages of single frames.
        key_encoder: of the crops.
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
        graph = memory_graph(banks, keys[:, 0], keys)
        target = graph.edge_index[1]
        found = attention.messages(graph.key, graph.memory_mask, graph.memory_key, graph.edge_index)
        first = torch.ones_like(target, dtype=torch.bool)
        first[1:] = target[1:] != target[:-1]
        evidence[:, 0] = scatter(found, target, dim_size=len(keys), reduce="mean")
        evidence[target[first], 1] = found[first]
    if isinstance(net, GuidedUNet) and maps is not None:
        x = net.features_of_pixels(maps).to(crops.dtype)
        likeness = net.same(x.movedim(1, -1).flatten(0, 2), anchors).view(len(x), *x.shape[-2:], -1).movedim(-1, 1)
        likeness = F.interpolate(likeness, keys.shape[-2:], mode="bilinear", align_corners=False)
        own = torch.eye(len(x), dtype=torch.bool, device=x.device)[:, :, None, None]
        evidence[:, 2] = likeness.where(own, 0).amax(dim=1)
        evidence[:, 3] = likeness.where(~own, 0).amax(dim=1)
    return evidence
