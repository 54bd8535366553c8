"""Layers whose weights come from evidence on the nodes and at the pixels."""

import pytest
import torch
from torch.testing import assert_close

from stg_pyg.graph.spatial import fully_connected_edge_index
from stg_pyg.model.evidence import PIXEL_EVIDENCE
from stg_pyg.nn import EvidencePropagation, PixelPropagation, resolve_spatial_conv
from stg_pyg.nn.spatial.evidence_propagation import EVIDENCE
from stg_pyg.nn.spatial.pixel_propagation import PIXEL
from stg_pyg.ops.regions import RegionLayout


def call(sizes=(4, 3), side=(20, 24)):
    """Masks, edges and what the layers are given by name."""
    torch.manual_seed(1)
    edges = torch.cat([fully_connected_edge_index(n) + sum(sizes[:k]) for k, n in enumerate(sizes)], dim=1)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    given = {"batch": batch, "evidence": torch.randn(len(batch), EVIDENCE)}
    given |= {"edge_attr": torch.rand(edges.size(1), 2), "pixel": torch.rand(len(sizes), PIXEL + 1, 8, 8)}
    return torch.rand(len(batch), 1, *side), edges, given


def trained(conv):
    for parameter in conv.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return conv


def test_the_maps_are_those_of_the_model():
    assert len(PIXEL_EVIDENCE) == PIXEL


@pytest.mark.parametrize("name", ["none", "GATv2Conv", "SAGEConv", "TransformerConv", "PNAConv", "GINEConv", "GCNConv"])
def test_evidence_is_a_softmax_over_the_nodes(name):
    x, edges, given = call()
    conv = trained(EvidencePropagation(name))
    del given["pixel"]
    s = conv.scores(x, edges, given["edge_attr"], given["evidence"])
    assert s.std() > 1e-3
    expected = [(torch.softmax(s[own], 0)[:, None, None, None] * x[own]).sum(0) for own in (slice(0, 4), slice(4, 7))]
    out = conv(x, edges, **given)
    assert_close(out, torch.stack([expected[k] for k in given["batch"]]))


def test_stock_convolutions_that_take_no_node_features_are_refused():
    with pytest.raises(ValueError, match="GMMConv"):
        EvidencePropagation("GMMConv")
    with pytest.raises(ValueError, match="no NothingConv"):
        EvidencePropagation("NothingConv")


@pytest.mark.parametrize("fully", [True, False])
def test_pixels_follow_equation_5(fully):
    x, edges, given = call()
    conv = trained(PixelPropagation(overrule=False))
    edges = edges if fully else edges[:, ::2]
    s, _ = conv.scores(conv.coarse([x[:4], x[4:]]), edges, given["batch"], given["evidence"], given["pixel"])
    s = torch.nn.functional.interpolate(s, x.shape[-2:], mode="bilinear", align_corners=False)
    expected = torch.empty_like(x)
    for v in range(len(x)):
        neighbours = edges[0][edges[1] == v].tolist()
        weight = {u: torch.exp(s[u] - s[v]) for u in neighbours}
        expected[v] = (x[v] + sum(weight[u] * x[u] for u in neighbours)) / (1 + sum(weight.values()))
    out = conv(x, edges, batch=given["batch"], evidence=given["evidence"], pixel=given["pixel"])
    assert_close(out, expected)
    assert (s.std(dim=(2, 3)) > 1e-3).all()


@pytest.mark.parametrize("name", ["evidence", "pixel"])
def test_numbers_of_nodes_and_graphs_do_not_matter(name):
    x, edges, given = call()
    if name == "evidence":
        del given["pixel"]
    conv = trained(resolve_spatial_conv(name))
    out = conv(x, edges, **given)
    order = torch.cat([torch.randperm(4), 4 + torch.randperm(3)])
    place = torch.argsort(order)
    moved = {**given, "evidence": given["evidence"][order]}
    assert_close(conv(x[order], place[edges], **moved), out[order])
    last = edges[1] >= 4
    alone = {"batch": torch.zeros(3, dtype=torch.long), "evidence": given["evidence"][4:]}
    alone |= {"edge_attr": given["edge_attr"][last]} | ({"pixel": given["pixel"][1:]} if name == "pixel" else {})
    assert_close(conv(x[4:], edges[:, last] - 4, **alone), out[4:])


def test_pixels_in_windows_are_those_of_the_cut_frame():
    x, edges, given = call()
    conv = trained(PixelPropagation())
    frames = torch.zeros(7, 1, 40, 50)
    frames[:4, :, 5:25, 3:27], frames[4:, :, 20:40, 26:50] = x[:4], x[4:]
    layout = RegionLayout((4, 3), ((3, 5, 27, 25), (26, 20, 50, 40)), (1, 40, 50))
    rest = (None, given["evidence"], given["pixel"])
    found = conv.regions(frames, edges, None, given["batch"], layout, *rest)
    expected = conv(x, edges, None, given["batch"], *rest)
    assert_close(torch.cat([part.flatten() for part in found.values]), expected.flatten())
    assert found.to_frame()[:, :, 0].abs().max() == 0


def test_messages_and_evidence_at_the_pixel_matter():
    x, edges, given = call()
    rest = {key: given[key] for key in ("batch", "evidence")}
    for messages in (True, False):
        conv = trained(PixelPropagation(messages=messages))
        out = conv(x, edges, pixel=given["pixel"], **rest)
        assert (out - conv(x, edges, pixel=given["pixel"].flip(1), **rest)).abs().max() > 1e-3
        s = conv.scores(conv.coarse([x]), edges, given["batch"], given["evidence"], None)[0]
        other = conv.scores(conv.coarse([x]), edges[:, :0], given["batch"], given["evidence"], None)[0]
        assert torch.allclose(s, other) != messages


def test_all_proposals_may_be_overruled_and_all_weights_learn():
    x, edges, given = call()
    conv = PixelPropagation()
    torch.nn.init.constant_(conv.out.bias, 8.0)
    assert (conv(0.2 * x, edges, batch=given["batch"]) > 0.9).all()
    conv = trained(PixelPropagation())
    loss = (conv(x, edges, **{key: given[key] for key in ("batch", "evidence", "pixel")}) - 0.7).square().mean()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in conv.parameters())
