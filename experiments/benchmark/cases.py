"""What experiments.benchmark measures: inputs of graphs, and one case for each layer and backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stg_pyg.graph import edge_weight, fully_connected_edge_index
from stg_pyg.nn import MaskPropagation, MemoryAttention, call_spatial_conv, resolve_spatial_conv

FEATURES = 32
KEYS = 64
GRID = 24


@dataclass
class Case:
    """One call to be timed, with the keys of its row in ``benchmark.json``."""

    row: dict[str, Any]
    call: Callable[[], Any]
    copy: Callable[[], Any]
    """Copies what the call must read and write, into memory that it allocates as the call does."""
    needed_mb: float
    """A bound of the memory that the call needs, in MiB."""
    sweeps: tuple[str, ...] = ()
    """Fits that this case is a point of: ``objects``, ``proposals``, ``region_pixels`` or ``memory_frames``."""
    reason: str | None = None
    """Why it is not run, if so."""
    milliseconds: list[float] = field(default_factory=list)
    copy_milliseconds: list[float] = field(default_factory=list)


@dataclass
class Graphs:
    """Fully connected graphs of ``proposals`` nodes, one an object, with masks that are 0 outside of the boxes."""

    x: Tensor
    """[N, H, W]."""
    edge_index: Tensor
    edge_attr: Tensor
    batch: Tensor
    boxes: Tensor
    """[N, 4], the same of all nodes of an object, in whole pixels."""
    feat: Tensor
    proposals: int

    @classmethod
    def random(
        cls, objects: int, proposals: int, height: int, width: int, device: torch.device, side: float | None = None
    ) -> Graphs:
        """Boxes of 20 % to 40 % of each side of the frame, or of ``side`` of it."""
        lengths = torch.rand(objects, 2) * 0.2 + 0.2 if side is None else torch.full((objects, 2), side)
        frame = torch.tensor([width, height])
        size = (lengths * frame).round().clamp(min=1)
        low = (torch.rand(objects, 2) * (frame - size)).floor()
        boxes = torch.cat([low, low + size], dim=1).repeat_interleave(proposals, dim=0)
        x = torch.zeros(objects * proposals, height, width, device=device)
        for mask, (x0, y0, x1, y1) in zip(x, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1].uniform_()
        edges = [fully_connected_edge_index(proposals) + k * proposals for k in range(objects)]
        edge_index = torch.cat(edges, dim=1).to(device)
        return cls(
            x,
            edge_index,
            torch.rand(edge_index.size(1), 2, device=device),
            torch.arange(objects, device=device).repeat_interleave(proposals),
            boxes,
            torch.randn(objects * proposals, FEATURES, device=device),
            proposals,
        )

    def first(self, objects: int) -> Graphs:
        """The graphs of the first objects, as views."""
        nodes, edges = objects * self.proposals, objects * self.proposals * (self.proposals - 1)
        parts = (self.edge_index[:, :edges], self.edge_attr[:edges], self.batch[:nodes], self.boxes[:nodes])
        return Graphs(self.x[:nodes], *parts, self.feat[:nodes], self.proposals)

    @property
    def objects(self) -> int:
        return len(self.x) // self.proposals

    @property
    def region_pixels(self) -> int:
        """Pixels inside the windows of all objects."""
        size = self.boxes[:: self.proposals, 2:] - self.boxes[:: self.proposals, :2]
        return int(size.prod(dim=1).sum())

    def crops(self, frames: Tensor) -> list[Tensor]:
        """Views of the windows, [proposals, h, w] of each object."""
        windows = self.boxes[:: self.proposals].int().tolist()
        parts = frames.split(self.proposals)
        return [part[:, y0:y1, x0:x1] for part, (x0, y0, x1, y1) in zip(parts, windows, strict=True)]

    def copy_regions(self) -> Tensor:
        """Reads the windows out of the frames and writes them to one new tensor."""
        crops = self.crops(self.x)
        flat = self.x.new_empty(sum(crop.numel() for crop in crops))
        for part, crop in zip(flat.split([crop.numel() for crop in crops]), crops, strict=True):
            part.view(crop.shape).copy_(crop)
        return flat

    def copy_into_zeros(self) -> Tensor:
        """Reads the windows and writes them to new frames of zeros."""
        frames = torch.zeros_like(self.x)
        for target, crop in zip(self.crops(frames), self.crops(self.x), strict=True):
            target.copy_(crop)
        return frames


def stg_case(graphs: Graphs, backend: str, steps: int = 2, sweeps: Sequence[str] = ()) -> Case:
    """``MaskPropagation``. Backends beside its own: ``region`` is the compact form with boxes given, ``region+frame``
    writes full frames, ``region+find`` finds the windows from the masks."""
    weight = edge_weight(graphs.edge_attr)
    frame_mb = graphs.x.nbytes / 2**20
    if backend.startswith("region"):
        conv = MaskPropagation(steps, "region")
        boxes = None if backend == "region+find" else graphs.boxes
        arguments = (graphs.x, graphs.edge_index, weight, graphs.batch)
        if backend == "region+frame":
            row = _row(graphs, "stg", backend, steps)
            return Case(row, lambda: conv(*arguments, boxes=boxes), graphs.copy_into_zeros, 2 * frame_mb, tuple(sweeps))
        row = _row(graphs, "stg", backend, steps)
        return Case(row, lambda: conv.regions(*arguments, boxes), graphs.copy_regions, frame_mb, tuple(sweeps))
    return layer_case(graphs, "stg", backend, sweeps, MaskPropagation(steps, backend))


def layer_case(
    graphs: Graphs, name: str, backend: str, sweeps: Sequence[str] = (), conv: torch.nn.Module | None = None
) -> Case:
    """A layer of :func:`resolve_spatial_conv`, by its name, on full frames."""
    conv = resolve_spatial_conv(name if conv is None else conv).to(graphs.x.device)
    arguments = {"edge_attr": graphs.edge_attr, "batch": graphs.batch, "feat": graphs.feat}
    weight = edge_weight(graphs.edge_attr)
    frame_mb = graphs.x.nbytes / 2**20
    messages = graphs.edge_index.size(1) / len(graphs.x) if backend in ("edgewise", "stock") else 2

    def call() -> Tensor:
        return call_spatial_conv(conv, graphs.x, graphs.edge_index, edge_weight=weight, **arguments)

    with torch.no_grad():
        small = graphs.x[:, :1, :1]
        call_spatial_conv(conv, small, graphs.edge_index, edge_weight=weight, **arguments)
    row = _row(graphs, name, backend, getattr(conv, "num_steps", 1))
    return Case(row, call, graphs.x.clone, (2 * messages + 4) * frame_mb, tuple(sweeps))


def memory_case(objects: int, frames: int, device: torch.device) -> Case:
    """``MemoryAttention`` over ``frames`` memory frames of each object, on its grid of keys."""
    mask, key = torch.rand(objects, GRID, GRID, device=device), torch.randn(objects, KEYS, GRID, GRID, device=device)
    memory_masks = torch.rand(objects * frames, GRID, GRID, device=device)
    memory_keys = torch.randn(objects * frames, KEYS, GRID, GRID, device=device)
    source = torch.arange(objects * frames, device=device)
    edge_index = torch.stack([source, source // frames])
    conv = MemoryAttention()
    tensors = (mask, key, memory_masks, memory_keys)
    row = {"layer": "memory_attention", "backend": "sdpa", "device": device.type, "objects": objects}
    row |= {"proposals": 1, "height": GRID, "width": GRID, "steps": 1, "region_pixels": None, "memory_frames": frames}
    needed = objects * frames * GRID**2 * (GRID**2 + 4 * KEYS) * 4 / 2**20
    return Case(
        row,
        lambda: conv.forward_graph(*tensors, edge_index),
        lambda: [tensor.clone() for tensor in tensors],
        needed,
        ("memory_frames",),
    )


def _row(graphs: Graphs, layer: str, backend: str, steps: int) -> dict[str, Any]:
    return {
        "layer": layer,
        "backend": backend,
        "device": graphs.x.device.type,
        "objects": graphs.objects,
        "proposals": graphs.proposals,
        "height": graphs.x.size(1),
        "width": graphs.x.size(2),
        "steps": steps,
        "region_pixels": graphs.region_pixels,
        "memory_frames": None,
    }
