"""The update of a mask by what its memory says: Eq. 8, or a learned gate."""

import math

import torch
from torch import Tensor

UPDATES = ("paper", "gated")
_INITIAL_GATE = 0.1


class PixelGate(torch.nn.Module):
    r"""A gate in (0, 1) for every pixel, from its mask and the mean message; 0.1 everywhere until it is trained."""

    def __init__(self, hidden_channels: int):
        super().__init__()
        self.hidden = torch.nn.Conv2d(3, hidden_channels, 1)
        self.out = torch.nn.Conv2d(hidden_channels, 1, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets the weights and the initial gate."""
        self.hidden.reset_parameters()
        torch.nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        torch.nn.init.constant_(self.out.bias, math.log(_INITIAL_GATE / (1 - _INITIAL_GATE)))

    def forward(self, masks: Tensor, mean: Tensor) -> Tensor:
        r"""The gates [B, h, w] of masks and mean messages [B, h, w]."""
        features = torch.stack([masks, mean, (masks - mean).abs()], dim=1)
        gates = self.out(self.hidden(features.to(self.hidden.weight.dtype)).relu()).sigmoid()
        return gates.squeeze(1).to(masks.dtype)


def make_gate(update: str, hidden_channels: int) -> PixelGate | None:
    """The gate of an update, none for ``"paper"``.

    Raises:
        ValueError: there is no such update.
    """
    if update not in UPDATES:
        raise ValueError(f"'update' must be one of {UPDATES} (got '{update}')")
    return PixelGate(hidden_channels) if update == "gated" else None


def update_masks(masks: Tensor, total: Tensor, count: Tensor, gate: PixelGate | None) -> Tensor:
    r"""Eq. 8 without a gate; with one, a step from the mask to the mean message. No messages leave a mask as it is.

    .. math::
        \mathbf{h}^{\prime} = \frac{\mathbf{h} + \sum_r \mathbf{m}^r}{t + 1} \qquad \text{or} \qquad
        \mathbf{h}^{\prime} = \mathbf{h} + \mathbf{g} \odot (\bar{\mathbf{m}} - \mathbf{h})

    Args:
        masks: [B, h, w], floating.
        total: [B, h, w] sum of the messages of each node.
        count: [B] number :math:`t` of messages of each node.
        gate: see :func:`make_gate`.
    """
    count = count.view(-1, 1, 1)
    if gate is None:
        return (masks + total) / (count + 1)
    mean = total / count.clamp(min=1)
    return masks + (count > 0) * gate(masks, mean) * (mean - masks)
