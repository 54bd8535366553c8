"""The temporal layers over memories of several lengths."""

from __future__ import annotations

from typing import Any

import torch

from experiments.benchmark.cases import Case
from stg_pyg.nn import resolve_temporal_conv

TEMPORAL_LAYERS = ("memory_attention", "joint", "mean")
KEYS = 32
GRID = 32
"""Channels and side of the keys of the small networks with crops of 128 pixels."""


def memory_case(name: str, objects: int, frames: int, device: torch.device) -> Case:
    """A temporal layer over ``frames`` memory frames of each object, on its grid of keys."""
    mask, key = torch.rand(objects, GRID, GRID, device=device), torch.randn(objects, KEYS, GRID, GRID, device=device)
    memory_masks = torch.rand(objects * frames, GRID, GRID, device=device)
    memory_keys = torch.randn(objects * frames, KEYS, GRID, GRID, device=device)
    source = torch.arange(objects * frames, device=device)
    edge_index = torch.stack([source, source // frames])
    conv: Any = resolve_temporal_conv(name).to(device)
    tensors = (mask, key, memory_masks, memory_keys)
    row = {"layer": name, "backend": "auto", "device": device.type, "objects": objects}
    row |= {"proposals": 1, "height": GRID, "width": GRID, "steps": 1, "frame_pixels": GRID**2, "region_pixels": None}
    input_mb = sum(tensor.nbytes for tensor in tensors) / 2**20
    row |= {"memory_frames": frames, "input_mb": input_mb, "parts": 1}
    needed = objects * frames * GRID**2 * (GRID**2 + 4 * KEYS) * 4 / 2**20
    return Case(
        row,
        lambda: conv.forward_graph(*tensors, edge_index),
        lambda: [tensor.clone() for tensor in tensors],
        needed,
        ("memory_frames",),
    )
