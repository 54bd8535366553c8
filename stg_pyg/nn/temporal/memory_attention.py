"""Memory attention over the temporal graph, Eqs. 7 and 8."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import degree

from stg_pyg.nn.made import keeps_arguments
from stg_pyg.nn.temporal.mean_memory import make_gate, update_masks

_WIDEST_FUSED = 256
_HALF = (torch.float16, torch.bfloat16)
CONVERTED = 2**22
"""Numbers of half precision keys that are converted at once: 16 MiB of them."""


@keeps_arguments
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

    Memory keys of half precision are compared as they are on CUDA, and elsewhere converted to the dtype of the masks,
    a group of frames at a time.

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
        if temperature <= 0:
            raise ValueError(f"'temperature' must be positive (got {temperature})")
        self.normalize_keys = normalize_keys
        self.temperature = temperature
        self.update_rule = update
        self.max_logits = max_logits
        self.gate = make_gate(update, hidden_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets the gate, if there is one."""
        super().reset_parameters()
        if self.gate is not None:
            self.gate.reset_parameters()

    def forward(self, mask: Tensor, key: Tensor, memory_masks: Tensor, memory_keys: Tensor) -> Tensor:
        r"""Refines the mask of one object.

        Args:
            mask, key (torch.Tensor): The current mask [h, w] and keys [C, h, w].
            memory_masks, memory_keys (torch.Tensor): Those of R memory frames, which may be 0.
        """
        source = torch.arange(memory_masks.size(0), device=mask.device)
        edge_index = torch.stack([source, torch.zeros_like(source)])
        return self.forward_graph(mask[None], key[None], memory_masks, memory_keys, edge_index)[0]

    def forward_graph(
        self, masks: Tensor, keys: Tensor, memory_masks: Tensor, memory_keys: Tensor, edge_index: Tensor
    ) -> Tensor:
        r"""Refines the masks of B objects, each from as many memory nodes as point at it.

        Args:
            masks, keys (torch.Tensor): The current masks [B, h, w] and keys [B, C, h, w].
            memory_masks, memory_keys (torch.Tensor): Those of the memory, [M, h, w] and [M, C, h, w].
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
        total = self._total(query, key, value, edge_index).to(masks.dtype).view(masks.shape)
        return update_masks(masks, total, degree(edge_index[1], masks.size(0), dtype=masks.dtype), self.gate)

    def messages(self, keys: Tensor, memory_masks: Tensor, memory_keys: Tensor, edge_index: Tensor) -> Tensor:
        r"""The message :math:`\mathbf{m}^r` [E, h, w] of every edge, for a look at what each memory frame says."""
        query, key, value = self._inputs(keys.dtype, keys, memory_masks, memory_keys)
        source, target = edge_index
        return self.message(query[target], key[source], value[source]).view(-1, *keys.shape[-2:])

    def message(self, query_i: Tensor, key_j: Tensor, value_j: Tensor) -> Tensor:
        if key_j.dtype == query_i.dtype:
            return self._attend(query_i, key_j, value_j)
        count = max(1, CONVERTED // max(1, key_j.shape[1:].numel()))
        groups = zip(query_i.split(count), key_j.split(count), value_j.split(count), strict=True)
        return torch.cat([self._attend(query, self._as(query, key), value) for query, key, value in groups])

    def _total(self, query: Tensor, key: Tensor, value: Tensor, edge_index: Tensor) -> Tensor:
        """The sum of the messages of each node [B, h w]."""
        size = (key.size(0), query.size(0))
        chunk = max(1, self.max_logits // max(1, edge_index.size(1) * key.size(1)))
        parts = []
        for part in query.split(chunk, dim=1):
            # propagate_type: (query: Tensor, key: Tensor, value: Tensor)
            parts.append(self.propagate(edge_index, query=part, key=key, value=value, size=size))
        return torch.cat(parts, dim=1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # The fused kernels want values as wide as the keys; zeros beside them cost less than forming the logits.
        width = key.size(2) if key.size(2) <= _WIDEST_FUSED else 1
        padded = F.pad(value.to(key.dtype), (0, width - 1))
        out = F.scaled_dot_product_attention(
            query.unsqueeze(1), key.unsqueeze(1), padded.unsqueeze(1), scale=1 / self.temperature
        )
        return out[..., 0].flatten(1).to(value.dtype)

    def _inputs(
        self, dtype: torch.dtype, keys: Tensor, memory_masks: Tensor, memory_keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, h w, C], keys [M, h w, C] and values [M, h w, 1].

        Values are of ``dtype``, and so are queries and keys, but for keys of half precision: these stay as they are,
        and the queries take their dtype where they are compared in it.
        """
        if memory_masks.shape[-2:] != memory_keys.shape[-2:] or memory_masks.size(0) != memory_keys.size(0):
            raise ValueError(f"memory masks {tuple(memory_masks.shape)} and keys {tuple(memory_keys.shape)} do not fit")
        if keys.size(1) != memory_keys.size(1):
            raise ValueError(f"keys have {keys.size(1)} channels, but those of the memory {memory_keys.size(1)}")
        query, key = keys.to(self._query_dtype(dtype, memory_keys)), memory_keys
        if key.dtype not in _HALF or query.dtype in _HALF:
            key = key.to(query.dtype)
        if self.normalize_keys:
            query = F.normalize(query, dim=1)
            key = F.normalize(key, dim=1) if key.dtype == query.dtype else key
        value = memory_masks.to(dtype).flatten(1).unsqueeze(2)
        return query.flatten(2).transpose(1, 2), key.flatten(2).transpose(1, 2), value

    def _query_dtype(self, dtype: torch.dtype, memory_keys: Tensor) -> torch.dtype:
        """The dtype that keys are compared in, for masks of ``dtype``."""
        half = memory_keys.dtype in _HALF and dtype == torch.float32
        return memory_keys.dtype if half and _compares_half(memory_keys) else dtype

    def _as(self, query: Tensor, key: Tensor) -> Tensor:
        """Some keys [E, h w, C] as the queries are, which :meth:`_inputs` has left in half precision."""
        if key.dtype == query.dtype:
            return key
        key = key.to(query.dtype)
        return F.normalize(key, dim=2) if self.normalize_keys else key

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(update='{self.update_rule}', normalize_keys={self.normalize_keys}, "
            f"temperature={self.temperature})"
        )


def _compares_half(keys: Tensor) -> bool:
    # Processors take up to twice as long in bfloat16 as to convert the keys and compare them in float32.
    return keys.is_cuda
