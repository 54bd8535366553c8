"""How much masks overlap: intersection over union of all pairs, of nodes with their graphs, and inside of windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from stg_pyg.ops.regions import MaskRegions


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    r"""Soft intersection over union of every mask of ``a`` with every mask of ``b``.

    .. math::
        \frac{\sum_i a_i b_i}{\sum_i a_i + \sum_i b_i - \sum_i a_i b_i}

    Exact on binary masks, differentiable on soft ones. Two empty masks have IoU 0. Masks of different sizes are a
    ValueError.

    Args:
        a, b: [N, H, W] and [M, H, W], bool or in [0, 1].

    Returns:
        [N, M], float64 if either input is, else float32.
    """
    dtype = _working_dtype(a, b)
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.flatten(1).to(dtype), b.flatten(1).to(dtype)
        return _ratio(a @ b.T, a.sum(dim=1)[:, None], b.sum(dim=1)[None])


def paired_mask_iou(masks: Tensor, q: Tensor, batch: Tensor) -> Tensor:
    """:func:`mask_iou` [N] of masks [N, H, W] with those of their graphs, ``q[batch]`` of q [B, H, W], without a copy;
    ``batch`` [N] outside of [0, B) is a ValueError."""
    nodes = batch.cpu()
    graphs = nodes.tolist()
    if graphs and not 0 <= min(graphs) <= max(graphs) < len(q):
        raise ValueError(f"batch must be in [0, {len(q)}), not in [{min(graphs)}, {max(graphs)}]")
    if any(before > after for before, after in pairwise(graphs)):
        return mask_iou(masks, q).gather(1, batch[:, None])[:, 0]
    dtype = _working_dtype(masks, q)
    if not graphs:
        return masks.new_zeros(0, dtype=dtype)
    counts = torch.bincount(nodes, minlength=len(q)).tolist()
    targets = q.flatten(1)
    return _iou_of_graphs(masks.flatten(1).split(counts), targets, targets.sum(dim=1, dtype=dtype))


def region_mask_iou(regions: MaskRegions, q: Tensor, threshold: float | None = None) -> Tensor:
    """:func:`paired_mask_iou` [N] of the masks of B graphs with q [B, H, W], reading nothing outside of their windows.

    Args:
        regions: [N] masks in windows outside of which they are 0.
        q: [B, H, W].
        threshold: binarises the masks first; None: they are soft.
    """
    dtype = torch.float64 if torch.float64 in (regions.flat.dtype, q.dtype) else torch.float32
    parts, targets = [], []
    own = q[regions.graphs]
    for values, target, (x0, y0, x1, y1) in zip(regions.values, own, regions.layout.windows, strict=True):
        part = values
        if threshold is not None:
            # Six times faster than a bool result that is converted, as comparisons into floats are vectorised.
            part = torch.gt(values.detach(), threshold, out=torch.empty_like(values.detach()))
        parts.append(part.flatten(1))
        targets.append(target[y0:y1, x0:x1].flatten())
    if not parts:
        return q.new_zeros(0, dtype=dtype)
    return _iou_of_graphs(parts, targets, own.flatten(1).sum(dim=1, dtype=dtype))


def _iou_of_graphs(parts: Sequence[Tensor], targets: Iterable[Tensor], areas: Tensor) -> Tensor:
    """IoU [N] of the masks [N_g, P_g] of each graph with its target [P_g], whose whole areas are [G]."""
    dtype = areas.dtype
    with torch.autocast(areas.device.type, enabled=False):
        # A matrix-vector product a graph reads every mask once, and is several times faster than all pairs.
        intersection, area, other = [], [], []
        for masks, target, whole in zip(parts, targets, areas, strict=True):
            masks = masks.to(dtype)
            intersection.append(masks @ target.to(dtype))
            area.append(masks.sum(dim=1))
            other.append(whole.expand(len(masks)))
        return _ratio(torch.cat(intersection), torch.cat(area), torch.cat(other))


def _working_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"masks of {list(a.shape[1:])} cannot be compared with masks of {list(b.shape[1:])}")
    return torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32


def _ratio(intersection: Tensor, area_a: Tensor, area_b: Tensor) -> Tensor:
    union = area_a + area_b - intersection
    return intersection / union.masked_fill(union <= 0, 1)
