import pytest
import reference
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch

from stg_pyg.graph.spatial import (
    bounded_weight,
    build_spatial_graph,
    cosine_similarity_matrix,
    edge_weight,
    soft_mask_iou,
)
from stg_pyg.graph.temporal import build_memory_graph


def random_boxes(n, dtype=torch.float32):
    low = torch.rand(n, 2, dtype=dtype) * 20
    return torch.cat([low, low + 1 + torch.rand(n, 2, dtype=dtype) * 20], dim=1)


def random_graph(n, height=4, width=5, features=6, dtype=torch.float32, **kwargs):
    options = {"scores": torch.rand(n), "q": torch.rand(height, width), "p": torch.rand(4)} | kwargs
    masks, feats = torch.rand(n, height, width, dtype=dtype), torch.randn(n, features, dtype=dtype)
    return build_spatial_graph(masks, random_boxes(n, dtype), feats, **options)


def random_memory_graph(r, height=3, width=2, **kwargs):
    return build_memory_graph(
        torch.rand(height, width),
        torch.randn(4, height, width),
        torch.rand(r, height, width),
        torch.randn(r, 4, height, width),
        memory_frame_idx=torch.arange(r),
        **kwargs,
    )


def dense(edge_index, weight, n):
    return torch.from_numpy(reference.dense_weights(edge_index.numpy(), reference.to_numpy(weight), n))


def assert_same_graph(actual, expected):
    assert type(actual) is type(expected)
    assert set(actual.keys()) == set(expected.keys())
    for key in expected.to_dict():
        if isinstance(expected[key], torch.Tensor):
            assert actual[key].dtype == expected[key].dtype
            assert_close(actual[key], expected[key], rtol=0, atol=0)
        else:
            assert actual[key] == expected[key]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("n", [0, 1, 2, 6])
def test_edge_weights_are_equation_3(n, alpha, dtype):
    graph = random_graph(n, dtype=dtype)
    assert graph.x.shape == (n, 1, 4, 5) and graph.edge_attr.shape == (graph.num_edges, 2)
    weight = edge_weight(graph.edge_attr, alpha)
    assert weight.dtype == dtype and weight.shape == (graph.num_edges,)
    expected = reference.weight_matrix(reference.to_numpy(graph.feat), reference.to_numpy(graph.box), alpha)
    assert_close(dense(graph.edge_index, weight, n), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


def test_zero_features_have_cosine_zero_and_finite_gradients():
    feats = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    cosine = cosine_similarity_matrix(feats)
    assert_close(cosine, torch.diag(torch.tensor([0.0, 1.0, 0.0])))
    cosine.sum().backward()
    assert feats.grad.isfinite().all() and feats.grad.abs().max() < 10


def test_the_iou_of_the_masks_takes_the_place_of_that_of_the_boxes():
    masks = torch.zeros(4, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 1:3], masks[2, :2] = True, True, True
    graph = build_spatial_graph(masks, random_boxes(4), torch.randn(4, 3), mask_iou=True)
    assert graph.x.dtype == torch.float32 and graph.edge_attr.shape == (12, 2)
    iou = dense(graph.edge_index, graph.edge_attr[:, 1], 4)
    assert_close(iou[:3, :3], torch.tensor([[0, 1 / 3, 1], [1 / 3, 0, 1 / 3], [1, 1 / 3, 0]], dtype=torch.float64))
    assert iou[3].eq(0).all() and iou[:, 3].eq(0).all()


def test_soft_mask_iou_has_gradients():
    masks = torch.rand(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft_mask_iou, masks)
    empty = torch.zeros(2, 2, 2, requires_grad=True)
    soft_mask_iou(empty).sum().backward()
    assert empty.grad.isfinite().all()


@pytest.mark.parametrize("sizes", [[3], [3, 4], [0, 2], [2, 0], [1, 0, 1], [0, 0], [1]])
def test_spatial_batch_round_trip(sizes):
    graphs = [random_graph(n, obj_id=10 + i, frame_idx=7, mask_iou=True) for i, n in enumerate(sizes)]
    batch = Batch.from_data_list(graphs)
    assert batch.num_graphs == len(sizes) and batch.num_nodes == sum(sizes)
    assert batch.x.shape == (sum(sizes), 1, 4, 5)
    assert batch.q.shape == (len(sizes), 4, 5) and batch.p.shape == (len(sizes), 4)
    assert batch.obj_id.tolist() == [10 + i for i in range(len(sizes))]
    assert batch.frame_idx.tolist() == [7] * len(sizes)
    assert batch.ptr.diff().tolist() == sizes
    assert (batch.batch[batch.edge_index[0]] == batch.batch[batch.edge_index[1]]).all()
    for actual, expected in zip(batch.to_data_list(), graphs, strict=True):
        assert_same_graph(actual, expected)


@pytest.mark.parametrize("sizes", [[2], [3, 1], [0, 2, 0], [0]])
def test_memory_graph_batch_round_trip(sizes, recwarn):
    graphs = [random_memory_graph(r, obj_id=i + 1, frame_idx=20) for i, r in enumerate(sizes)]
    batch = Batch.from_data_list(graphs, follow_batch=["memory_mask"])
    assert batch.mask.shape == (len(sizes), 3, 2) and batch.memory_key.shape == (sum(sizes), 4, 3, 2)
    assert batch.edge_index[0].tolist() == list(range(sum(sizes)))
    assert batch.edge_index[1].tolist() == batch.memory_mask_batch.tolist()
    assert batch.batch.tolist() == list(range(len(sizes)))
    assert batch.obj_id.tolist() == [i + 1 for i in range(len(sizes))]
    assert batch.memory_frame_idx.tolist() == [f for r in sizes for f in range(r)]
    for actual, expected in zip(batch.to_data_list(), graphs, strict=True):
        assert_same_graph(actual, expected)
    assert batch.validate() and all(graph.validate() for graph in graphs)
    assert not [w for w in recwarn if "num_nodes" in str(w.message)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_leave_a_denominator_to_equation_5(dtype):
    target = torch.tensor([0, 0, 0, 1, 1, 2])
    weight = torch.tensor([-0.7, -0.7, 0.1, -0.5, -0.3, -0.9], dtype=dtype, requires_grad=True)
    bounded = bounded_weight(weight, target, 4)
    # Node 0: 1 + 0.1 - 1.4 s = 0.1 for s = 5 / 7. Node 1 has 0.2 as printed, node 2 exactly the bound.
    expected = torch.tensor([-0.5, -0.5, 0.1, -0.5, -0.3, -0.9], dtype=dtype)
    assert_close(bounded, expected)
    assert torch.equal(bounded[3:5], weight[3:5]), "what Eq. 3 prints stays to the last bit"
    bounded.sum().backward()
    assert bool(weight.grad.isfinite().all())
    mixed = torch.tensor([-0.2, 0.0, 0.8])
    assert torch.equal(bounded_weight(mixed, torch.tensor([0, 0, 1]), 2), mixed)


@pytest.mark.parametrize("edges", [[[3], [0]], [[0], [1]], [[-1], [0]], [[0]]])
def test_memory_graph_with_an_edge_to_no_node_is_not_valid(edges):
    graph = random_memory_graph(3)
    graph.edge_index = torch.tensor(edges)
    with pytest.raises(ValueError, match="3 and 1 memory and current nodes"):
        graph.validate()
    with pytest.warns(UserWarning, match="edge_index"):
        assert not graph.validate(raise_on_error=False)
