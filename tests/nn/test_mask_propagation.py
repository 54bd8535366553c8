import pytest
import reference
import torch
from torch.testing import assert_close
from torch_geometric.testing import assert_module
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csr_tensor

from stg_pyg.graph.spatial import fully_connected_edge_index
from stg_pyg.nn import MaskPropagation

BACKENDS = ["edgewise", "fused", "closed", "region", "auto"]
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}


def random_input(n, dtype=torch.float64, keep=1.0, shape=(1, 3, 2)):
    edges = fully_connected_edge_index(n)
    edges = edges[:, torch.rand(edges.size(1)) <= keep]
    return torch.rand(n, *shape, dtype=dtype), edges, torch.rand(edges.size(1), dtype=dtype)


def expected_output(x, edges, weight, num_steps):
    weights = reference.dense_weights(edges.numpy(), reference.to_numpy(weight), x.size(0))
    return torch.from_numpy(reference.mask_propagation(reference.to_numpy(x), weights, num_steps)).to(x.dtype)


def union(parts):
    """Disjoint union of (x, edges, weight) with its batch vector."""
    sizes = [len(x) for x, _, _ in parts]
    edges = torch.cat([e + sum(sizes[:i]) for i, (_, e, _) in enumerate(parts)], dim=1)
    batch = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(sizes))
    return torch.cat([x for x, _, _ in parts]), edges, torch.cat([w for _, _, w in parts]), batch


@pytest.mark.parametrize("keep", [1.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 2, 50])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_reference(backend, n, dtype, keep, with_scatter):
    x, edges, weight = random_input(n, dtype, keep)
    for num_steps in (0, 1, 2, 3):
        out = MaskPropagation(num_steps, backend)(x, edges, weight)
        assert out.shape == x.shape and out.dtype == dtype
        assert_close(out, expected_output(x, edges, weight, num_steps), **TOLERANCE[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(), (4,), (1, 2, 3), (0,)])
def test_any_trailing_shape(backend, shape):
    x, edges, weight = random_input(5, shape=shape)
    out = MaskPropagation(backend=backend)(x, edges, weight)
    assert_close(out, expected_output(x, edges, weight, 2))
    assert MaskPropagation(backend=backend)(x[:0], edges[:, :0], weight[:0]).shape == x[:0].shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_direction_is_source_to_target(backend):
    x, edges = torch.tensor([1.0, 0.0]), torch.tensor([[0], [1]])
    out = MaskPropagation(num_steps=1, backend=backend)(x, edges, torch.tensor([3.0]))
    assert_close(out, torch.tensor([1.0, 0.75]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_weights_and_without_edges(backend):
    x, edges, weight = random_input(4)
    conv = MaskPropagation(backend=backend)
    assert_close(conv(x, edges), conv(x, edges, torch.ones_like(weight)))
    assert_close(conv(x, edges[:, :0]), x)
    lonely = edges[:, (edges != 2).all(dim=0)]
    assert_close(conv(x, lonely)[2], x[2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_repeated_edges_add_up(backend):
    x, edges, weight = random_input(4)
    out = MaskPropagation(backend=backend)(x, torch.cat([edges, edges], dim=1), torch.cat([weight, weight]))
    assert_close(out, MaskPropagation(backend=backend)(x, edges, 2 * weight))


@pytest.mark.parametrize("backend", BACKENDS)
def test_module_in_every_form_of_input(backend, with_scatter):
    x, edges, _ = random_input(6, torch.float32, keep=0.6)
    assert_module(MaskPropagation(backend=backend), x, edges, expected_size=x.shape, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("convert", [to_torch_csr_tensor, to_torch_coo_tensor])
def test_sparse_adjacency_with_weights(backend, convert):
    x, edges, weight = random_input(6, keep=0.6)
    adj_t = convert(edges.flip(0), weight, size=(6, 6))
    conv = MaskPropagation(backend=backend)
    assert_close(conv(x, adj_t), expected_output(x, edges, weight, 2))
    assert_close(conv(x.float(), adj_t), expected_output(x, edges, weight, 2).float())
    with pytest.raises(ValueError, match="sparse adjacency"):
        conv(x, adj_t, weight)


@pytest.mark.parametrize("backend", BACKENDS)
def test_permutations_of_edges_and_nodes(backend):
    x, edges, weight = random_input(7, keep=0.7)
    conv = MaskPropagation(backend=backend)
    out = conv(x, edges, weight)
    order = torch.randperm(edges.size(1))
    assert_close(conv(x, edges[:, order], weight[order]), out)
    nodes = torch.randperm(7)
    assert_close(conv(x[nodes], nodes.argsort()[edges], weight), out[nodes])


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sizes", [[4], [3, 3, 3], [1, 5, 2, 5], [2, 0, 3], [0, 0]])
def test_batched_equals_one_by_one(backend, sizes, grad, with_scatter):
    parts = [random_input(n) for n in sizes]
    x, edges, weight, batch = union(parts)
    conv = MaskPropagation(backend=backend)
    expected = torch.cat([conv(*part) for part in parts])
    order = torch.randperm(edges.size(1))
    with torch.set_grad_enabled(grad):
        assert_close(conv(x, edges, weight, batch), expected)
        assert_close(conv(x, edges[:, order], weight[order], batch), expected)
        assert_close(conv(x, edges, weight), expected)


def test_closed_form_needs_a_sorted_batch():
    x, edges, weight = random_input(4)
    with pytest.raises(ValueError, match="sorted"):
        MaskPropagation()(x, edges, weight, torch.tensor([0, 1, 0, 1]))


def test_closed_form_of_many_graphs_stays_small():
    parts = [random_input(n, torch.float32, shape=(2,)) for n in [3, 2] * 100]
    x, edges, weight, batch = union(parts)
    with torch.profiler.profile(profile_memory=True) as profile:
        MaskPropagation(backend="closed")(x, edges, weight, batch)
    assert max(event.self_cpu_memory_usage for event in profile.events()) < x.size(0) ** 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batched", [False, True])
def test_gradients(backend, batched, with_scatter):
    x, edges, weight, batch = union([random_input(n, shape=(2,)) for n in (3, 1, 2)])
    x.requires_grad_(), weight.requires_grad_()
    conv = MaskPropagation(backend=backend)
    assert torch.autograd.gradcheck(lambda h, w: conv(h, edges, w, batch if batched else None), (x, weight))


def test_auto_takes_the_sparse_product_for_large_sparse_graphs():
    conv = MaskPropagation()
    x, edges, _ = random_input(100, torch.float32)
    batch = torch.zeros(100, dtype=torch.long)
    assert conv._choose_backend(x, edges, None) == "closed"
    assert conv._choose_backend(x, edges[:, :300], None) == "fused"
    assert conv._choose_backend(x, edges[:, :300], batch) == "closed"


def test_rejects_bad_arguments():
    with pytest.raises(ValueError, match="num_steps"):
        MaskPropagation(num_steps=-1)
    with pytest.raises(ValueError, match="backend"):
        MaskPropagation(backend="dense")
    with pytest.raises(ValueError, match="floating point"):
        MaskPropagation()(torch.ones(2, 3, dtype=torch.bool), fully_connected_edge_index(2))


@pytest.mark.parametrize("backend", ["edgewise", "closed"])
def test_half_precision_and_autocast_stay_close(backend):
    x, edges, weight = random_input(6, torch.float32)
    expected = MaskPropagation()(x, edges, weight)
    conv = MaskPropagation(backend=backend)
    out = conv(x.bfloat16(), edges, weight)
    assert out.dtype == torch.bfloat16
    assert_close(out.float(), expected, rtol=0.03, atol=0.03)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(conv(x, edges, weight).float(), expected, rtol=0.03, atol=0.03)


def test_repr():
    assert str(MaskPropagation()) == "MaskPropagation(num_steps=2, backend='auto')"
    assert str(MaskPropagation(3, "fused")) == "MaskPropagation(num_steps=3, backend='fused')"
