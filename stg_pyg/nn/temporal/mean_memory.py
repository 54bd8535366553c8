"""The update of a mask by what its memory says, and the mean of the memory, which any attention has to beat."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.utils import degree, scatter

from stg_pyg.nn.made import keeps_arguments

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


@keeps_arguments
class MeanMemory(torch.nn.Module):
    r"""The temporal layer without attention: a memory frame says its mask, wherever the object has gone; keys are not
    used.

    .. math::
        \mathbf{m}^r &= \mathbf{h}^r

        (\mathbf{h}^t)^{\prime} &= \frac{1}{t + 1} \left( \mathbf{h}^t + \sum_{r=0}^{t-1} \mathbf{m}^r \right)

    It is :class:`stg_pyg.nn.MemoryAttention`, of the `"Spatiotemporal Graph Neural Network based Mask Reconstruction
    for Video Object Segmentation" <https://arxiv.org/abs/2012.05499>`_ paper, with Eq. 7 left out. A node without
    memory keeps its mask.

    Args:
        update (str): The update, :obj:`"paper"` (Eq. 8) or :obj:`"gated"`, see :class:`stg_pyg.nn.MemoryAttention`.
            (default: :obj:`"paper"`)
        hidden_channels (int): The width of the MLP of the gate. (default: :obj:`8`)

    Shapes:
        - **input:** masks :math:`(B, h, w)`, keys :math:`(B, C, h, w)`, memory masks :math:`(M, h, w)`,
          memory keys :math:`(M, C, h, w)`, edge indices :math:`(2, |\mathcal{E}|)`
        - **output:** masks :math:`(B, h, w)`
    """

    def __init__(self, *, update: str = "paper", hidden_channels: int = 8):
        super().__init__()
        self.update_rule = update
        self.gate = make_gate(update, hidden_channels)

    def reset_parameters(self) -> None:
        r"""Resets the gate, if there is one."""
        if self.gate is not None:
            self.gate.reset_parameters()

    def forward_graph(
        self, masks: Tensor, keys: Tensor, memory_masks: Tensor, memory_keys: Tensor, edge_index: Tensor
    ) -> Tensor:
        r"""Refines the masks of B objects; see :meth:`stg_pyg.nn.MemoryAttention.forward_graph`. Memory masks of
        another grid are resampled."""
        masks = masks if masks.is_floating_point() else masks.to(keys.dtype)
        said = memory_masks.to(masks.dtype)[edge_index[0]]
        total = scatter(said, edge_index[1], dim=0, dim_size=masks.size(0), reduce="sum")
        if total.shape[-2:] != masks.shape[-2:]:
            total = F.interpolate(total[:, None], masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        return update_masks(masks, total, degree(edge_index[1], masks.size(0), dtype=masks.dtype), self.gate)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(update='{self.update_rule}')"
