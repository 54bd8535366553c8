"""What experiments.benchmark times: one case for each layer, backend and input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from experiments.benchmark.graphs import Graphs
from experiments.benchmark.memory import room_mb
from stg_pyg.nn import ConvAdapter, MaskPropagation, MaskRegions, call_spatial_conv, resolve_spatial_conv
from stg_pyg.nn.region import RegionLayout
from stg_pyg.nn.resolver import call_spatial_regions


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
    """Fits that this case is a point of: names of sizes in ``row``."""
    reason: str | None = None
    """Why it is not run, if so."""
    milliseconds: list[float] = field(default_factory=list)
    copy_milliseconds: list[float] = field(default_factory=list)
    peak_mb: float = math.nan
    result_mb: float = math.nan


def stg_case(graphs: Graphs, backend: str, steps: int = 2, sweeps: Sequence[str] = ()) -> Case:
    """``MaskPropagation``. Backends beside its own: ``region`` is the compact form with boxes given, ``region+frame``
    writes full frames, ``region+find`` finds the windows from the masks."""
    row = row_of(graphs, "stg", backend, steps)
    if backend == "edgewise":
        return _edgewise_case(graphs, row, sweeps)
    if not backend.startswith("region"):
        return layer_case(graphs, "stg", sweeps, MaskPropagation(steps, backend))
    conv = MaskPropagation(steps, "region")
    boxes = None if backend == "region+find" else graphs.boxes
    arguments = (graphs.x, graphs.edge_index, graphs.weight, graphs.batch)
    if backend == "region+frame":
        needed = 2 * graphs.input_mb
        return Case(row, lambda: conv(*arguments, boxes=boxes), graphs.copy_into_zeros, needed, tuple(sweeps))
    return Case(row, lambda: conv.regions(*arguments, boxes), graphs.copy_regions, graphs.input_mb, tuple(sweeps))


def layer_case(graphs: Graphs, name: str, sweeps: Sequence[str] = (), conv: torch.nn.Module | None = None) -> Case:
    """A layer of :func:`resolve_spatial_conv`, by its name, on full frames."""
    conv = resolve_spatial_conv(name if conv is None else conv).to(graphs.x.device)
    backend = "stock" if isinstance(conv, ConvAdapter) else getattr(conv, "backend", "auto")
    arguments = {"edge_attr": graphs.edge_attr, "batch": graphs.batch, "feat": graphs.feat}
    weight = graphs.weight
    copies = 2 * graphs.edge_index.size(1) / len(graphs.x) if backend == "stock" else 2

    def call() -> Tensor:
        return call_spatial_conv(conv, graphs.x, graphs.edge_index, edge_weight=weight, **arguments)

    with torch.no_grad():
        small = graphs.x[:, :1, :1]
        call_spatial_conv(conv, small, graphs.edge_index, edge_weight=weight, **arguments)
    row = row_of(graphs, name, backend, getattr(conv, "num_steps", 1))
    return Case(row, call, graphs.x.clone, (copies + 2) * graphs.input_mb, tuple(sweeps))


def region_case(graphs: Graphs, name: str) -> Case | None:
    """A layer of :func:`resolve_spatial_conv` inside of known windows; None for one that cannot."""
    conv = resolve_spatial_conv(name).to(graphs.x.device)
    if not hasattr(conv, "regions"):
        return None
    (height, width), boxes = graphs.x.shape[1:], graphs.boxes[:: graphs.proposals].int().tolist()
    windows = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in boxes)
    layout = RegionLayout((graphs.proposals,) * graphs.objects, windows, (1, height, width))
    arguments = {"edge_weight": graphs.weight, "edge_attr": graphs.edge_attr, "batch": graphs.batch}
    frames = graphs.x[:, None]

    def call() -> MaskRegions:
        return call_spatial_regions(conv, frames, graphs.edge_index, layout, feat=graphs.feat, **arguments)

    with torch.no_grad():
        call()
    row = row_of(graphs, name, "region", getattr(conv, "num_steps", 1))
    return Case(row, call, graphs.copy_regions, 2 * graphs.input_mb)


def _edgewise_case(graphs: Graphs, row: dict[str, Any], sweeps: Sequence[str]) -> Case:
    """In as many parts as it takes for the messages to fit into the memory; objects share none, so that costs no
    time."""
    degree = graphs.edge_index.size(1) / len(graphs.x)
    needed = (2 * degree + 4) * graphs.input_mb
    at_once = max(1, min(graphs.objects, int(graphs.objects * room_mb(graphs.x.device) / max(needed, 1e-9))))
    conv = MaskPropagation(row["steps"], "edgewise")
    parts = [(part.x, part.edge_index, part.weight, part.batch) for part in graphs.parts(at_once)]
    needed *= at_once / graphs.objects

    def call() -> list[Tensor]:
        return [conv(*part) for part in parts]

    return Case(row | {"parts": len(parts)}, call, graphs.x.clone, needed, tuple(sweeps))


def row_of(graphs: Graphs, layer: str, backend: str, steps: int) -> dict[str, Any]:
    """The keys of a row that tell the case."""
    height, width = graphs.x.shape[1:]
    return {
        "layer": layer,
        "backend": backend,
        "device": graphs.x.device.type,
        "objects": graphs.objects,
        "proposals": graphs.proposals,
        "height": height,
        "width": width,
        "steps": steps,
        "frame_pixels": height * width,
        "region_pixels": graphs.region_pixels,
        "memory_frames": None,
        "input_mb": graphs.input_mb,
        "parts": 1,
    }
