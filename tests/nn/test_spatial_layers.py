import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv

from stg_pyg.errors import InputError
from stg_pyg.graph.spatial import fully_connected_edge_index
from stg_pyg.nn import (
    AttentionPropagation,
    EdgeMLPPropagation,
    GRUPropagation,
    MaskPropagation,
    SymmetricPropagation,
    call_spatial_conv,
    resolve_spatial_conv,
)

NAMES = ["stg", "mean", "attention", "symmetric", "gru", "edge_mlp", "evidence", "pixel"]
WEIGHTED = [SymmetricPropagation, EdgeMLPPropagation, lambda **kw: AttentionPropagation(5, **kw)]


def random_call(sizes=(3, 2), dtype=torch.float32):
    edges = torch.cat([fully_connected_edge_index(n) + sum(sizes[:k]) for k, n in enumerate(sizes)], dim=1)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    attr = torch.rand(edges.size(1), 2, dtype=dtype)
    kwargs = {"edge_weight": attr.mean(1), "edge_attr": attr, "batch": batch}
    kwargs["feat"] = torch.randn(sum(sizes), 5, dtype=dtype)
    return torch.rand(sum(sizes), 1, 6, 5, dtype=dtype), edges, kwargs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_all_layers_are_called_alike(name, dtype):
    conv = resolve_spatial_conv(name).to(dtype)
    x, edges, kwargs = random_call(dtype=dtype)
    out = call_spatial_conv(conv, x, edges, **kwargs)
    assert out.shape == x.shape and out.dtype == dtype
    assert out.min() >= 0 and (name == "symmetric" or out.max() <= 1)
    order = torch.randperm(edges.size(1))
    shuffled = kwargs | {key: kwargs[key][order] for key in ("edge_weight", "edge_attr")}
    assert_close(call_spatial_conv(conv, x, edges[:, order], **shuffled), out)
    first = edges[1] < 3
    alone = {key: kwargs[key][first] for key in ("edge_weight", "edge_attr")}
    alone |= {key: kwargs[key][:3] for key in ("batch", "feat")}
    assert_close(call_spatial_conv(conv, x[:3], edges[:, first], **alone), out[:3])
    none = {key: value[:0] for key, value in kwargs.items()}
    assert call_spatial_conv(conv, x[:0], edges[:, :0], **none).shape == x[:0].shape


@pytest.mark.parametrize("name", ["attention", "gru", "edge_mlp"])
def test_learned_layers_train(name):
    conv = resolve_spatial_conv(name)
    x, edges, kwargs = random_call()
    call_spatial_conv(conv, x, edges, **kwargs)
    torch.manual_seed(0)
    for parameter in conv.parameters():
        torch.nn.init.normal_(parameter)
    loss = (call_spatial_conv(conv, x, edges, **kwargs) - torch.rand_like(x)).square().mean()
    loss.backward()
    gradients = [parameter.grad for parameter in conv.parameters()]
    assert gradients and all(g is not None and g.abs().sum() > 0 for g in gradients)
    conv.reset_parameters()
    assert not torch.isnan(call_spatial_conv(conv, x, edges, **kwargs)).any()


@pytest.mark.parametrize("make", WEIGHTED)
@pytest.mark.parametrize("backend", ["fused", "closed", "region"])
def test_backends_agree(make, backend):
    x, edges, kwargs = random_call(dtype=torch.float64)
    conv = make(num_steps=3, backend="edgewise").double()
    for parameter in conv.parameters():
        torch.nn.init.normal_(parameter)
    other = make(num_steps=3, backend=backend).double()
    other.load_state_dict(conv.state_dict())
    assert_close(call_spatial_conv(other, x, edges, **kwargs), call_spatial_conv(conv, x, edges, **kwargs))


def test_extras_go_only_to_layers_that_name_them():
    class Asks(torch.nn.Module):
        def forward(self, x, edge_index, edge_weight=None, batch=None, edge_attr=None, boxes=None):
            return x + boxes.sum()

    x, edges, kwargs = random_call()
    boxes = torch.ones(5, 4)
    assert_close(call_spatial_conv(Asks(), x, edges, boxes=boxes, **kwargs), x + 20)
    out = call_spatial_conv(resolve_spatial_conv("GCNConv"), x, edges, boxes=boxes, **kwargs)
    assert out.shape == x.shape


def test_symmetric_normalisation_is_that_of_gcn():
    x, edges, kwargs = random_call(dtype=torch.float64)
    gcn = GCNConv(1, 1, bias=False).double()
    torch.nn.init.ones_(gcn.lin.weight)
    expected = gcn(gcn(x.view(5, -1, 1).transpose(0, 1), edges, kwargs["edge_weight"]), edges, kwargs["edge_weight"])
    out = SymmetricPropagation(2)(x, edges, kwargs["edge_weight"], kwargs["batch"])
    assert_close(out, expected.transpose(0, 1).reshape(x.shape))
    negative = torch.full_like(kwargs["edge_weight"], -1.0)
    assert (SymmetricPropagation(2)(x, edges, negative)[:3] == 0).all()


@pytest.mark.parametrize("attention, stock", [("gat", GATConv), ("gatv2", GATv2Conv)])
def test_attention_is_that_of_the_stock_layers(attention, stock):
    _, edges, kwargs = random_call(dtype=torch.float64)
    conv = AttentionPropagation(5, attention, hidden_channels=4, heads=2).double()
    reference = stock(5, 4, heads=2, add_self_loops=False).double()
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
    _, (_, alpha) = reference(kwargs["feat"], edges, return_attention_weights=True)
    assert_close(conv.weights(kwargs["feat"], edges), alpha.mean(dim=1))


def test_transformer_attention_by_hand():
    x, edges, kwargs = random_call((3,), torch.float64)
    conv = AttentionPropagation(5, "transformer", hidden_channels=4, num_steps=1).double()
    scores = (conv.query(kwargs["feat"]) @ conv.key(kwargs["feat"]).T / 2).fill_diagonal_(-torch.inf)
    attention = scores.softmax(dim=1)
    assert_close(conv.weights(kwargs["feat"], edges), attention[edges[1], edges[0]])
    expected = (x.flatten(1) + attention @ x.flatten(1)) / 2
    assert_close(call_spatial_conv(conv, x, edges, **kwargs), expected.view(x.shape))


def test_gated_update_by_hand():
    x, edges, kwargs = random_call((3,), torch.float64)
    conv = GRUPropagation(1).double()
    m = MaskPropagation(1)(x, edges, kwargs["edge_weight"])
    out = conv(x, edges, kwargs["edge_weight"])
    assert_close(out, (x + (8 * m - 4).sigmoid()) / 2)
    with torch.no_grad():
        conv.gates.bias[0] = -1e4
    assert_close(conv(x, edges, kwargs["edge_weight"]), x)
    with torch.no_grad():
        conv.gates.bias.copy_(torch.tensor([1e4, -1e4]))
        conv.candidate.weight[0, 0, 1, 1] = 5.0
    assert_close(conv(x, edges, kwargs["edge_weight"]), (8 * m - 4).sigmoid())
    assert conv(x[:, 0], edges, kwargs["edge_weight"]).shape == x[:, 0].shape


def test_edge_mlp_starts_with_constant_weights():
    x, edges, kwargs = random_call()
    out = call_spatial_conv(EdgeMLPPropagation(), x, edges, **kwargs)
    assert_close(out, MaskPropagation()(x, edges, torch.full((edges.size(1),), 0.5)))


def test_what_is_missing_is_said():
    x, edges, kwargs = random_call()
    with pytest.raises(ValueError, match="needs the node features 'feat'"):
        AttentionPropagation(5)(x, edges)
    with pytest.raises(ValueError, match="needs 'edge_attr'"):
        EdgeMLPPropagation()(x, edges)
    with pytest.raises(ValueError, match="set 'edge_dim'"):
        EdgeMLPPropagation(3)(x, edges, edge_attr=kwargs["edge_attr"])
    with pytest.raises(ValueError, match="convolution"):
        GRUPropagation()(x.flatten(1), edges)
    with pytest.raises(ValueError, match="'kernel_size' odd"):
        GRUPropagation(kernel_size=2)
    with pytest.raises(InputError, match="'attention' must be one of"):
        resolve_spatial_conv("attention", attention="dot")


@pytest.mark.parametrize(
    "conv, text",
    [
        (SymmetricPropagation(), "SymmetricPropagation(num_steps=2, backend='auto')"),
        (EdgeMLPPropagation(3), "EdgeMLPPropagation(3, 16, num_steps=2, backend='auto')"),
        (AttentionPropagation(5), "AttentionPropagation('gatv2', heads=1, num_steps=2, backend='auto')"),
        (GRUPropagation(1), "GRUPropagation(num_steps=1, kernel_size=3, backend='auto')"),
    ],
)
def test_repr(conv, text):
    assert str(conv) == text


def test_the_example_of_the_documentation_runs():
    text = (Path(__file__).parents[2] / "docs" / "layers.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text.partition("## The temporal layer")[0], flags=re.DOTALL)
    own = blocks[0]
    assert own.count("\n") == 15
    for block in blocks:
        namespace: dict = {}
        exec(own + (block if block != own else ""), namespace)
    conv = resolve_spatial_conv(namespace["MaxPropagation"])
    x, edges, kwargs = random_call()
    out = call_spatial_conv(conv, x, edges, **kwargs)
    assert_close(out[3], torch.maximum(x[3], (kwargs["edge_weight"][6].view(1, 1, 1)) * x[4]))
