import pytest
import torch
from torch import nn
from torch.testing import assert_close

from stg_pyg.nn.backbones.node_gate import NodeGate


@pytest.fixture
def trained():
    gate = NodeGate().double()
    nn.init.normal_(gate.layers[-1].weight)
    return gate


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"num_evidence": 2, "hidden": 3}])
def test_untrained_gate_is_the_score(dtype, options):
    gate, score = NodeGate(**options).to(dtype), torch.tensor([0.01, 0.2, 0.5, 0.77, 0.99], dtype=dtype)
    evidence = torch.randn(5, options.get("num_evidence", 5), dtype=dtype)
    assert_close(gate(evidence, score), score)
    assert gate(evidence[:0], score[:0]).shape == (0,)


def test_certain_scores_stay_finite_and_trainable():
    gate = NodeGate()
    out = gate(torch.zeros(2, 5), torch.tensor([0.0, 1.0]))
    assert_close(out, torch.tensor([0.0, 1.0]), atol=0.01, rtol=0)
    assert bool(((out > 0) & (out < 1)).all())
    out.sum().backward()
    assert bool(gate.layers[-1].bias.grad.isfinite().all()) and float(gate.layers[-1].bias.grad.abs()) > 0


def test_gradients(trained):
    evidence = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    score = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(trained, (evidence, score))
    for gate in (trained, NodeGate().double()):
        gate(evidence, score).sum().backward()
        assert float(gate.layers[-1].weight.grad.abs().sum()) > 0
    certain, doubtful = (trained(evidence, torch.full_like(score, s)).logit() for s in (0.99, 0.5))
    assert (certain - doubtful - torch.tensor(0.99).double().logit()).abs().max() > 1e-3, "it sees the score too"
    assert float(evidence.grad.abs().sum()) > 0 and float(trained.layers[0].weight.grad.abs().sum()) > 0


def test_nodes_are_independent(trained):
    evidence, score = torch.randn(2, 4, 5, dtype=torch.float64)[0], torch.rand(4, dtype=torch.float64)
    order, out = torch.tensor([2, 0, 3, 1]), trained(evidence, score)
    assert_close(trained(evidence[order], score[order]), out[order])
    assert_close(trained(evidence[1:2], score[1:2]), out[1:2])


def test_it_learns_to_trust_evidence():
    gate, evidence, score = NodeGate(), torch.rand(64, 5), torch.full((64,), 0.5)
    optimizer, truth = torch.optim.Adam(gate.parameters(), lr=0.05), (evidence[:, 1] > 0.5).float()
    for _ in range(80):
        loss = nn.functional.binary_cross_entropy(gate(evidence, score), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(((gate(evidence, score) > 0.5) == (truth > 0.5)).float().mean()) > 0.9
    gate.reset_parameters()
    assert_close(gate(evidence, score), score)
