"""What a page stores of how a frame came about: outlines, terms of Eq. 6, edge weights and attention, in a few KB."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from experiments.report.shapes import outline
from stg_pyg.encoded import EncodedProposals
from stg_pyg.trace_files import FrameTrace

OBJECT_GRID = 32
"""Cells a side that the attention of the whole object is reduced to."""
FAINT = 6
"""Attention below this many 255ths of the largest counts as none, so that it compresses."""
MOST_PROPOSALS = 40
"""Proposals of a frame of experiments.proposals, those with the highest scores."""


@dataclass(frozen=True)
class Detail:
    """One frame, each part compressed and as text."""

    frame: str
    """Header and numbers, see :func:`pack`."""
    cells: str
    """Attention of single cells, uint8 [M, g g, G G] of all memory frames; empty where there is none."""


def detail_of_trace(trace: FrameTrace, size: tuple[int, int]) -> Detail:
    """The detail of a frame whose masks are of ``size`` (H, W)."""
    scale = size[1] / trace.size[1], size[0] / trace.size[0]
    four = scale * 2
    objects, numbers = [], []
    for k, obj_id in enumerate(trace.obj_ids):
        own, memory = np.flatnonzero(trace.batch == k), np.flatnonzero(trace.memory_batch == k)
        weights, largest = weight_matrix(trace, own)
        attention = object_attention(trace.attention_object[memory])
        numbers += [weights.tobytes(), attention.tobytes()]
        objects.append(
            {
                "id": obj_id,
                "selected": _position(own, trace.selected[k]),
                "p": _numbers(trace.p[k] * four, 1),
                "q": outline(trace.q[k].numpy(), scale=scale),
                "refined": outline(trace.refined[k].numpy(), scale=scale),
                "window": _numbers(trace.window[k] * four, 1),
                "nodes": [_node(trace, int(n), scale) for n in own],
                "largest": largest,
                "memory": [trace.memory_frame[m] for m in memory],
                "memory_windows": [_numbers(trace.memory_window[m] * four, 1) for m in memory],
                "grid": attention.shape[-1],
            }
        )
    cells = trace.attention_cells
    header = {
        "lambda1": trace.lambda1,
        "quality": trace.quality_weight,
        "alpha": trace.alpha,
        "objects": objects,
        "cells": [round(side**0.5) for side in cells.shape[1:]],
    }
    return Detail(pack(header, numbers), pack_bytes(cell_attention(cells).tobytes()) if cells.size else "")


def detail_of_proposals(proposals: EncodedProposals) -> Detail:
    """The detail of a frame of which only proposals are known, the highest scores first."""
    order = proposals.scores.argsort(descending=True, stable=True)[:MOST_PROPOSALS]
    shown = proposals.select(order)
    found = [
        {"score": round(float(score), 3), "proposal": outline(mask.numpy(), 1.0) or [_corners(box)]}
        for score, mask, box in zip(shown.scores, shown.masks, shown.boxes.tolist(), strict=True)
    ]
    return Detail(pack({"proposals": found, "count": len(proposals), "objects": []}, []), "")


def weight_matrix(trace: FrameTrace, own: NDArray[Any]) -> tuple[NDArray[np.int8], float]:
    """Edge weights W [n, n] of the nodes of one object (target, source), as 127ths of the returned largest one."""
    place = np.full(len(trace.batch), -1)
    place[own] = np.arange(len(own))
    source, target = place[trace.edge_index]
    inside = source >= 0
    matrix = np.zeros((len(own), len(own)), np.float32)
    matrix[target[inside], source[inside]] = trace.edge_weight[inside]
    largest = max(float(np.abs(matrix).max(initial=0)), 1e-9)
    return np.rint(127 * matrix / largest).astype(np.int8), round(largest, 4)


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


def pack(header: dict[str, Any], numbers: Sequence[bytes]) -> str:
    """The length of the header in four bytes, the header as JSON, and numbers, as :func:`pack_bytes` does."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    return pack_bytes(len(text).to_bytes(4, "little") + text + b"".join(numbers))


def pack_bytes(content: bytes) -> str:
    """Compressed by zlib, as base64."""
    return base64.b64encode(zlib.compress(content, 6)).decode("ascii")


def _node(trace: FrameTrace, n: int, scale: tuple[float, float]) -> dict[str, Any]:
    return {
        "origin": trace.origin[n],
        "score": _number(trace.proposal_score[n]),
        "box_iou": _number(trace.box_term[n]),
        "mask_iou": _number(trace.mask_term[n]),
        "gate": _number(trace.gate[n]),
        "total": _number(trace.total[n]),
        "box": _numbers(trace.node_box[n] * (scale * 2), 1),
        "proposal": outline(trace.proposals[n].numpy(), 1.0, scale),
        "mask": outline(trace.nodes[n].numpy(), 1.0, scale),
    }


def _number(value: Any) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _numbers(values: NDArray[Any], digits: int) -> list[float]:
    return [round(float(value), digits) for value in np.nan_to_num(values)]


def _position(own: NDArray[Any], node: int) -> int:
    found = np.flatnonzero(own == node)
    return int(found[0]) if len(found) else -1


def _corners(box: list[float]) -> list[int]:
    x0, y0, x1, y1 = (round(value) for value in box)
    return [x0, y0, x1, y0, x1, y1, x0, y1]
