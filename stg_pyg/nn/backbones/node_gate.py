"""A learned gate of the nodes of a spatial graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NodeGate(nn.Module):
    r"""How much a node's mask is worth to the others, from evidence about it.

    .. math::
        s_u = \sigma(\mathrm{MLP}(e_u, \mathrm{logit}(c_u))), \qquad W_{vu} \leftarrow W_{vu} \, s_u

    with evidence :math:`e_u` (agreement with the first frame, Q, p and the other nodes) and the score :math:`c_u`
    that the proposer gave. It is trained with the rest by Eq. 9. Not in the paper: with untrained features the weights
    of Eq. 3 are nearly constant on real videos and propagation is then the plain mean.

    Shapes:
        - input: evidence [N, E], score [N] in [0, 1].
        - output: [N] in (0, 1).
    """

    def __init__(self, num_evidence: int = 5, hidden: int = 16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_evidence + 1, hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starts as the score itself, so that an untrained gate already prefers confident proposals."""
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, evidence: Tensor, score: Tensor) -> Tensor:
        logit = torch.logit(score.to(evidence.dtype), eps=1e-3)
        return torch.sigmoid(logit + self.layers(torch.cat([evidence, logit[:, None] / 3], dim=1))[:, 0])
