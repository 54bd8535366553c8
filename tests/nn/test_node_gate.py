import pytest
import torch
from torch import nn
from torch.testing import assert_close

from stg_pyg.nn.node_gate import NodeGate


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_untrained_gate_is_the_score(dtype):
    gate = NodeGate().to(dtype)
    score = torch.tensor([0.01, 0.2, 0.5, 0.77, 0.99], dtype=dtype)
    out = gate(torch.randn(5, 5, dtype=dtype), score)
    assert out.dtype == dtype
    assert_close(out, score)


def test_certain_scores_stay_finite_and_trainable():
    gate = NodeGate()
    out = gate(torch.zeros(2, 5), torch.tensor([0.0, 1.0]))
    assert_close(out, torch.tensor([0.0, 1.0]), atol=0.01, rtol=0)
    assert bool(((out > 0) & (out < 1)).all())
    out.sum().backward()
    assert bool(gate.layers[-1].bias.grad.isfinite().all()) and float(gate.layers[-1].bias.grad.abs()) > 0


def test_no_nodes():
    assert NodeGate()(torch.zeros(0, 5), torch.zeros(0)).shape == (0,)


def test_gradients_reach_weights_score_and_evidence():
    gate = NodeGate()
    evidence, score = torch.randn(6, 5, requires_grad=True), torch.full((6,), 0.4, requires_grad=True)
    gate(evidence, score).sum().backward()
    assert float(gate.layers[-1].weight.grad.abs().sum()) > 0
    assert bool((score.grad > 0).all())
    nn.init.normal_(gate.layers[-1].weight)
    gate(evidence, score).sum().backward()
    assert float(evidence.grad.abs().sum()) > 0
    assert float(gate.layers[0].weight.grad.abs().sum()) > 0


def test_gradcheck():
    gate = NodeGate().double()
    nn.init.normal_(gate.layers[-1].weight)
    inputs = (torch.randn(3, 5).double().requires_grad_(), torch.tensor([0.2, 0.5, 0.9]).double().requires_grad_())
    assert torch.autograd.gradcheck(gate, inputs)


def test_nodes_are_independent():
    gate = NodeGate()
    nn.init.normal_(gate.layers[-1].weight)
    evidence, score = torch.randn(4, 5), torch.rand(4)
    order = torch.tensor([2, 0, 3, 1])
    out = gate(evidence, score)
    assert_close(gate(evidence[order], score[order]), out[order])
    assert_close(gate(evidence[1:2], score[1:2]), out[1:2])


def test_it_learns_to_trust_evidence():
    gate = NodeGate()
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.05)
    evidence = torch.rand(64, 5)
    truth = (evidence[:, 1] > 0.5).float()
    score = torch.full((64,), 0.5)
    for _ in range(80):
        loss = nn.functional.binary_cross_entropy(gate(evidence, score), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(((gate(evidence, score) > 0.5) == (truth > 0.5)).float().mean()) > 0.9
    gate.reset_parameters()
    assert_close(gate(evidence, score), score)


def test_other_numbers_of_evidence():
    gate = NodeGate(num_evidence=2, hidden=3)
    assert_close(gate(torch.randn(4, 2), torch.full((4,), 0.3)), torch.full((4,), 0.3))
