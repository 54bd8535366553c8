import math

import pytest
import torch

from stg_pyg.model.losses import stg_loss, stg_loss_batched


def example(dtype=torch.float64, **changes):
    """Left half and all of 4 x 4 pixels; the truth is the left half, Q the top half and p its box."""
    masks = torch.zeros(2, 4, 4, dtype=dtype)
    masks[0, :, :2] = 1
    masks[1] = 1
    q = torch.zeros(4, 4, dtype=dtype)
    q[:2] = 1
    chosen, p = torch.full((4, 4), 0.75, dtype=dtype), torch.tensor([0, 0, 4, 2], dtype=dtype)
    return {"masks": masks, "chosen": chosen, "target": masks[0].clone(), "p": p, "q": q, **changes}


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


SIGMA = 1 / (1 + math.exp(-0.75))
ODDS, LOGITS = -(math.log(0.75) + math.log(0.25)) / 2, -(math.log(SIGMA) + math.log(1 - SIGMA)) / 2
TRUTH = example()["target"]
BOX = torch.tensor([0.0, 0, 4, 4])


@pytest.mark.parametrize(
    ("changes", "options", "distance", "bce"),
    [
        # Node 0: S = 1 with the truth, 4/12 with (p, Q). Node 1: 1/2 with both.
        ({}, {}, 2 / 3, LOGITS),
        ({"target": TRUTH.bool()}, {}, 2 / 3, LOGITS),
        ({}, {"gamma": 3.0, "reading": "probability", "reduction": "sum"}, 2 / 3, 16 * ODDS),
        # Box term alone, against another true box: node 0 has IoU 1/3 with p and 1 with b.
        ({}, {"box": BOX, "lambda1": 1.0}, abs(1 / 2 - 1 / 3) + abs(1 - 1 / 2), LOGITS),
        # The boxes are those of pixels above the threshold.
        ({"masks": 0.3 * example()["masks"]}, {"lambda1": 1.0, "thr": 0.2}, 2 / 3, LOGITS),
        ({"masks": 0.3 * example()["masks"]}, {"lambda1": 1.0, "thr": 0.3}, 0, LOGITS),
        # A perfect guess leaves only the cross-entropy.
        ({"p": torch.tensor([0.0, 0, 2, 4]), "q": TRUTH}, {}, 0, LOGITS),
        ({"target": 0 * TRUTH}, {}, 1 / 3 + 1 / 2, -math.log(1 - SIGMA)),
        ({"masks": torch.zeros(0, 4, 4)}, {}, 0, LOGITS),
    ],
)
def test_by_hand(changes, options, distance, bce):
    for dtype in (torch.float32, torch.float64):
        graph = {k: v.to(dtype) if v.dtype != torch.bool else v for k, v in example(**changes).items()}
        loss = stg_loss(**graph, **options)
        assert loss.total.dtype == dtype
        assert loss.distance.item() == pytest.approx(distance, rel=1e-5)
        assert loss.bce.item() == pytest.approx(bce, rel=1e-3 if "reading" in options else 1e-5)
        assert loss.total.item() == pytest.approx(options.get("gamma", 100) * distance + bce, rel=1e-3)


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
    masks, batch = torch.cat([graph["masks"] for graph in graphs]), torch.tensor([0, 0, 2, 2, 2])
    batched = stg_loss_batched(masks, batch=batch, **stacked, **options)
    for field in ("total", "distance", "bce"):
        expected = torch.stack([getattr(loss, field) for loss in single]).mean()
        torch.testing.assert_close(getattr(batched, field), expected)


def test_bad_options():
    for options, message in (({"reading": "odds"}, "reading"), ({"reduction": "none"}, "reduction")):
        with pytest.raises(ValueError, match=message):
            stg_loss(**example(), **options)
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
