"""Times of single layers: all backends and layers at one size, and how the time grows with the size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch_geometric.data import Batch
from tqdm import tqdm

from experiments.benchmark.measure import Case, Row, measure
from stg_pyg import nn
from stg_pyg.graph.spatial import SpatialGraph, edge_weight, fully_connected_edge_index
from stg_pyg.nn.spatial.registry import call_spatial_regions
from stg_pyg.ops.regions import RegionLayout

BACKENDS = ("edgewise", "fused", "closed", "region")
SPATIAL = ("mean", "symmetric", "attention", "edge_mlp", "gru", "evidence", "pixel", "GCNConv", "GraphConv")
TEMPORAL = ("memory_attention", "joint", "mean")
LAYER_OBJECTS = 2
"""Objects where it is not them that are looked at."""
MEMORY_FRAMES = (1, 2, 4, 8, 16, 32)
SWEEPS: dict[str, tuple[str, Sequence[Any], Sequence[str], Row]] = {
    "frame_pixels": ("scale", (0.5, 1, 1.5, 2.25), (*BACKENDS, "region+frame"), {"objects": 2}),
    "steps": ("steps", (1, 2, 3), BACKENDS, {"objects": 1}),
    # All windows together stay below the 32 MiB from which on the CPU maps every result anew.
    "objects": ("objects", (1, 2, 4, 8, 16, 32), ("closed", "region"), {"side": 0.17}),
    "proposals": ("proposals", (5, 10, 20, 50, 100, 200), ("closed", "region"), {"objects": 1}),
    "region_pixels": ("side", (0.1, 0.2, 0.3, 0.4, 0.6, 0.8), ("region",), {"objects": 1}),
}
"""By what grows: the field of :class:`Size`, its values, the backends, and what else differs from the main case."""


@dataclass(frozen=True)
class Size:
    """Of a batch of spatial graphs, one an object: windows take ``side`` of both sides of the frame (None: 0.2 to 0.4,
    at random), and the frame ``scale`` of its height and width."""

    objects: int
    proposals: int
    height: int
    width: int
    side: float | None = None
    scale: float = 1
    steps: int = 2


class Inputs:
    """Fully connected graphs with random weights, and masks that are 0 outside of one window a graph."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size, n, graphs = size, size.proposals, []
        width, height = frame = round(size.width * size.scale), round(size.height * size.scale)
        for _ in range(size.objects):
            side = torch.rand(2) * 0.2 + 0.2 if size.side is None else torch.full((2,), size.side)
            extent = (side * torch.tensor(frame)).round().clamp(min=1)
            low = (torch.rand(2) * (torch.tensor(frame) - extent)).floor()
            window = torch.cat([low, low + extent]).int()
            x0, y0, x1, y1 = window.tolist()
            x, edges = torch.zeros(n, 1, height, width), fully_connected_edge_index(n)
            x[:, :, y0:y1, x0:x1].uniform_()
            values = {"x": x, "feat": torch.randn(n, 32), "edge_attr": torch.rand(edges.size(1), 2)}
            graphs.append(SpatialGraph(**values, edge_index=edges, window=window.view(1, 4)))
        self.graphs = Batch.from_data_list(graphs).to(device)
        windows = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in self.graphs.window.tolist())
        self.layout = RegionLayout((n,) * size.objects, windows, (1, height, width))
        self.inside = self.crop()

    def crop(self) -> nn.MaskRegions:
        """A copy of the windows."""
        x = self.graphs.x
        return nn.MaskRegions.cropped(x, self.layout, torch.arange(self.size.objects, device=x.device))


def spatial_case(inputs: Inputs, name: str, backend: str = "auto") -> Case:
    """A layer of :func:`resolve_spatial_conv` on all graphs at once.

    Args:
        backend: ``auto``, or one of ``stg``: ``edgewise`` takes the objects one by one, as the messages of all fit into
            few memories, ``region`` computes inside of known windows, ``region+frame`` writes full frames from there,
            and ``region+find`` finds the windows from the masks.
    """
    size, graphs = inputs.size, inputs.graphs
    masks, weight, batch = (graphs.x, graphs.edge_index), edge_weight(graphs.edge_attr), graphs.batch
    device = graphs.x.device
    own = nn.MaskPropagation(size.steps, backend.split("+")[0]) if name == "stg" else name
    conv: Any = nn.resolve_spatial_conv(own).to(device)
    graph = {"edge_weight": weight, "edge_attr": graphs.edge_attr, "batch": batch, "feat": graphs.feat}
    with torch.no_grad():
        nn.call_spatial_conv(conv, graphs.x[..., :1, :1], graphs.edge_index, **graph)  # makes lazy weights
    stock, input_mb = isinstance(conv, nn.ConvAdapter), graphs.x.nbytes / 2**20
    parts = graphs.to_data_list() if backend == "edgewise" else [graphs]
    needed = input_mb * (2 * size.proposals + 2 if stock or backend == "edgewise" else 4) / len(parts)
    calls = {
        "edgewise": lambda: [conv(part.x, part.edge_index, edge_weight(part.edge_attr)) for part in parts],
        "region": lambda: call_spatial_regions(conv, *masks, inputs.layout, **graph),
        "region+find": lambda: conv.regions(*masks, weight, batch),
        "region+frame": lambda: conv(*masks, weight, batch, boxes=graphs.window),
    }
    copies = {"region": inputs.crop, "region+find": inputs.crop, "region+frame": inputs.inside.to_frame}
    _, height, width = inputs.layout.shape
    row = {"layer": name, "backend": "stock" if stock else backend, "device": device.type, "objects": size.objects}
    row |= {"proposals": size.proposals, "height": height, "width": width, "steps": getattr(conv, "num_steps", 1)}
    row |= {"frame_pixels": height * width, "region_pixels": sum(inputs.layout.columns), "memory_frames": None}
    return Case(
        row | {"input_mb": input_mb},
        calls.get(backend, lambda: nn.call_spatial_conv(conv, *masks, **graph)),
        copies.get(backend, graphs.x.clone),
        needed,
        [*(part.x for part in parts), *conv.parameters()],
    )


def temporal_case(name: str, objects: int, frames: int, device: torch.device, keys: int = 32, side: int = 32) -> Case:
    """A layer of :func:`resolve_temporal_conv` over ``frames`` memory frames of each object, on a grid of keys as large
    as that of the small networks."""
    shapes = ((objects,), (objects, keys), (objects * frames,), (objects * frames, keys))
    tensors = [torch.rand(*shape, side, side, device=device) for shape in shapes]
    source = torch.arange(objects * frames, device=device)
    edges = torch.stack([source, source // frames])
    conv: Any = nn.resolve_temporal_conv(name).to(device)
    row = {"layer": name, "backend": "auto", "device": device.type, "objects": objects, "proposals": 1, "steps": 1}
    row |= {"height": side, "width": side, "frame_pixels": side**2, "region_pixels": None, "memory_frames": frames}
    return Case(
        row | {"input_mb": sum(tensor.nbytes for tensor in tensors) / 2**20},
        lambda: conv.forward_graph(*tensors, edges),
        lambda: [tensor.clone() for tensor in tensors],
        objects * frames * side**2 * (side**2 + 4 * keys) * 4 / 2**20,
        [*tensors, *conv.parameters()],
    )


def make_cases(
    group: str, size: Size, quick: bool, spatial: Sequence[str], temporal: Sequence[str], device: torch.device
) -> Iterator[Case]:
    """The cases that take turns: all backends (``main``), other layers (``layers``), or one of the sweeps."""
    few = min(size.objects, LAYER_OBJECTS)
    if group == "main":
        inputs = Inputs(size, device)
        yield from (spatial_case(inputs, "stg", backend) for backend in (*BACKENDS, "region+frame", "region+find"))
    elif group == "layers":
        inputs = Inputs(replace(size, objects=few), device)
        yield from (spatial_case(inputs, "stg", backend) for backend in ("edgewise", "closed", "region"))
        for name in spatial:
            yield spatial_case(inputs, name)
            if hasattr(nn.resolve_spatial_conv(name), "regions"):
                yield spatial_case(inputs, name, "region")
    elif group == "memory_frames":
        yield from (temporal_case(name, few, n, device) for name in temporal for n in MEMORY_FRAMES[:: 1 + quick])
    else:
        field, values, backends, changes = SWEEPS[group]
        for value in values[:: 1 + quick]:
            inputs = Inputs(replace(size, **{"side": 0.3, **changes, field: value}), device)
            yield from (spatial_case(inputs, "stg", backend) for backend in backends)


def run_layers(
    size: Size,
    devices: Sequence[torch.device],
    repetitions: int,
    quick: bool = False,
    backward: bool = False,
    spatial: Sequence[str] = SPATIAL,
    temporal: Sequence[str] = TEMPORAL,
) -> dict[str, list[Row]]:
    """``rows`` and ``exponents`` of ``benchmark.json``; the inputs of one group are in memory at a time."""
    rows: list[Row] = []
    groups = [(device, group) for device in devices for group in ("main", "layers", *SWEEPS, "memory_frames")]
    for device, group in tqdm(groups, desc="layers", unit="group", dynamic_ncols=True):
        cases = list(make_cases(group, size, quick, spatial, temporal, device))
        rows += [{"group": group} | row for row in measure(cases, repetitions, device, backward)]
    add_speedups(rows)
    return {"rows": rows, "exponents": fit_exponents(rows)}


def add_speedups(rows: Sequence[Row]) -> None:
    """Fills ``speedup_over_edgewise`` where there is an edgewise row of the same group, layer, input and steps."""
    keys = ("group", "device", "layer", "objects", "proposals", "height", "width", "region_pixels", "steps")
    edgewise = {tuple(row[k] for k in keys): row["ms"] for row in rows if row["backend"] == "edgewise"}
    for row in rows:
        base = edgewise.get(tuple(row[k] for k in keys))
        row["speedup_over_edgewise"] = base / row["ms"] if base and row["ms"] else None


def fit_exponents(rows: Sequence[Row]) -> list[Row]:
    """How time grows over the sweeps: the slope of log time over log size over all sizes (``exponent``) and between
    the two largest (``last_exponent``), where the fixed costs of a call count least, and the time of the largest over
    that of the smallest (``last_over_first``)."""
    sweeps: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for row in rows:
        if row["group"] in (*SWEEPS, "memory_frames") and row["ms"]:
            key = (row["group"], row["layer"], row["backend"], row["device"])
            sweeps.setdefault(key, []).append((row[row["group"]], row["ms"]))
    fits = []
    for key, found in sweeps.items():
        sizes, ms = (list(values) for values in zip(*sorted(found), strict=True))
        fit: Row = dict(zip(("growth_in", "layer", "backend", "device"), key, strict=True)) | {"sizes": sizes, "ms": ms}
        for name, points in (("exponent", slice(None)), ("last_exponent", slice(-2, None))):
            x, y = np.log(sizes[points]), np.log(ms[points])
            fit[name] = float(np.polyfit(x, y, 1)[0]) if len(sizes) > 1 else None
        fits.append(fit | {"last_over_first": ms[-1] / ms[0]})
    return fits
