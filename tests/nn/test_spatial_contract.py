"""What every spatial layer does, whole frames and windows alike."""

import pytest
import torch
from spatial_cases import HEIGHT, LAYOUT, NODES, SIZES, WIDTH, graph, part, trained
from torch.testing import assert_close

from stg_pyg.nn import MaskPropagation, MeanPropagation, call_spatial_conv, resolve_spatial_conv
from stg_pyg.nn.made import arguments_of, format_layer
from stg_pyg.nn.spatial.registry import LAYERS, call_spatial_regions
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.ops.regions import MaskRegions, RegionLayout, graphs_of

OWN = ["stg", "mean", "attention", "symmetric", "gru", "edge_mlp", "evidence", "pixel"]
BACKENDS = [f"{name}:backend={b}" for name in ("stg", "evidence") for b in ("edgewise", "fused", "closed", "region")]
KINDS = ["attention:attention=gat,heads=2", "attention:attention=transformer", "pixel:messages=False,overrule=False"]
STOCK = ["GCNConv", "GraphConv", "SimpleConv", "LEConv", "TAGConv"]
EVERY = [*OWN, *BACKENDS, *KINDS, *STOCK]
LINEAR = ["stg", "attention", "symmetric", "edge_mlp", "evidence"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EVERY)
def test_objects_edges_and_proposals_in_any_order(name, dtype):
    conv, (x, edges, call) = trained(name, dtype), graph(dtype)
    out = call_spatial_conv(conv, x, edges, **call)
    assert out.shape == x.shape and out.dtype == dtype
    assert out.min() >= 0 and (name == "symmetric" or out.max() <= 1 + 1e-6)
    order = torch.randperm(8)
    shuffled = call | {key: call[key][order] for key in ("edge_weight", "edge_attr")}
    assert_close(call_spatial_conv(conv, x, edges[:, order], **shuffled), out)
    order = torch.tensor([2, 0, 1, 4, 3])
    turned = call | {key: call[key][order] for key in NODES}
    assert_close(call_spatial_conv(conv, x[order], order.argsort()[edges], **turned), out[order])
    for nodes in (slice(0, 3), slice(3, 5)):
        own, one = part(call, edges, nodes)
        assert_close(call_spatial_conv(conv, x[nodes], own, **one), out[nodes])
    own, one = part(call, edges, slice(0, 0))
    assert call_spatial_conv(conv, x[:0], own, **one).shape == x[:0].shape
    lonely = part(call, edges, slice(0, 1))[1]
    lonely |= {key: lonely[key][:0] for key in ("edge_weight", "edge_attr")}
    alone = call_spatial_conv(conv, x[:1], edges[:, :0], **lonely)
    assert alone.isfinite().all() and (name.split(":")[0] not in LINEAR or torch.allclose(alone, x[:1]))


@pytest.mark.parametrize("name", EVERY)
def test_windows_equal_whole_frames(name):
    x, edges, call = graph()
    conv = resolve_spatial_conv(name) if name.startswith("pixel") else trained(name)  # whose grid is that of its window
    for masks in (x, x > 0.5):
        with torch.no_grad():
            expected = call_spatial_conv(conv, masks.float(), edges, **call)
            regions = call_spatial_regions(conv, masks, edges, LAYOUT, **call)
        assert regions.flat.dtype == torch.float32
        assert_close(regions.to_frame(), expected)
        assert regions.graphs.tolist() == [0, 2] and regions.batch.tolist() == [0, 0, 0, 2, 2]
        assert torch.equal(regions.boxes(0.3), masks_to_boxes(expected[:, 0], 0.3))


@pytest.mark.parametrize("name", EVERY)
def test_gradients(name):
    x, edges, call = graph(torch.float64)
    conv, weight = trained(name, torch.float64), call.pop("edge_weight").requires_grad_()

    def whole(h, w):
        return call_spatial_conv(conv, h * (x > 0), edges, edge_weight=w, **call)

    def windows(h, w):
        return call_spatial_regions(conv, h * (x > 0), edges, LAYOUT, edge_weight=w, **call).flat

    for function in (whole, windows):
        leaf = x.clone().requires_grad_()
        assert torch.autograd.gradcheck(function, (leaf, weight), fast_mode=True, check_undefined_grad=False)
        conv.zero_grad()
        (function(leaf, weight) - 0.7).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in conv.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_a_layer_is_made_again_from_its_text_and_weights(name):
    conv, (x, edges, call) = trained(name), graph()
    inner = getattr(conv, "conv", conv) if name in STOCK else conv
    again = resolve_spatial_conv(format_layer(LAYERS.name_of(type(inner)), arguments_of(inner)))
    call_spatial_conv(again, x, edges, **call)
    again.load_state_dict(conv.state_dict())
    assert type(again) is type(conv) and str(again) == str(conv)
    assert torch.equal(call_spatial_conv(again, x, edges, **call), call_spatial_conv(conv, x, edges, **call))
    if list(conv.parameters()):
        again.reset_parameters()
        assert all(value.isfinite().all() for value in again.state_dict().values())
        assert not torch.equal(call_spatial_conv(again, x, edges, **call), call_spatial_conv(conv, x, edges, **call))


@pytest.mark.parametrize(("name", "inside"), [("stg", True), ("mean", True), ("gru", False), ("GraphConv", False)])
def test_who_computes_inside_of_the_windows(name, inside):
    x, edges, call = graph()
    regions = call_spatial_regions(resolve_spatial_conv(name), x, edges, LAYOUT, **call)
    assert regions.layout == (LAYOUT if inside else RegionLayout.whole(SIZES, HEIGHT, WIDTH))


def test_a_layer_that_overrides_forward_alone_is_not_passed_over():
    class Doubled(MaskPropagation):
        def forward(self, x, edge_index, edge_weight=None, batch=None, edge_attr=None, boxes=None):
            return super().forward(x, edge_index, 2 * edge_weight, batch)

    x, edges, call = graph()
    expected = MaskPropagation(2)(x, edges, 2 * call["edge_weight"], call["batch"])
    assert_close(call_spatial_regions(Doubled(2), x, edges, LAYOUT, **call).to_frame(), expected)


def test_extras_go_only_to_layers_that_name_them():
    class Asks(torch.nn.Module):
        def forward(self, x, edge_index, edge_weight=None, batch=None, edge_attr=None, boxes=None):
            return x + boxes.sum()

    class Weighs(MaskPropagation):
        def weights(self, x, edge_index, edge_weight=None, edge_attr=None, feat=None):
            return feat[edge_index[0], 0].abs()

    x, edges, call = graph()
    assert_close(call_spatial_conv(Asks(), x, edges, **call), x + call["boxes"].sum())
    expected = MaskPropagation()(x, edges, call["feat"][edges[0], 0].abs(), call["batch"])
    assert_close(call_spatial_conv(Weighs(), x, edges, **call), expected)
    assert_close(call_spatial_regions(Weighs(), x, edges, LAYOUT, **call).to_frame(), expected)


def test_no_nodes_and_differentiable_crops():
    layout, empty, x = RegionLayout((), (), (1, HEIGHT, WIDTH)), torch.zeros(0, dtype=torch.long), graph()[0]
    rest = {"edge_weight": torch.zeros(0), "edge_attr": torch.zeros(0, 2), "batch": empty}
    for conv in (MaskPropagation(2), MeanPropagation()):
        regions = call_spatial_regions(conv, x[:0], torch.zeros(2, 0, dtype=torch.long), layout, **rest)
        assert regions.to_frame().shape == x[:0].shape and regions.boxes().shape == (0, 4)
        assert regions.select(empty).shape == x[:0].shape
    x, graphs = x.double().requires_grad_(), graphs_of(torch.tensor([0, 0, 0, 2, 2]), LAYOUT)
    assert graphs.tolist() == [0, 2]
    torch.autograd.gradcheck(lambda h: MaskRegions.cropped(h, LAYOUT, graphs).flat, x)
    whole = RegionLayout.whole(SIZES, HEIGHT, WIDTH)
    assert MaskRegions.cropped(x, whole, graphs).flat.data_ptr() == x.data_ptr()
