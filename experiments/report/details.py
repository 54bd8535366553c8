"""What a page stores of how a frame came about: outlines, terms of Eq. 6, edge weights and attention, in a few KB."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.video.trace_files import FrameTrace

OBJECT_GRID = 32
"""Cells a side that the attention of the whole object is reduced to."""
FAINT = 6
"""Attention below this many 255ths of the largest counts as none, so that it compresses."""
MOST_PROPOSALS = 40
"""Proposals of a frame of experiments.proposals, those with the highest scores."""
MOST_CONTOURS = 300
"""Contours of one mask that are kept, the largest ones."""

Shape = list[list[int]]
"""Closed contours (x, y, x, y, ...) of one mask, filled by the even-odd rule."""
Detail = tuple[str, str]
"""Of one frame, compressed and as text: everything but the attention of single cells, and that as uint8
[M, g g, G G] of all memory frames, empty where there is none."""


def detail_of_trace(trace: FrameTrace, size: tuple[int, int]) -> Detail:
    """The detail of a frame whose masks are of ``size`` (H, W)."""
    scale = size[1] / trace.size[1], size[0] / trace.size[0]
    four = scale * 2
    objects = []
    for k, obj_id in enumerate(trace.obj_ids):
        own, memory = np.flatnonzero(trace.batch == k), np.flatnonzero(trace.memory_batch == k)
        attention = object_attention(trace.attention_object[memory])
        objects.append(
            {
                "id": obj_id,
                "selected": own.tolist().index(trace.selected[k]) if trace.selected[k] in own else -1,
                "p": _numbers(trace.p[k] * four, 1),
                "q": outline(trace.q[k].numpy(), scale=scale),
                "refined": outline(trace.refined[k].numpy(), scale=scale),
                "window": _numbers(trace.window[k] * four, 1),
                "nodes": [_node(trace, int(n), scale) for n in own],
                "weights": _numbers(weight_matrix(trace, own).ravel(), 4),
                "memory": [trace.memory_frame[m] for m in memory],
                "memory_windows": [_numbers(trace.memory_window[m] * four, 1) for m in memory],
                "attention": attention.reshape(len(memory), -1).tolist(),
                "grid": attention.shape[-1],
            }
        )
    cells = trace.attention_cells
    detail = {
        "lambda1": trace.lambda1,
        "quality": trace.quality_weight,
        "objects": objects,
        "cells": [round(side**0.5) for side in cells.shape[1:]],
    }
    return pack_json(detail), pack(cell_attention(cells).tobytes()) if cells.size else ""


def detail_of_proposals(proposals: EncodedProposals) -> Detail:
    """The detail of a frame of which only proposals are known, the highest scores first."""
    shown = proposals.select(proposals.scores.argsort(descending=True, stable=True)[:MOST_PROPOSALS])
    found = [
        {"score": round(float(score), 3), "proposal": outline(mask.numpy(), 1.0) or [_corners(box)]}
        for score, mask, box in zip(shown.scores, shown.masks, shown.boxes.tolist(), strict=True)
    ]
    return pack_json({"proposals": found, "objects": []}), ""


def outline(mask: NDArray[Any], detail: float = 0.7, scale: tuple[float, float] = (1.0, 1.0)) -> Shape:
    """The contours of a binary mask [H, W], holes too, through the centres of its border pixels.

    Args:
        mask: [H, W].
        detail: most pixels that a contour may be off, so that fewer points do.
        scale: factors of x and y that the contours are multiplied by.
    """
    inside = np.ascontiguousarray(mask, np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    largest = sorted(contours, key=len, reverse=True)[:MOST_CONTOURS]
    return [
        np.rint(cv2.approxPolyDP(contour, detail, True).reshape(-1, 2) * scale).astype(int).ravel().tolist()
        for contour in largest
    ]


def weight_matrix(trace: FrameTrace, own: NDArray[Any]) -> NDArray[np.float32]:
    """Edge weights W [n, n] of the nodes of one object, target by source."""
    place = np.full(len(trace.batch), -1)
    place[own] = np.arange(len(own))
    source, target = place[trace.edge_index]
    inside = source >= 0
    matrix = np.zeros((len(own), len(own)), np.float32)
    matrix[target[inside], source[inside]] = trace.edge_weight[inside]
    return matrix


def object_attention(attention: NDArray[Any]) -> NDArray[np.uint8]:
    """Attention [R, S, S] of an object with 255 for the largest, on OBJECT_GRID cells a side at most."""
    side = min(attention.shape[-1], OBJECT_GRID)
    if attention.size == 0:
        return np.zeros((0, side, side), np.uint8)
    pooled = F.adaptive_avg_pool2d(torch.from_numpy(attention.astype(np.float32)), side).numpy()
    return np.rint(255 * pooled / max(float(pooled.max()), 1e-9)).astype(np.uint8)


def cell_attention(cells: NDArray[Any]) -> NDArray[np.uint8]:
    """Attention [M, g g, G G] with 255 for the largest of each memory frame and place."""
    values = cells.astype(np.float32)
    values = np.rint(255 * values / values.max(axis=2, keepdims=True).clip(min=1e-9)).astype(np.uint8)
    return np.where(values < FAINT, np.uint8(0), values)


def pack_json(content: Any) -> str:
    """Plain values as JSON, see :func:`pack`."""
    return pack(json.dumps(content, separators=(",", ":"), allow_nan=False).encode())


def pack(content: bytes) -> str:
    """Compressed by zlib, as base64."""
    return base64.b64encode(zlib.compress(content, 6)).decode("ascii")


def _node(trace: FrameTrace, n: int, scale: tuple[float, float]) -> dict[str, Any]:
    terms = {
        "score": trace.proposal_score,
        "box_iou": trace.box_term,
        "mask_iou": trace.mask_term,
        "gate": trace.gate,
        "total": trace.total,
    }
    return {
        "origin": trace.origin[n],
        "proposal": outline(trace.proposals[n].numpy(), 1.0, scale),
        "mask": outline(trace.nodes[n].numpy(), 1.0, scale),
        **{name: round(float(term[n]), 4) if np.isfinite(term[n]) else None for name, term in terms.items()},
    }


def _numbers(values: NDArray[Any], digits: int) -> list[float]:
    return [round(value, digits) for value in np.nan_to_num(values).tolist()]


def _corners(box: list[float]) -> list[int]:
    x0, y0, x1, y1 = (round(value) for value in box)
    return [x0, y0, x1, y0, x1, y1, x0, y1]
