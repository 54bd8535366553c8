"""MaskPropagation under every backend against the paper's equations, and as a layer of PyTorch Geometric."""

import pytest
import reference
import torch
from spatial_cases import LAYOUT, TOLERANCE, graph
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.testing import assert_module
from torch_geometric.utils import scatter, to_torch_coo_tensor, to_torch_csr_tensor

from stg_pyg.graph.spatial import fully_connected_edge_index
from stg_pyg.nn import MaskPropagation

BACKENDS = ["edgewise", "fused", "closed", "region", "auto"]


def random_input(n, dtype=torch.float64, keep=1.0, shape=(1, 3, 2)):
    edges = fully_connected_edge_index(n)
    edges = edges[:, torch.rand(edges.size(1)) <= keep]
    return torch.rand(n, *shape, dtype=dtype), edges, torch.rand(edges.size(1), dtype=dtype)


def expected_output(x, edges, weight, num_steps=2):
    weights = reference.dense_weights(edges.numpy(), reference.to_numpy(weight), x.size(0))
    return torch.from_numpy(reference.mask_propagation(reference.to_numpy(x), weights, num_steps)).to(x.dtype)


def union(parts):
    """Disjoint union of (x, edges, weight) with its batch vector."""
    sizes = [len(x) for x, _, _ in parts]
    edges = torch.cat([e + sum(sizes[:i]) for i, (_, e, _) in enumerate(parts)], dim=1)
    batch = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(sizes))
    return torch.cat([x for x, _, _ in parts]), edges, torch.cat([w for _, _, w in parts]), batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "keep"), [(0, 1.0), (1, 1.0), (2, 1.0), (20, 1.0), (20, 0.4)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_reference(backend, n, keep, dtype, with_scatter):
    for num_steps, shape in ((0, (2,)), (1, ()), (2, (1, 3, 2)), (3, (0,))):
        x, edges, weight = random_input(n, dtype, keep, shape)
        out = MaskPropagation(num_steps, backend)(x, edges, weight)
        assert out.shape == x.shape and out.dtype == dtype
        assert_close(out, expected_output(x, edges, weight, num_steps), **TOLERANCE[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
def test_edges_have_a_direction_add_up_and_may_be_missing(backend):
    conv = MaskPropagation(1, backend)
    out = conv(torch.tensor([1.0, 0.0]), torch.tensor([[0], [1]]), torch.tensor([3.0]))
    assert_close(out, torch.tensor([1.0, 0.75]))
    x, edges, weight = random_input(4)
    twice = conv(x, torch.cat([edges, edges], dim=1), torch.cat([weight, weight]))
    assert_close(twice, conv(x, edges, 2 * weight))
    assert_close(conv(x, edges), conv(x, edges, torch.ones_like(weight)))
    assert_close(conv(x, edges[:, :0]), x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("convert", [to_torch_csr_tensor, to_torch_coo_tensor])
def test_sparse_adjacency_with_weights(backend, convert):
    x, edges, weight = random_input(6, keep=0.6)
    adj_t, conv = convert(edges.flip(0), weight, size=(6, 6)), MaskPropagation(backend=backend)
    assert_close(conv(x, adj_t), expected_output(x, edges, weight))
    assert_close(conv(x.float(), adj_t), expected_output(x, edges, weight).float())
    with pytest.raises(ValueError, match="sparse adjacency"):
        conv(x, adj_t, weight)
    assert_module(conv, x.float(), edges, expected_size=x.shape, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [[3, 3, 3], [1, 5, 2, 5], [2, 0, 3], [0, 0]])
def test_batched_equals_one_by_one(backend, sizes, with_scatter):
    parts = [random_input(n) for n in sizes]
    x, edges, weight, batch = union(parts)
    conv, order = MaskPropagation(backend=backend), torch.randperm(edges.size(1))
    expected = torch.cat([conv(*part) for part in parts])
    for arguments in ((batch,), (), (None, None, None, sizes) if backend != "region" else (batch,)):
        assert_close(conv(x, edges[:, order], weight[order], *arguments), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batched", [False, True])
def test_gradients(backend, batched, with_scatter):
    x, edges, weight, batch = union([random_input(n, shape=(2,)) for n in (3, 1, 2)])
    x.requires_grad_(), weight.requires_grad_()
    conv = MaskPropagation(backend=backend)
    assert torch.autograd.gradcheck(lambda h, w: conv(h, edges, w, batch if batched else None), (x, weight))


def test_closed_form_of_many_graphs_stays_small():
    x, edges, weight, batch = union([random_input(n, torch.float32, shape=(2,)) for n in [3, 2] * 100])
    with torch.profiler.profile(profile_memory=True) as profile:
        MaskPropagation(backend="closed")(x, edges, weight, batch)
    assert max(event.self_cpu_memory_usage for event in profile.events()) < x.size(0) ** 2


def test_auto_takes_the_sparse_product_for_large_sparse_graphs():
    conv, (x, edges, _) = MaskPropagation(), random_input(100, torch.float32)
    batch = torch.zeros(100, dtype=torch.long)
    assert conv._choose_backend(x, edges, None) == "closed"
    assert conv._choose_backend(x, edges[:, :300], None) == "fused"
    assert conv._choose_backend(x, edges[:, :300], batch) == "closed"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_and_autocast_stay_close(backend, dtype):
    x, edges, weight = random_input(6, torch.float32)
    expected, conv = MaskPropagation()(x, edges, weight), MaskPropagation(backend=backend)
    found = [conv(x.to(dtype), edges, weight)]
    for convert in (to_torch_csr_tensor, to_torch_coo_tensor):
        found.append(conv(x.to(dtype), convert(edges.flip(0), weight.to(dtype), size=(6, 6))))
    for out in found:
        assert out.dtype == dtype
        assert_close(out.float(), expected, rtol=0.03, atol=0.03)
    if backend != "fused":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_close(conv(x, edges, weight).float(), expected, rtol=0.03, atol=0.03)


def test_rejects_bad_arguments():
    x, edges, weight = random_input(4)
    for options, message in (({"num_steps": -1}, "num_steps"), ({"backend": "dense"}, "backend")):
        with pytest.raises(ValueError, match=message):
            MaskPropagation(**options)
    with pytest.raises(ValueError, match="floating point"):
        MaskPropagation()(x > 0.5, edges)
    with pytest.raises(ValueError, match="sorted"):
        MaskPropagation()(x, edges, weight, torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="'sizes' add up to 3 and there are 4 nodes"):
        MaskPropagation()(x, edges, weight, sizes=[2, 1])
    with pytest.raises(TypeError, match="feat"):
        MaskPropagation()(x, edges, weight, feat=x)


# As a layer of PyTorch Geometric


@pytest.fixture
def frame():
    x, edges, call = graph()
    return x, edges, call["edge_weight"]


@pytest.fixture
def batch():
    return torch.tensor([0, 0, 0, 2, 2])


@pytest.mark.parametrize("hook", ["message", "aggregate", "propagate", "message_and_aggregate"])
@pytest.mark.parametrize("moment", ["forward_pre_hook", "forward_hook"])
def test_hooks_are_called_once_a_step_and_change_nothing(frame, batch, hook, moment):
    conv, calls = MaskPropagation(num_steps=2), []
    expected = MaskPropagation(backend="closed")(*frame, batch)
    handle = getattr(conv, f"register_{hook}_{moment}")(lambda *arguments: calls.append(arguments))
    assert_close(conv(*frame, batch), expected)
    assert len(calls) == 2
    regions = conv.regions(*frame, batch, layout=LAYOUT)
    assert_close(regions.to_frame(), expected)
    assert len(calls) == 4 and regions.layout is LAYOUT
    x, edges, weight = frame
    assert_close(conv(x, to_torch_csr_tensor(edges.flip(0), weight, size=(5, 5))), expected)
    assert len(calls) == 6
    handle.remove()
    assert torch.equal(conv(*frame, batch), expected) and len(calls) == 6


def test_hooks_of_both_ways_and_hooks_that_change_messages(frame, batch):
    conv, calls = MaskPropagation(num_steps=1), []
    conv.register_propagate_forward_hook(lambda *_: calls.append(0))
    conv.register_message_and_aggregate_forward_hook(lambda *_: calls.append(1))
    conv(*frame, batch)
    assert sorted(calls) == [0, 1]
    conv = MaskPropagation(num_steps=1)
    conv.register_message_forward_hook(lambda module, inputs, messages: 0 * messages)
    own = frame[0] / (1 + torch.zeros(5).index_add(0, frame[1][1], frame[2])).view(-1, 1, 1, 1)
    assert_close(conv(*frame, batch), own)
    assert_close(conv.regions(*frame, batch).to_frame(), own)


class Halved(MaskPropagation):
    def message(self, x_j, edge_weight):
        return 0.5 * super().message(x_j, edge_weight)


class Largest(MaskPropagation):
    def aggregate(self, inputs, index, ptr=None, dim_size=None):
        return scatter(inputs, index, dim=0, dim_size=dim_size, reduce="max")


class Silent(MaskPropagation):
    def message_and_aggregate(self, adj_t, x):
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    ("cls", "arrived"),
    [(Halved, lambda m: 0.5 * m.sum(dim=0)), (Largest, lambda m: m.amax(dim=0)), (Silent, lambda m: 0 * m[0])],
)
def test_methods_that_a_derived_class_overrides_are_called(frame, batch, cls, arrived):
    """One step by hand: (h + m) / (1 + sum of W), with m of half the messages, of the largest one, and of none."""
    x, (source, target), weight = frame
    messages = weight.view(-1, 1, 1, 1) * x[source]
    rows = [(x[v] + arrived(messages[target == v])) / (1 + weight[target == v].sum()) for v in range(5)]
    conv = cls(num_steps=1)
    assert_close(conv(*frame, batch), torch.stack(rows))
    assert_close(conv.regions(*frame, batch, layout=LAYOUT).to_frame(), torch.stack(rows))


def test_an_explainer_finds_the_edge_that_counts():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = MaskPropagation(num_steps=1)

        def forward(self, x, edge_index):
            return self.conv(x, edge_index)

    x, edges = torch.zeros(4, 3), torch.tensor([[1, 2, 3], [0, 0, 0]])
    x[1] = 1.0  # the one node that says anything
    model_config = {"mode": "regression", "task_level": "node", "return_type": "raw"}
    options = {"explanation_type": "model", "edge_mask_type": "object", "model_config": model_config}
    mask = Explainer(Net(), GNNExplainer(epochs=60, lr=0.1), **options)(x, edges, index=0).edge_mask
    assert mask.argmax() == 0 and mask[0] > 2 * mask[1:].max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_edge_index(frame, batch, backend):
    (x, edges, weight), conv = frame, MaskPropagation(backend=backend)
    order, expected = edges[1].argsort(stable=True), MaskPropagation()(*frame, batch)
    indices = EdgeIndex(edges[:, order], sparse_size=(5, 5), sort_order="col")
    assert_close(conv(x, indices, weight[order], batch), expected)
    assert_close(conv.regions(x, indices, weight[order], batch).to_frame(), expected)


@pytest.mark.parametrize("sizes", [[3, 2], [3, 0, 2]])
def test_sizes_stand_for_the_batch_and_let_the_layer_compile_as_one_graph(frame, batch, sizes):
    conv = MaskPropagation()
    expected = conv(*frame, batch)
    assert torch.equal(conv(*frame, sizes=sizes), expected)
    compiled = torch.compile(conv, fullgraph=True, backend="eager", dynamic=False)
    assert_close(compiled(*frame, batch, sizes=sizes), expected)


def test_repr():
    assert str(MaskPropagation()) == "MaskPropagation(num_steps=2, backend='auto')"
    assert str(MaskPropagation(3, "fused")) == "MaskPropagation(num_steps=3, backend='fused')"
