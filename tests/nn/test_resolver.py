import pytest
import torch
from torch.testing import assert_close
from torch_geometric.nn import GATConv, GCNConv, GraphConv, SAGEConv, SimpleConv, TransformerConv
from torch_geometric.utils import scatter

from stg_pyg.errors import InputError
from stg_pyg.graph.spatial import fully_connected_edge_index
from stg_pyg.nn import ConvAdapter, MaskPropagation, MeanPropagation, resolve_spatial_conv

LAYERS = ["stg", "mean", "GCNConv", "GraphConv", "SimpleConv", "LEConv", "TAGConv"]


def random_call(sizes=(3, 2)):
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    edges = torch.cat([fully_connected_edge_index(n) + o for n, o in zip(sizes, offsets, strict=True)], dim=1)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    attr = torch.rand(edges.size(1), 2)
    return torch.rand(sum(sizes), 1, 4, 3), edges, {"edge_weight": attr.mean(1), "edge_attr": attr, "batch": batch}


@pytest.mark.parametrize("name", LAYERS)
def test_all_layers_are_called_alike(name):
    conv = resolve_spatial_conv(name)
    x, edges, kwargs = random_call()
    out = conv(x, edges, **kwargs)
    assert out.shape == x.shape
    first = edges[1] < 3
    alone = conv(
        x[:3],
        edges[:, first],
        edge_weight=kwargs["edge_weight"][first],
        edge_attr=kwargs["edge_attr"][first],
        batch=kwargs["batch"][:3],
    )
    assert_close(out[:3], alone)
    assert conv(x[:0], edges[:, :0], edge_weight=torch.empty(0), edge_attr=torch.empty(0, 2)).shape == x[:0].shape


def test_own_layers_are_native():
    assert isinstance(resolve_spatial_conv("stg"), MaskPropagation)
    assert isinstance(resolve_spatial_conv("mask_propagation", num_steps=1, backend="fused"), MaskPropagation)
    assert isinstance(resolve_spatial_conv("MaskPropagation"), MaskPropagation)
    assert isinstance(resolve_spatial_conv(MaskPropagation, num_steps=3), MaskPropagation)
    layer = MaskPropagation()
    assert resolve_spatial_conv(layer) is layer
    adapter = resolve_spatial_conv("GCNConv")
    assert resolve_spatial_conv(adapter) is adapter


def test_mean(with_scatter):
    conv = resolve_spatial_conv("mean")
    assert isinstance(conv, MeanPropagation) and str(conv) == "MeanPropagation()"
    x, edges, kwargs = random_call((2, 0, 3))
    out = conv(x, edges, **kwargs)
    assert_close(out[:2], x[:2].mean(0, keepdim=True).expand(2, -1, -1, -1))
    assert_close(out[2:], x[2:].mean(0, keepdim=True).expand(3, -1, -1, -1))
    assert_close(conv(x, edges), x.mean(0, keepdim=True).expand_as(x))


@pytest.mark.parametrize("conv", [GCNConv(1, 1), GraphConv(1, 1), SimpleConv()])
def test_stock_convolution_sees_every_pixel_as_a_channel(conv):
    adapter = resolve_spatial_conv(conv)
    assert isinstance(adapter, ConvAdapter) and adapter.conv is conv
    x, edges, kwargs = random_call()
    out = adapter(x, edges, **kwargs)
    for i in range(4):
        for j in range(3):
            pixel = x[:, :, i, j]
            candidate = (4 * conv(pixel, edges, edge_weight=kwargs["edge_weight"]) - 2).sigmoid()
            assert_close(out[:, :, i, j], 0.9 * pixel + 0.1 * candidate)
    without = adapter(x, edges, **(kwargs | {"edge_weight": torch.ones(edges.size(1))}))
    assert not torch.allclose(out, without)


def test_stock_convolution_trains():
    conv = resolve_spatial_conv("GraphConv")
    x, edges, kwargs = random_call()
    kwargs["edge_weight"].requires_grad_()
    conv(x, edges, **kwargs).sum().backward()
    assert kwargs["edge_weight"].grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in conv.parameters())


def test_trial_leaves_the_layer_alone():
    conv = GCNConv(1, 1, cached=True)
    before = torch.get_rng_state()
    with pytest.raises(InputError, match="kept of an earlier call"):
        resolve_spatial_conv(conv)
    assert conv._cached_edge_index is None and conv.training
    assert torch.equal(before, torch.get_rng_state())
    assert resolve_spatial_conv(GraphConv(1, 1).double()).conv.lin_rel.weight.dtype == torch.float64


class EdgeAttrLayer(torch.nn.Module):
    """Adds the edge attributes that arrive at a node to its pixels; takes batch, but no edge_weight."""

    edge_dim = 2

    def forward(self, x, edge_index, edge_attr, batch=None):
        assert edge_attr.size(1) == 2 and batch is not None
        return x + scatter(edge_attr.sum(1), edge_index[1], dim_size=x.size(1)).view(-1, 1)


def test_edge_attr_and_batch_go_by_keyword():
    x, edges, kwargs = random_call()
    adapter = resolve_spatial_conv(EdgeAttrLayer())
    sums = scatter(kwargs["edge_attr"].sum(1), edges[1], dim_size=5).view(5, 1, 1, 1)
    assert_close(adapter(x, edges, **kwargs), 0.9 * x + 0.1 * (4 * (x + sums) - 2).sigmoid())


class PixelMixer(torch.nn.Module):
    def forward(self, x, edge_index, edge_weight=None):
        return x + x.mean(dim=0, keepdim=True)


@pytest.mark.parametrize(
    "query, kwargs, message",
    [
        ("SAGEConv", {}, "neither edge_weight nor edge_attr"),
        (SAGEConv(1, 1), {}, "neither edge_weight nor edge_attr"),
        ("GCNConv", {"in_channels": 4}, "in_channels is 4"),
        (GCNConv(1, 8), {}, "out_channels is 8"),
        (GCNConv(-1, 1), {}, "in_channels is -1"),
        (GATConv(1, 1, edge_dim=2), {}, "cannot run on node features"),
        (TransformerConv, {}, "cannot run on node features"),
        (PixelMixer(), {}, "mixes the pixels"),
        ("ChebConv", {}, "cannot make ChebConv"),
        ("GCNConv", {"wrong": 1}, "cannot make GCNConv"),
        ("nothing", {}, "unknown spatial layer 'nothing'; known names, the nearest first: "),
        (MaskPropagation(), {"num_steps": 1}, "instance already"),
        (int, {}, "expected a name"),
        (3, {}, "expected a name"),
    ],
)
def test_what_does_not_fit_is_said_at_construction(query, kwargs, message):
    with pytest.raises(InputError, match=message):
        resolve_spatial_conv(query, **kwargs)
