import math

import pytest
import torch

from stg_pyg.losses import stg_loss, stg_loss_batched


def example(dtype=torch.float64):
    """Left half and all of 4 x 4 pixels; the truth is the left half, Q the top half and p its box."""
    masks = torch.zeros(2, 4, 4, dtype=dtype)
    masks[0, :, :2] = 1
    masks[1] = 1
    q = torch.zeros(4, 4, dtype=dtype)
    q[:2] = 1
    return {
        "masks": masks,
        "chosen": torch.full((4, 4), 0.75, dtype=dtype),
        "target": masks[0].clone(),
        "p": torch.tensor([0, 0, 4, 2], dtype=dtype),
        "q": q,
    }


def random_graph(seed, nodes, size=(3, 4), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    return {
        "masks": torch.rand(nodes, *size, generator=generator, dtype=dtype),
        "chosen": torch.rand(*size, generator=generator, dtype=dtype),
        "target": (torch.rand(*size, generator=generator, dtype=dtype) > 0.5).to(dtype),
        "p": torch.tensor([0, 1, width - 1, height], dtype=dtype),
        "q": torch.rand(*size, generator=generator, dtype=dtype),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_hand(dtype):
    loss = stg_loss(**example(dtype))
    # Node 0: S = 1 with the truth, 4/12 with (p, Q). Node 1: 1/2 with both.
    distance = 1 - 1 / 3
    sigma = 1 / (1 + math.exp(-0.75))
    bce = -(math.log(sigma) + math.log(1 - sigma)) / 2
    assert loss.total.dtype == dtype
    assert loss.distance.item() == pytest.approx(distance, rel=1e-6)
    assert loss.bce.item() == pytest.approx(bce, rel=1e-6)
    assert loss.total.item() == pytest.approx(100 * distance + bce, rel=1e-6)


def test_options_by_hand():
    total = stg_loss(**example(), gamma=3.0, reading="probability", reduction="sum")
    bce = -8 * (math.log(0.75) + math.log(0.25))
    assert total.bce.item() == pytest.approx(bce, rel=1e-3)
    assert total.total.item() == pytest.approx(3 * (2 / 3) + bce, rel=1e-3)
    # Box term alone, against another true box: node 0 has IoU 1/3 with p and 1 with b.
    loss = stg_loss(**example(), box=torch.tensor([0.0, 0, 4, 4]), lambda1=1.0)
    assert loss.distance.item() == pytest.approx(abs(1 / 2 - 1 / 3) + abs(1 - 1 / 2))


def test_threshold_of_the_boxes():
    graph = example()
    graph["masks"] = graph["masks"] * 0.3
    assert stg_loss(**graph, lambda1=1.0, thr=0.2).distance.item() == pytest.approx(2 / 3)
    assert stg_loss(**graph, lambda1=1.0, thr=0.3).distance.item() == 0


def test_bool_target():
    graph = example()
    expected = stg_loss(**graph)
    graph["target"] = graph["target"].bool()
    for a, b in zip(stg_loss(**graph), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_perfect_guess_leaves_only_the_cross_entropy():
    graph = example() | {"p": torch.tensor([0.0, 0, 2, 4], dtype=torch.float64)}
    graph["q"] = graph["target"]
    loss = stg_loss(**graph)
    assert loss.distance.item() == 0
    assert loss.total.item() == loss.bce.item()


def test_gradient_reaches_every_node_and_the_chosen_mask():
    graph = random_graph(0, 4)
    graph["masks"].requires_grad_()
    graph["chosen"].requires_grad_()
    loss = stg_loss(**graph)
    loss.total.backward()
    assert (graph["masks"].grad.flatten(1).abs().amax(dim=1) > 0).all()
    assert (graph["chosen"].grad != 0).all()


@pytest.mark.parametrize("reading", ["logits", "probability"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradcheck(reading, reduction):
    graph = random_graph(1, 3)
    # Off the threshold, so that the boxes stay the same within the steps of the check.
    masks = (graph.pop("masks") * 0.5 + 0.3).requires_grad_()
    chosen = graph.pop("chosen").mul(0.8).add(0.1).requires_grad_()

    def total(masks, chosen):
        return stg_loss(masks, chosen, **graph, reading=reading, reduction=reduction).total

    assert torch.autograd.gradcheck(total, (masks, chosen))


def test_probability_reading_is_finite_and_has_gradient_where_it_is_wrong():
    chosen = torch.tensor([[0.0, 1.0, 0.0, 1.0]], requires_grad=True)
    target = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    loss = stg_loss(torch.zeros(0, 1, 4), chosen, target, torch.zeros(4), target, reading="probability")
    loss.total.backward()
    assert loss.bce.item() == pytest.approx(-math.log(1e-4) / 2, rel=1e-3)
    assert chosen.grad[0, 0] < -100 and chosen.grad[0, 1] > 100
    assert torch.isfinite(chosen.grad).all()


def test_without_nodes_the_distance_is_zero():
    graph = random_graph(2, 0)
    graph["chosen"].requires_grad_()
    loss = stg_loss(**graph)
    assert loss.distance.item() == 0
    loss.total.backward()
    assert (graph["chosen"].grad != 0).all()


def test_empty_target():
    graph = example()
    graph["target"] = torch.zeros(4, 4, dtype=torch.float64)
    loss = stg_loss(**graph)
    assert loss.distance.item() == pytest.approx(1 / 3 + 1 / 2)


@pytest.mark.parametrize("reading", ["logits", "probability"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("with_boxes", [True, False])
def test_batched_is_the_mean_of_single_graphs(reading, reduction, with_boxes):
    graphs = [random_graph(seed, nodes) for seed, nodes in ((3, 2), (4, 0), (5, 3))]
    if with_boxes:
        for i, graph in enumerate(graphs):
            graph["box"] = torch.tensor([0, 0, i + 1, 2], dtype=torch.float64)
    options = {"gamma": 7.0, "lambda1": 0.3, "thr": 0.4, "reading": reading, "reduction": reduction}
    single = [stg_loss(**graph, **options) for graph in graphs]
    stacked = {name: torch.stack([graph[name] for graph in graphs]) for name in graphs[0] if name != "masks"}
    batched = stg_loss_batched(
        torch.cat([graph["masks"] for graph in graphs]), batch=torch.tensor([0, 0, 2, 2, 2]), **stacked, **options
    )
    for field in ("total", "distance", "bce"):
        expected = torch.stack([getattr(loss, field) for loss in single]).mean()
        torch.testing.assert_close(getattr(batched, field), expected)


def test_autocast_does_not_lower_the_precision():
    graph = random_graph(6, 3, dtype=torch.float32)
    expected = stg_loss(**graph, reading="probability")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = stg_loss(**graph, reading="probability")
    torch.testing.assert_close(loss.total, expected.total)


def test_bad_options():
    with pytest.raises(ValueError, match="reading"):
        stg_loss(**example(), reading="odds")
    with pytest.raises(ValueError, match="reduction"):
        stg_loss(**example(), reduction="none")
    nothing = torch.zeros(0, 4, 4)
    with pytest.raises(ValueError, match="at least one graph"):
        stg_loss_batched(nothing, nothing, nothing, torch.zeros(0, 4), nothing, torch.zeros(0, dtype=torch.long))


def test_masks_outside_of_the_unit_interval_count_as_0_or_1_and_keep_their_gradient():
    graph = random_graph(0, 3)
    graph["chosen"] = graph["chosen"].clone()
    graph["chosen"][0, :2] = torch.tensor([-0.5, 1.5]).to(graph["chosen"])
    inside = graph | {"chosen": graph["chosen"].clamp(0, 1)}
    graph["chosen"].requires_grad_()
    loss = stg_loss(**graph, reading="probability")
    torch.testing.assert_close(loss.bce, stg_loss(**inside, reading="probability").bce)
    loss.total.backward()
    gradient = graph["chosen"].grad[0, :2]
    assert bool(gradient.isfinite().all()) and bool((gradient != 0).all())
