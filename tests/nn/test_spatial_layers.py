"""Each spatial layer against its formula or another implementation, and layers by name."""

import re
from pathlib import Path

import pytest
import torch
from spatial_cases import graph, trained
from torch.testing import assert_close
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv, GraphConv, SAGEConv, SimpleConv, TransformerConv
from torch_geometric.utils import scatter

from stg_pyg.errors import InputError
from stg_pyg.model.evidence import PIXEL_EVIDENCE
from stg_pyg.nn import (
    AttentionPropagation,
    ConvAdapter,
    EdgeMLPPropagation,
    EvidencePropagation,
    GRUPropagation,
    MaskPropagation,
    MeanPropagation,
    PixelPropagation,
    SymmetricPropagation,
    call_spatial_conv,
    resolve_spatial_conv,
)
from stg_pyg.nn.spatial.pixel_propagation import PIXEL
from stg_pyg.ops.regions import RegionLayout


def test_symmetric_normalisation_is_that_of_gcn():
    x, edges, call = graph(torch.float64)
    gcn, weight = GCNConv(1, 1, bias=False).double(), call["edge_weight"]
    torch.nn.init.ones_(gcn.lin.weight)
    expected = gcn(gcn(x.view(5, -1, 1).transpose(0, 1), edges, weight), edges, weight)
    assert_close(SymmetricPropagation(2)(x, edges, weight, call["batch"]), expected.transpose(0, 1).reshape(x.shape))
    assert (SymmetricPropagation(2)(x, edges, torch.full_like(weight, -1.0))[:3] == 0).all()


@pytest.mark.parametrize("attention, stock", [("gat", GATConv), ("gatv2", GATv2Conv)])
def test_attention_is_that_of_the_stock_layers(attention, stock):
    x, edges, call = graph(torch.float64)
    conv = AttentionPropagation(4, attention, hidden_channels=4, heads=2).double()
    reference = stock(4, 4, heads=2, add_self_loops=False).double()
    with torch.no_grad():
        if attention == "gat":
            reference.lin.weight.copy_(conv.key.weight)
            reference.att_dst.copy_(conv.score[None, :, :4])
            reference.att_src.copy_(conv.score[None, :, 4:])
        else:
            reference.lin_l.weight.copy_(conv.key.weight)
            reference.lin_l.bias.copy_(conv.key.bias)
            reference.lin_r.weight.copy_(conv.query.weight)
            reference.lin_r.bias.zero_()
            reference.att.copy_(conv.score[None])
    _, (_, alpha) = reference(call["feat"], edges, return_attention_weights=True)
    assert_close(conv.weights(x, edges, feat=call["feat"]), alpha.mean(dim=1))


def test_transformer_attention_by_hand():
    x, edges, call = graph(torch.float64)
    conv = AttentionPropagation(4, "transformer", hidden_channels=4, num_steps=1).double()
    feat = call["feat"][:3]
    attention = (conv.query(feat) @ conv.key(feat).T / 2).fill_diagonal_(-torch.inf).softmax(dim=1)
    expected = (x[:3].flatten(1) + attention @ x[:3].flatten(1)) / 2
    assert_close(call_spatial_conv(conv, x, edges, **call)[:3], expected.view(x[:3].shape))


def test_gated_update_by_hand():
    x, edges, call = graph(torch.float64)
    conv, weight = GRUPropagation(1).double(), call["edge_weight"]
    m = MaskPropagation(1)(x, edges, weight)
    assert_close(conv(x, edges, weight), (x + (8 * m - 4).sigmoid()) / 2)
    with torch.no_grad():
        conv.gates.bias[0] = -1e4
    assert_close(conv(x, edges, weight), x)
    with torch.no_grad():
        conv.gates.bias.copy_(torch.tensor([1e4, -1e4]))
        conv.candidate.weight[0, 0, 1, 1] = 5.0
    assert_close(conv(x, edges, weight), (8 * m - 4).sigmoid())
    assert conv(x[:, 0], edges, weight).shape == x[:, 0].shape


def test_edge_mlp_starts_with_constant_weights():
    x, edges, call = graph()
    out = call_spatial_conv(EdgeMLPPropagation(), x, edges, **call)
    assert_close(out, MaskPropagation()(x, edges, torch.full((8,), 0.5)))


@pytest.mark.parametrize("conv", ["None", "GATv2Conv", "SAGEConv", "TransformerConv", "PNAConv", "GINEConv", "GCNConv"])
def test_evidence_is_a_softmax_over_the_nodes(conv):
    x, edges, call = graph()
    layer = trained(f"evidence:conv={conv}")
    s = layer.scores(x, edges, call["edge_attr"], call["evidence"])
    assert s[:3].std() > 1e-4
    first, last = ((s[own].softmax(0).view(-1, 1, 1, 1) * x[own]).sum(0) for own in (slice(0, 3), slice(3, 5)))
    assert_close(call_spatial_conv(layer, x, edges, **call), torch.stack([first, first, first, last, last]))


def test_evidence_without_messages_by_its_word():
    assert resolve_spatial_conv("evidence:conv=none").conv is None and EvidencePropagation("none").conv is None


@pytest.mark.parametrize("fully", [True, False])
def test_pixels_follow_equation_5(fully):
    x, edges, call = graph()
    conv = trained("pixel:overrule=False")
    edges = edges if fully else edges[:, ::2]
    s, _ = conv.scores(conv.coarse([x[:3], x[3:]]), edges, call["batch"], call["evidence"], call["pixel"])
    s = torch.nn.functional.interpolate(s, x.shape[-2:], mode="bilinear", align_corners=False)
    expected = torch.empty_like(x)
    for v in range(len(x)):
        weight = {u: torch.exp(s[u] - s[v]) for u in edges[0][edges[1] == v].tolist()}
        expected[v] = (x[v] + sum(w * x[u] for u, w in weight.items())) / (1 + sum(weight.values()))
    assert_close(call_spatial_conv(conv, x, edges, **call), expected)
    assert (s.std(dim=(2, 3)) > 1e-3).all() and len(PIXEL_EVIDENCE) == PIXEL


def test_pixels_in_windows_are_those_of_the_cut_frame():
    _, edges, call = graph()
    conv, x = trained("pixel"), torch.rand(5, 1, 20, 24)
    frames, layout = torch.zeros(5, 1, 40, 50), RegionLayout((3, 2), ((3, 5, 27, 25), (26, 20, 50, 40)), (1, 40, 50))
    frames[:3, :, 5:25, 3:27], frames[3:, :, 20:40, 26:50] = x[:3], x[3:]
    rest = {key: call[key] for key in ("evidence", "pixel", "batch")}
    found = conv.regions(frames, edges, None, layout=layout, **rest)
    assert_close(found.flat, conv(x, edges, **rest).flatten())
    assert found.to_frame()[:, :, 0].abs().max() == 0


def test_messages_evidence_at_the_pixel_and_overruling_matter():
    x, edges, call = graph()
    rest = {key: call[key] for key in ("batch", "evidence")}
    for messages in (True, False):
        conv = trained(f"pixel:messages={messages}")
        out = conv(x, edges, pixel=call["pixel"], **rest)
        assert (out - conv(x, edges, pixel=call["pixel"].flip(1), **rest)).abs().max() > 1e-3
        grid = conv.coarse([x[:3], x[3:]])
        s, other = (conv.scores(grid, e, call["batch"], call["evidence"], None)[0] for e in (edges, edges[:, :0]))
        assert torch.allclose(s, other) != messages
    conv = PixelPropagation()
    torch.nn.init.constant_(conv.out.bias, 8.0)
    assert (conv(0.2 * torch.rand(5, 1, 6, 6), edges, batch=call["batch"]) > 0.9).float().mean() > 0.9


def test_mean(with_scatter):
    x, edges, call = graph()
    conv = resolve_spatial_conv("mean")
    means = [x[own].mean(0, keepdim=True).expand_as(x[own]) for own in (slice(0, 3), slice(3, 5))]
    assert_close(call_spatial_conv(conv, x, edges, **call), torch.cat(means))
    assert_close(conv(x, edges), x.mean(0, keepdim=True).expand_as(x))


# Stock layers and names


@pytest.mark.parametrize("conv", [GCNConv(1, 1), GraphConv(1, 1), SimpleConv()])
def test_stock_convolution_sees_every_pixel_as_a_channel(conv):
    adapter, (x, edges, call) = resolve_spatial_conv(conv), graph()
    assert isinstance(adapter, ConvAdapter) and adapter.conv is conv
    x, out = x[:, :, 1:5, 5:12], call_spatial_conv(adapter, x[:, :, 1:5, 5:12], edges, **call)
    for i in range(4):
        for j in range(7):
            candidate = (4 * conv(x[:, :, i, j], edges, edge_weight=call["edge_weight"]) - 2).sigmoid()
            assert_close(out[:, :, i, j], 0.9 * x[:, :, i, j] + 0.1 * candidate)
    without = call_spatial_conv(adapter, x, edges, **(call | {"edge_weight": torch.ones(8)}))
    assert not torch.allclose(out, without)


class EdgeAttrLayer(torch.nn.Module):
    """Adds the edge attributes that arrive at a node to its pixels; takes batch, but no edge_weight."""

    edge_dim = 2

    def forward(self, x, edge_index, edge_attr, batch=None):
        assert edge_attr.size(1) == 2 and batch is not None
        return x + scatter(edge_attr.sum(1), edge_index[1], dim_size=x.size(1)).view(-1, 1)


def test_edge_attr_and_batch_go_by_keyword():
    x, edges, call = graph()
    sums = scatter(call["edge_attr"].sum(1), edges[1], dim_size=5).view(5, 1, 1, 1)
    out = call_spatial_conv(resolve_spatial_conv(EdgeAttrLayer()), x, edges, **call)
    assert_close(out, 0.9 * x + 0.1 * (4 * (x + sums) - 2).sigmoid())


def test_names_classes_and_instances():
    for query in ("stg", "mask_propagation", "MaskPropagation", MaskPropagation):
        assert isinstance(resolve_spatial_conv(query, num_steps=1, backend="fused"), MaskPropagation)
    assert isinstance(resolve_spatial_conv("mean"), MeanPropagation)
    for layer in (MaskPropagation(), resolve_spatial_conv("GCNConv")):
        assert resolve_spatial_conv(layer) is layer
    assert resolve_spatial_conv(GraphConv(1, 1).double()).conv.lin_rel.weight.dtype == torch.float64


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
        (GATConv(1, 1, edge_dim=2), {}, "cannot run on node features"),
        (TransformerConv, {}, "cannot run on node features"),
        (PixelMixer(), {}, "mixes the pixels"),
        ("ChebConv", {}, "cannot make ChebConv"),
        ("GCNConv", {"wrong": 1}, "cannot make GCNConv"),
        ("attention", {"attention": "dot"}, "'attention' must be one of"),
        ("evidence", {"conv": "GMMConv"}, "GMMConv"),
        ("evidence", {"conv": "NothingConv"}, "no NothingConv"),
        ("gru", {"kernel_size": 2}, "'kernel_size' odd"),
        ("nothing", {}, "unknown spatial layer 'nothing'; known names, the nearest first: "),
        (MaskPropagation(), {"num_steps": 1}, "instance already"),
        (int, {}, "expected a name"),
        (3, {}, "expected a name"),
    ],
)
def test_what_does_not_fit_is_said_at_construction(query, kwargs, message):
    with pytest.raises(InputError, match=message):
        resolve_spatial_conv(query, **kwargs)


def test_what_is_missing_is_said():
    x, edges, call = graph()
    for conv, arguments, message in (
        (AttentionPropagation(5), {}, "needs the node features 'feat'"),
        (EdgeMLPPropagation(), {}, "needs 'edge_attr'"),
        (EdgeMLPPropagation(3), {"edge_attr": call["edge_attr"]}, "set 'edge_dim'"),
    ):
        with pytest.raises(ValueError, match=message):
            conv(x, edges, **arguments)
    with pytest.raises(ValueError, match="convolution"):
        GRUPropagation()(x.flatten(1), edges)


def test_the_example_of_the_documentation_runs():
    text = (Path(__file__).parents[2] / "docs" / "layers.md").read_text()
    own, *uses = re.findall(r"```python\n(.*?)```", text.partition("## The temporal layer")[0], flags=re.DOTALL)
    assert own.count("\n") == 15
    for use in uses:
        namespace: dict = {}
        exec(own + use, namespace)
    x, edges, call = graph()
    out = call_spatial_conv(resolve_spatial_conv(namespace["MaxPropagation"]), x, edges, **call)
    assert_close(out[3], torch.maximum(x[3], call["edge_weight"][6] * x[4]))
