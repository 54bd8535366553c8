"""A frame of three objects, the middle one without proposals, whose masks are 0 outside of their windows."""

import torch

from stg_pyg.graph.spatial import fully_connected_edge_index
from stg_pyg.nn import call_spatial_conv, resolve_spatial_conv
from stg_pyg.ops.regions import RegionLayout

HEIGHT, WIDTH = 10, 15
SIZES, WINDOWS = (3, 2), ((2, 1, 7, 5), (9, 0, 14, 10))
LAYOUT = RegionLayout(SIZES, WINDOWS, (1, HEIGHT, WIDTH))
NODES = ("feat", "evidence", "batch", "boxes")
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}


def graph(dtype=torch.float32):
    """Masks, edges, and what else layers may ask for."""
    batch = torch.tensor([0, 0, 0, 2, 2])
    boxes = torch.tensor([WINDOWS[k] for k in (0, 0, 0, 1, 1)], dtype=dtype)
    x = torch.zeros(5, 1, HEIGHT, WIDTH, dtype=dtype)
    for mask, (x0, y0, x1, y1) in zip(x, boxes.int().tolist(), strict=True):
        mask[:, y0:y1, x0:x1] = torch.rand(1, y1 - y0, x1 - x0, dtype=dtype)
    edges = torch.cat([fully_connected_edge_index(3), fully_connected_edge_index(2) + 3], dim=1)
    call = {"edge_weight": torch.rand(8, dtype=dtype), "edge_attr": torch.rand(8, 2, dtype=dtype), "batch": batch}
    call |= {"feat": torch.randn(5, 4, dtype=dtype), "evidence": torch.randn(5, 6, dtype=dtype), "boxes": boxes}
    return x, edges, call | {"pixel": torch.rand(3, 5, 8, 8, dtype=dtype)}


def part(call, edges, nodes):
    """Edges and call of the nodes of one object alone."""
    kept = (edges[1] >= nodes.start) & (edges[1] < nodes.stop)
    one = {key: call[key][nodes] for key in NODES} | {key: call[key][kept] for key in ("edge_weight", "edge_attr")}
    if len(one["batch"]):
        one["pixel"] = call["pixel"][one["batch"][:1]]
    return edges[:, kept] - nodes.start, one | {"batch": torch.zeros_like(one["batch"])}


def trained(query, dtype=torch.float32, std=0.5):
    """A layer with random weights."""
    conv = resolve_spatial_conv(query).to(dtype)
    x, edges, call = graph(dtype)
    call_spatial_conv(conv, x, edges, **call)  # shapes what is lazy
    for parameter in conv.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return conv
