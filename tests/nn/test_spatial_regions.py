"""Spatial layers inside the windows of their objects give what they give on whole frames."""

import pytest
import torch
from torch.testing import assert_close

from stg_pyg.graph.spatial import fully_connected_edge_index
from stg_pyg.nn import MaskPropagation, MeanPropagation, call_spatial_conv, resolve_spatial_conv
from stg_pyg.nn.spatial.registry import call_spatial_regions
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.ops.regions import MaskRegions, RegionLayout, graphs_of

HEIGHT, WIDTH = 10, 15
SIZES, WINDOWS = (3, 2), ((2, 1, 7, 5), (9, 0, 14, 10))
LAYOUT = RegionLayout(SIZES, WINDOWS, (1, HEIGHT, WIDTH))
NAMES = ("stg", "attention", "edge_mlp", "symmetric", "gru", "evidence", "pixel", "mean", "GraphConv")


@pytest.fixture
def graph():
    torch.manual_seed(0)
    batch = torch.tensor([0, 0, 0, 2, 2])  # the object in the middle has no proposals
    x = torch.zeros(5, 1, HEIGHT, WIDTH)
    for mask, k in zip(x, (0, 0, 0, 1, 1), strict=True):
        x0, y0, x1, y1 = WINDOWS[k]
        mask[:, y0:y1, x0:x1] = torch.rand(1, y1 - y0, x1 - x0)
    edges = torch.cat([fully_connected_edge_index(3), fully_connected_edge_index(2) + 3], dim=1)
    rest = {"edge_weight": torch.rand(8), "edge_attr": torch.rand(8, 2), "batch": batch, "feat": torch.randn(5, 4)}
    return x, edges, rest


@pytest.mark.parametrize("name", NAMES)
def test_equals_the_whole_frames(name, graph):
    x, edges, rest = graph
    conv = resolve_spatial_conv(name)
    with torch.no_grad():
        expected = call_spatial_conv(conv, x, edges, **rest)
        regions = call_spatial_regions(conv, x, edges, LAYOUT, **rest)
    assert_close(regions.to_frame(), expected)
    assert regions.graphs.tolist() == [0, 2] and regions.batch.tolist() == [0, 0, 0, 2, 2]
    assert torch.equal(regions.boxes(0.3), masks_to_boxes(expected[:, 0], 0.3))


@pytest.mark.parametrize("name", NAMES)
def test_bool_masks(name, graph):
    x, edges, rest = graph
    conv = resolve_spatial_conv(name)
    with torch.no_grad():
        expected = call_spatial_regions(conv, (x > 0.5).float(), edges, LAYOUT, **rest)
        found = call_spatial_regions(conv, x > 0.5, edges, LAYOUT, **rest)
    assert found.flat.dtype == torch.float32
    assert_close(found.to_frame(), expected.to_frame())


@pytest.mark.parametrize(("name", "inside"), [("stg", True), ("mean", True), ("gru", False), ("GraphConv", False)])
def test_who_computes_inside_of_the_windows(name, inside, graph):
    x, edges, rest = graph
    regions = call_spatial_regions(resolve_spatial_conv(name), x, edges, LAYOUT, **rest)
    assert regions.layout == (LAYOUT if inside else RegionLayout.whole(SIZES, HEIGHT, WIDTH))


def test_a_layer_that_overrides_forward_alone_is_not_passed_over(graph):
    class Doubled(MaskPropagation):
        def forward(self, x, edge_index, edge_weight=None, batch=None, edge_attr=None, boxes=None):
            return super().forward(x, edge_index, 2 * edge_weight, batch)

    x, edges, rest = graph
    expected = MaskPropagation(2)(x, edges, 2 * rest["edge_weight"], rest["batch"])
    assert_close(call_spatial_regions(Doubled(2), x, edges, LAYOUT, **rest).to_frame(), expected)


def test_a_backend_that_was_asked_for_is_used(graph):
    x, edges, rest = graph
    calls = []
    conv = MaskPropagation(2, "edgewise")
    conv.register_message_forward_pre_hook(lambda *_: calls.append(1))
    edgewise = call_spatial_regions(conv, x, edges, LAYOUT, **rest)
    assert len(calls) == 2
    assert_close(edgewise.to_frame(), call_spatial_regions(MaskPropagation(2), x, edges, LAYOUT, **rest).to_frame())


@pytest.mark.parametrize("name", ["stg", "attention", "edge_mlp", "mean"])
def test_gradients(name, graph):
    x, edges, rest = graph
    torch.manual_seed(1)
    conv = resolve_spatial_conv(name).double()
    rest = {key: value.double() if value.is_floating_point() else value for key, value in rest.items()}
    with torch.no_grad():
        call_spatial_conv(conv, x.double(), edges, **rest)  # shapes what is lazy
    factor = torch.randn(5, 1, HEIGHT, WIDTH, dtype=torch.float64)
    gradients = []
    for whole in (True, False):
        conv.zero_grad()
        h = x.double().requires_grad_()
        weight = rest["edge_weight"].clone().requires_grad_()
        arguments = rest | {"edge_weight": weight}
        if whole:
            out = call_spatial_conv(conv, h, edges, **arguments)
        else:
            out = call_spatial_regions(conv, h, edges, LAYOUT, **arguments).to_frame()
        (out * factor).sum().backward()
        inside = h.grad * (x != 0)
        gradients.append([inside, weight.grad, *(p.grad for p in conv.parameters())])
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None) and (a is None or torch.allclose(a, b))


def test_crops_are_differentiable():
    x = torch.randn(5, 1, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    graphs = graphs_of(torch.tensor([0, 0, 0, 2, 2]), LAYOUT)
    assert graphs.tolist() == [0, 2]
    torch.autograd.gradcheck(lambda h: MaskRegions.cropped(h, LAYOUT, graphs).flat, x)
    whole = RegionLayout.whole(SIZES, HEIGHT, WIDTH)
    assert MaskRegions.cropped(x, whole, graphs).flat.data_ptr() == x.data_ptr()


def test_no_nodes():
    layout = RegionLayout((), (), (1, HEIGHT, WIDTH))
    empty = torch.zeros(0, dtype=torch.long)
    rest = {"edge_weight": torch.zeros(0), "edge_attr": torch.zeros(0, 2), "batch": empty}
    x = torch.zeros(0, 1, HEIGHT, WIDTH)
    for conv in (MaskPropagation(2), MeanPropagation()):
        regions = call_spatial_regions(conv, x, torch.zeros(2, 0, dtype=torch.long), layout, **rest)
        assert regions.to_frame().shape == x.shape and regions.boxes().shape == (0, 4)
        assert regions.select(empty).shape == x.shape
