"""The spatial graph: the proposals of one object in a frame (Eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from stg_pyg.ops.boxes import box_iou

EDGE_DIM = 2
"""Columns of ``edge_attr``, which every spatial layer gets: the cosine and the IoU."""
LEAST_NORM = 0.1
"""Least denominator of Eq. 5 that negative weights are let to make."""


class SpatialGraph(Data):
    r"""Fully connected graph over the proposals of one object in one frame.

    Batches with :class:`torch_geometric.data.Batch`, over the objects of a frame and over videos of one frame size.

    Attributes:
        x: [N, 1, H, W] masks, the node states :math:`h^v`.
        feat: [N, F] features :math:`\mathbf{X}^v`.
        box: [N, 4] boxes :math:`b^v`, (x0, y0, x1, y1) in pixels.
        edge_index: [2, E] source and target of every edge, no self-loops.
        edge_attr: [E, 2] of (cosine, IoU), the IoU of the boxes or of the masks.
        obj_id: [1] id of the object. A batch holds [B]; it is never shifted.
        frame_idx: [1] number of the frame. A batch holds [B]; it is never shifted.
        score: [N] scores of the proposals, optional.
        q: [H, W] warped mask :math:`Q`, optional. A batch holds [B, H, W].
        p: [4] predicted box :math:`p`, optional. A batch holds [B, 4].
        window: [1, 4] whole pixels outside of which ``x`` is 0, optional. A batch holds [B, 4].
    """

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """``None``, a new batch dimension, for what a graph holds once."""
        return None if key in ("q", "p") else super().__cat_dim__(key, value, *args, **kwargs)


def fully_connected_edge_index(num_nodes: int, device: torch.device | str | None = None) -> Tensor:
    """All [2, N (N - 1)] ordered pairs of different nodes, sorted by target (row 1), then by source (row 0)."""
    edge = torch.arange(num_nodes * max(num_nodes - 1, 0), device=device)
    target = edge.div(max(num_nodes - 1, 1), rounding_mode="floor")
    source = edge - target * (num_nodes - 1)
    return torch.stack([source + (source >= target), target])


def cosine_similarity_matrix(feats: Tensor) -> Tensor:
    """Cosines [N, N] of the rows of ``feats`` [N, F]; 0, with finite gradients, against a row of zeros."""
    norm = torch.linalg.vector_norm(feats, dim=1, keepdim=True)
    unit = feats / torch.where(norm > 0, norm, torch.ones_like(norm))
    return unit @ unit.T


def soft_mask_iou(masks: Tensor) -> Tensor:
    r"""Intersection over union [N, N] of soft masks [N, H, W], 0 where the union is empty.

    .. math::
        \frac{\sum_i m^v_i m^u_i}{\sum_i m^v_i + \sum_i m^u_i - \sum_i m^v_i m^u_i}

    The product stands for the intersection (exact for binary masks), so that one matrix product does all pairs.
    """
    flat = masks.flatten(1)
    intersection, area = flat @ flat.T, flat.sum(dim=1)
    union = area[:, None] + area[None] - intersection
    return torch.where(union > 0, intersection / torch.where(union > 0, union, 1), union.new_zeros(()))


def build_spatial_graph(
    masks: Tensor,
    boxes: Tensor,
    feats: Tensor,
    *,
    obj_id: int = 0,
    frame_idx: int = 0,
    scores: Tensor | None = None,
    q: Tensor | None = None,
    p: Tensor | None = None,
    mask_iou: bool = False,
    window: tuple[int, int, int, int] | None = None,
    keep_bool: bool = False,
) -> SpatialGraph:
    """The graph of one object in one frame, with the two terms of Eq. 3 as edge attributes.

    Args:
        masks: [N, H, W] in [0, 1] or bool; bool becomes the dtype of ``feats``.
        boxes: [N, 4] in pixels.
        feats: [N, F]; the edge attributes are differentiable in it and have its dtype.
        obj_id, frame_idx, scores, q, p: see :class:`SpatialGraph`.
        mask_iou: takes the soft IoU of the masks in the place of that of the boxes.
        window: (x0, y0, x1, y1) in whole pixels, outside of which all masks are 0; only it is read then.
        keep_bool: leaves bool masks bool, for a layer that converts them itself.

    Raises:
        ValueError: the numbers of masks, boxes, features and scores differ.
    """
    num_nodes = masks.size(0)
    sizes = {len(part) for part in (masks, boxes, feats, scores) if part is not None}
    if masks.dim() != 3 or len(sizes) != 1:
        raise ValueError(
            f"expected masks [N, H, W] and N boxes, features and scores, got {tuple(masks.shape)}, {sizes}"
        )
    edge_index = fully_connected_edge_index(num_nodes, feats.device)
    source, target = edge_index
    x0, y0, x1, y1 = window or (0, 0, masks.size(2), masks.size(1))
    iou = soft_mask_iou(_floating(masks[:, y0:y1, x0:x1], feats.dtype)) if mask_iou else box_iou(boxes, boxes)
    pairs = [cosine_similarity_matrix(feats), iou]
    return SpatialGraph(
        x=(masks if keep_bool else _floating(masks, feats.dtype)).unsqueeze(1),
        feat=feats,
        box=boxes,
        edge_index=edge_index,
        edge_attr=torch.stack([pair[target, source].to(feats.dtype) for pair in pairs], dim=1),
        obj_id=torch.tensor([obj_id], device=feats.device),
        frame_idx=torch.tensor([frame_idx], device=feats.device),
        score=scores,
        q=q,
        p=p,
        window=None if window is None else torch.tensor([window]),
    )


def edge_weight(edge_attr: Tensor, alpha: float = 0.7) -> Tensor:
    r"""Edge weights of Eq. 3 of `Liu et al. <https://arxiv.org/abs/2012.05499>`_, with :math:`\beta = 1 - \alpha`.

    .. math::
        W_{vu} = \alpha \cos(\mathbf{X}^v, \mathbf{X}^u) + \beta \, \mathrm{IoU}(b^v, b^u)

    Args:
        edge_attr: [E, 2] of (cosine, IoU).
        alpha: ratio of the cosine.

    Returns:
        [E] weights; one may be negative, as a cosine, see :func:`bounded_weight`.
    """
    return alpha * edge_attr[:, 0] + (1 - alpha) * edge_attr[:, 1]


def bounded_weight(weight: Tensor, target: Tensor, num_nodes: int) -> Tensor:
    r"""Weights [E] under which Eq. 5 has a denominator of at least :data:`LEAST_NORM` at every node.

    .. math::
        1 + \sum_u W_{vu} \geq 0.1

    Weights that keep to it stay as they are. At other nodes, where masks would become infinite or turn round, the
    negative weights are scaled down to the bound.

    Args:
        weight: [E] of Eq. 3.
        target: [E] node that each edge points to.
        num_nodes: N.
    """
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    for_it, against = (weight.new_zeros(num_nodes).index_add(0, target, part) for part in (positive, negative))
    room = 1 - LEAST_NORM + for_it
    share = torch.where(room + against < 0, room / against.clamp(max=-LEAST_NORM).neg(), 1)
    return torch.where(weight < 0, negative * share[target], weight)


def batch_of_views(graphs: Sequence[SpatialGraph], x: Tensor) -> Batch:
    """:meth:`Batch.from_data_list` of graphs whose ``x`` are consecutive views of one ``x`` [N, 1, H, W], which the
    batch then holds itself instead of a copy."""
    light = []
    for graph in graphs:
        part = SpatialGraph(**{key: value for key, value in graph.to_dict().items() if key != "x"})
        part.num_nodes = graph.x.size(0)
        light.append(part)
    batch = Batch.from_data_list(light)
    batch.x = x
    for table in (batch._slice_dict, batch._inc_dict):
        table["x"] = table["feat"]
    return batch


def _floating(masks: Tensor, dtype: torch.dtype) -> Tensor:
    return masks if masks.is_floating_point() else masks.to(dtype)
