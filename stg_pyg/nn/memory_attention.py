"""Memory attention over the temporal graph, Eqs. 7 and 8."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import degree

UPDATES = ("paper", "gated")
_INITIAL_GATE = 0.1
_WIDEST_FUSED = 256


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


class MemoryAttention(MessagePassing):
    r"""The temporal graph operator of the `"Spatiotemporal Graph Neural Network based Mask Reconstruction for Video
    Object Segmentation" <https://arxiv.org/abs/2012.05499>`_ paper (Eqs. 7 and 8).

    .. math::
        \mathbf{m}^r_i &= \frac{\sum_j \exp(\mathbf{K}^t_i \cdot \mathbf{K}^r_j / \tau) \, \mathbf{h}^r_j}
        {\sum_j \exp(\mathbf{K}^t_i \cdot \mathbf{K}^r_j / \tau)}

        (\mathbf{h}^t)^{\prime} &= \eta \left( \mathbf{h}^t + \sum_{r=0}^{t-1} \mathbf{m}^r \right), \quad
        \eta = \frac{1}{t + 1}

    where :math:`i, j` are pixels, :math:`t` is the number of memory frames of the node, and :math:`\tau` is 1 as
    printed. A node without memory keeps its mask.

    With :obj:`update="gated"` the second line is, for :math:`\bar{\mathbf{m}}` the mean of the messages,

    .. math::
        (\mathbf{h}^t)^{\prime} &= \mathbf{h}^t + \mathbf{g} \odot (\bar{\mathbf{m}} - \mathbf{h}^t)

        \mathbf{g} &= \sigma(\mathrm{MLP}([\mathbf{h}^t, \bar{\mathbf{m}}, |\mathbf{h}^t - \bar{\mathbf{m}}|]))

    with an MLP for each pixel whose initial gate is 0.1 everywhere.

    Args:
        normalize_keys (bool): Scales keys to unit length, so that the logits are cosines. (default: :obj:`False`)
        temperature (float): The temperature :math:`\tau`. (default: :obj:`1.0`)
        update (str): The update, :obj:`"paper"` (Eq. 8) or :obj:`"gated"`. (default: :obj:`"paper"`)
        hidden_channels (int): The width of the MLP of the gate. (default: :obj:`8`)
        max_logits (int): The most logits formed at once; more are formed in turns over the pixels :math:`i`. This
            bounds the memory of inference, not what training keeps. (default: :obj:`2**27`)

    Shapes:
        - **input:** mask :math:`(h, w)`, key :math:`(C, h, w)`, memory masks :math:`(R, h, w)`,
          memory keys :math:`(R, C, h, w)`
        - **output:** mask :math:`(h, w)`
    """

    def __init__(
        self,
        *,
        normalize_keys: bool = False,
        temperature: float = 1.0,
        update: str = "paper",
        hidden_channels: int = 8,
        max_logits: int = 2**27,
    ):
        super().__init__(aggr="sum", node_dim=0)
        if update not in UPDATES:
            raise ValueError(f"'update' must be one of {UPDATES} (got '{update}')")
        if temperature <= 0:
            raise ValueError(f"'temperature' must be positive (got {temperature})")
        self.normalize_keys = normalize_keys
        self.temperature = temperature
        self.update_rule = update
        self.max_logits = max_logits
        self.gate = PixelGate(hidden_channels) if update == "gated" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets the gate, if there is one."""
        super().reset_parameters()
        if self.gate is not None:
            self.gate.reset_parameters()

    def forward(self, mask: Tensor, key: Tensor, memory_masks: Tensor, memory_keys: Tensor) -> Tensor:
        r"""Refines the mask of one object.

        Args:
            mask (torch.Tensor): The current mask [h, w].
            key (torch.Tensor): The current keys [C, h, w].
            memory_masks (torch.Tensor): The masks [R, h, w] of R memory frames, which may be 0.
            memory_keys (torch.Tensor): The keys [R, C, h, w] of the memory frames.
        """
        source = torch.arange(memory_masks.size(0), device=mask.device)
        edge_index = torch.stack([source, torch.zeros_like(source)])
        return self.forward_graph(mask[None], key[None], memory_masks, memory_keys, edge_index)[0]

    def forward_graph(
        self, masks: Tensor, keys: Tensor, memory_masks: Tensor, memory_keys: Tensor, edge_index: Tensor
    ) -> Tensor:
        r"""Refines the masks of B objects, each from as many memory nodes as point at it.

        Args:
            masks (torch.Tensor): The current masks [B, h, w].
            keys (torch.Tensor): The current keys [B, C, h, w].
            memory_masks (torch.Tensor): The memory masks [M, h, w].
            memory_keys (torch.Tensor): The memory keys [M, C, h, w].
            edge_index (torch.Tensor): The memory node and the current node [2, E] of every edge.

        Returns:
            The refined masks [B, h, w], of the dtype of :obj:`masks` when floating, else of :obj:`keys`.

        Raises:
            ValueError: The shapes do not fit together.
        """
        if masks.shape[-2:] != keys.shape[-2:]:
            raise ValueError(f"masks {tuple(masks.shape)} and keys {tuple(keys.shape)} have different grids")
        masks = masks if masks.is_floating_point() else masks.to(keys.dtype)
        query, key, value = self._inputs(masks.dtype, keys, memory_masks, memory_keys)
        size = (memory_masks.size(0), masks.size(0))
        chunk = max(1, self.max_logits // max(1, edge_index.size(1) * key.size(1)))
        parts = []
        for part in query.split(chunk, dim=1):
            # propagate_type: (query: Tensor, key: Tensor, value: Tensor)
            parts.append(self.propagate(edge_index, query=part, key=key, value=value, size=size))
        total = torch.cat(parts, dim=1).view(masks.shape)
        count = degree(edge_index[1], masks.size(0), dtype=masks.dtype).view(-1, 1, 1)
        if self.gate is None:
            return (masks + total) / (count + 1)
        return self._gated(masks, total / count.clamp(min=1), count > 0)

    def messages(self, keys: Tensor, memory_masks: Tensor, memory_keys: Tensor, edge_index: Tensor) -> Tensor:
        r"""The message :math:`\mathbf{m}^r` [E, h, w] of every edge, for a look at what each memory frame says."""
        query, key, value = self._inputs(keys.dtype, keys, memory_masks, memory_keys)
        source, target = edge_index
        return self.message(query[target], key[source], value[source]).view(-1, *keys.shape[-2:])

    def message(self, query_i: Tensor, key_j: Tensor, value_j: Tensor) -> Tensor:
        # The fused kernels want values as wide as the keys; zeros beside them cost less than forming the logits.
        width = key_j.size(2) if key_j.size(2) <= _WIDEST_FUSED else 1
        value = F.pad(value_j, (0, width - 1))
        out = F.scaled_dot_product_attention(
            query_i.unsqueeze(1), key_j.unsqueeze(1), value.unsqueeze(1), scale=1 / self.temperature
        )
        return out[..., 0].flatten(1).to(value_j.dtype)

    def _inputs(
        self, dtype: torch.dtype, keys: Tensor, memory_masks: Tensor, memory_keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, h w, C], keys [M, h w, C] and values [M, h w, 1] of ``dtype``."""
        if memory_masks.shape[-2:] != memory_keys.shape[-2:] or memory_masks.size(0) != memory_keys.size(0):
            raise ValueError(f"memory masks {tuple(memory_masks.shape)} and keys {tuple(memory_keys.shape)} do not fit")
        if keys.size(1) != memory_keys.size(1):
            raise ValueError(f"keys have {keys.size(1)} channels, but those of the memory {memory_keys.size(1)}")
        query, key = keys.to(dtype), memory_keys.to(dtype)
        if self.normalize_keys:
            query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
        value = memory_masks.to(dtype).flatten(1).unsqueeze(2)
        return query.flatten(2).transpose(1, 2), key.flatten(2).transpose(1, 2), value

    def _gated(self, masks: Tensor, mean: Tensor, has_memory: Tensor) -> Tensor:
        assert self.gate is not None
        return masks + has_memory * self.gate(masks, mean) * (mean - masks)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(update='{self.update_rule}', normalize_keys={self.normalize_keys}, "
            f"temperature={self.temperature})"
        )
