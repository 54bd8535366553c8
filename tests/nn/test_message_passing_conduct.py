"""How MaskPropagation behaves as a layer of PyTorch Geometric: hooks, explainers, inputs, precision, compilation."""

import pytest
import torch
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.utils import scatter, to_torch_coo_tensor, to_torch_csr_tensor

from stg_pyg.nn import MaskPropagation
from stg_pyg.nn.spatial.mask_propagation import BACKENDS
from stg_pyg.ops.regions import RegionLayout

EDGES = torch.tensor([[0, 1, 2, 3, 4, 1], [1, 2, 0, 4, 3, 0]])
BATCH, SIZES = torch.tensor([0, 0, 0, 1, 1]), [3, 2]
LAYOUT = RegionLayout(tuple(SIZES), ((1, 2, 7, 6), (0, 0, 9, 8)), (1, 8, 9))


@pytest.fixture
def graph():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.rand(5, 1, 8, 9, generator=generator), torch.rand(6, generator=generator)
    x[:3, :, :2], x[:3, :, 6:], x[:3, :, :, 0], x[:3, :, :, 7:] = 0, 0, 0, 0  # nothing outside of the window
    return x, EDGES, weight


@pytest.fixture
def expected(graph):
    return MaskPropagation(backend="closed")(*graph, BATCH)


def as_adjacency(graph, form=to_torch_csr_tensor):
    x, edges, weight = graph
    return x, form(edges.flip(0), weight, size=(5, 5))


@pytest.mark.parametrize("hook", ["message", "aggregate", "propagate", "message_and_aggregate"])
@pytest.mark.parametrize("moment", ["forward_pre_hook", "forward_hook"])
def test_hooks_are_called_once_a_step_and_change_nothing(graph, expected, hook, moment):
    conv, calls = MaskPropagation(num_steps=2), []
    handle = getattr(conv, f"register_{hook}_{moment}")(lambda *arguments: calls.append(arguments))
    assert_close(conv(*graph, BATCH), expected)
    assert len(calls) == 2
    regions = conv.regions(*graph, BATCH, layout=LAYOUT)
    assert_close(regions.to_frame(), expected)
    assert len(calls) == 4 and regions.layout is LAYOUT
    assert_close(conv(*as_adjacency(graph)), expected)
    assert len(calls) == 6
    handle.remove()
    assert torch.equal(conv(*graph, BATCH), expected) and len(calls) == 6


def test_a_hook_can_change_the_messages(graph):
    conv = MaskPropagation(num_steps=1)
    conv.register_message_forward_hook(lambda module, inputs, messages: 0 * messages)
    norm = 1 + torch.zeros(5).index_add(0, EDGES[1], graph[2])
    own = graph[0] / norm.view(-1, 1, 1, 1)
    assert_close(conv(*graph, BATCH), own)
    assert_close(conv.regions(*graph, BATCH).to_frame(), own)


class Halved(MaskPropagation):
    def message(self, x_j, edge_weight):
        return 0.5 * super().message(x_j, edge_weight)


class Largest(MaskPropagation):
    def aggregate(self, inputs, index, ptr=None, dim_size=None):
        return scatter(inputs, index, dim=0, dim_size=dim_size, reduce="max")


class Silent(MaskPropagation):
    def message_and_aggregate(self, adj_t, x):
        return torch.zeros_like(x)


@pytest.mark.parametrize("cls", [Halved, Largest, Silent])
def test_methods_that_a_derived_class_overrides_are_called(graph, cls):
    """One step by hand: (h + m) / (1 + sum of W), with m of half the messages, of the largest one, and of none."""
    x, (source, target), weight = graph
    messages = weight.view(-1, 1, 1, 1) * x[source]
    arrived = {
        Halved: lambda v: 0.5 * messages[target == v].sum(dim=0),
        Largest: lambda v: messages[target == v].amax(dim=0),
        Silent: lambda v: torch.zeros_like(x[v]),
    }[cls]
    rows = [(x[v] + arrived(v)) / (1 + weight[target == v].sum()) for v in range(5)]
    conv = cls(num_steps=1)
    assert_close(conv(*graph, BATCH), torch.stack(rows))
    assert_close(conv.regions(*graph, BATCH, layout=LAYOUT).to_frame(), torch.stack(rows))


def test_an_explainer_finds_the_edge_that_counts():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = MaskPropagation(num_steps=1)

        def forward(self, x, edge_index):
            return self.conv(x, edge_index)

    x, edges = torch.zeros(4, 3), torch.tensor([[1, 2, 3], [0, 0, 0]])
    x[1] = 1.0  # the one node that says anything
    explainer = Explainer(
        Net(),
        GNNExplainer(epochs=60, lr=0.1),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
    )
    mask = explainer(x, edges, index=0).edge_mask
    assert mask.argmax() == 0 and mask[0] > 2 * mask[1:].max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_edge_index(graph, expected, backend):
    x, edges, weight = graph
    order = edges[1].argsort(stable=True)
    indices = EdgeIndex(edges[:, order], sparse_size=(5, 5), sort_order="col")
    assert_close(MaskPropagation(backend=backend)(x, indices, weight[order], BATCH), expected)
    assert_close(MaskPropagation(backend=backend).regions(x, indices, weight[order], BATCH).to_frame(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_sparse_paths(graph, expected, dtype):
    half = graph[0].to(dtype), graph[1], graph[2].to(dtype)
    found = [MaskPropagation(backend="fused")(*half)]
    found += [MaskPropagation()(*as_adjacency(half, form)) for form in (to_torch_csr_tensor, to_torch_coo_tensor)]
    for out in found:
        assert out.dtype == dtype
        assert_close(out.float(), expected, rtol=0, atol=8e-3 if dtype == torch.bfloat16 else 1e-3)


@pytest.mark.parametrize("sizes", [[3, 2], [3, 0, 2]])
def test_sizes_stand_for_the_batch_and_let_the_layer_compile_as_one_graph(graph, expected, sizes):
    conv = MaskPropagation()
    assert torch.equal(conv(*graph, sizes=sizes), expected)
    compiled = torch.compile(conv, fullgraph=True, backend="eager", dynamic=False)
    assert_close(compiled(*graph, BATCH, sizes=sizes), expected)


def test_sizes_of_another_number_of_nodes_are_refused(graph):
    with pytest.raises(ValueError, match="'sizes' add up to 4 and there are 5 nodes"):
        MaskPropagation()(*graph, sizes=[2, 2])
