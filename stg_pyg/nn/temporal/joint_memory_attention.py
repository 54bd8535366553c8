"""Memory attention over the pixels of all memory frames at once."""

import torch
from torch import Tensor
from torch_geometric.utils import degree, to_dense_batch

from stg_pyg.nn.made import keeps_arguments
from stg_pyg.nn.temporal.memory_attention import CONVERTED, MemoryAttention

_CACHED = 2**20
"""Logits that fit a processor's cache; with many more at once they take four times as long."""


@keeps_arguments
class JointMemoryAttention(MemoryAttention):
    r"""The space-time memory read of the `"Video Object Segmentation using Space-Time Memory Networks"
    <https://arxiv.org/abs/1904.00607>`_ paper, of masks: one softmax over the pixels of all memory frames of a node.

    .. math::
        \mathbf{m}_i &= \frac{\sum_{r=0}^{t-1} \sum_j \exp(\mathbf{K}^t_i \cdot \mathbf{K}^r_j / \tau)
        \, \mathbf{h}^r_j}{\sum_{r=0}^{t-1} \sum_j \exp(\mathbf{K}^t_i \cdot \mathbf{K}^r_j / \tau)}

        (\mathbf{h}^t)^{\prime} &= \frac{\mathbf{h}^t + t \, \mathbf{m}}{t + 1}

    Here :math:`\mathbf{m}` is in the place of the mean message of :class:`MemoryAttention`, to which all frames add
    alike, also with :obj:`update="gated"`; a frame adds the more to it, the better it matches. With :obj:`top_k` only
    the largest :obj:`top_k` logits of each pixel :math:`i` take part, as in the `"Modular Interactive Video Object
    Segmentation" <https://arxiv.org/abs/2103.07941>`_ and `"Rethinking Space-Time Networks with Improved Memory
    Coverage for Efficient Video Object Segmentation" <https://arxiv.org/abs/2106.05210>`_ papers. A node without
    memory keeps its mask.

    The softmax is put together from those of single frames, by their log-sum-exps :math:`s^r_i` and messages
    :math:`\mathbf{m}^r_i`:

    .. math::
        \mathbf{m}_i = \sum_r \mathrm{softmax}_r(s^r_i) \, \mathbf{m}^r_i

    Memory keys of half precision are converted, a group of frames at a time.

    Args:
        normalize_keys, temperature, update, hidden_channels: See :class:`MemoryAttention`.
        max_logits (int): The most logits formed at once, and at least those of one pixel :math:`i` with one frame.
            (default: :obj:`2**27`)
        top_k (int, optional): The number of logits of each pixel that take part, :obj:`None` for all.
            (default: :obj:`None`)

    Shapes:
        - as :class:`MemoryAttention`
    """

    def __init__(
        self,
        *,
        normalize_keys: bool = False,
        temperature: float = 1.0,
        update: str = "paper",
        hidden_channels: int = 8,
        max_logits: int = 2**27,
        top_k: int | None = None,
    ):
        super().__init__(
            normalize_keys=normalize_keys,
            temperature=temperature,
            update=update,
            hidden_channels=hidden_channels,
            max_logits=max_logits,
        )
        if top_k is not None and top_k < 1:
            raise ValueError(f"'top_k' must be positive or None (got {top_k})")
        self.top_k = top_k

    def message(self, query_i: Tensor, key_j: Tensor, value_j: Tensor) -> Tensor:
        scores, values = self._scores(query_i, key_j, value_j)
        return (scores.softmax(dim=2) * values).sum(dim=2).to(value_j.dtype)

    def _total(self, query: Tensor, key: Tensor, value: Tensor, edge_index: Tensor) -> Tensor:
        """The joint message of each node, times the number of its memory frames [B, h w]."""
        if edge_index.size(1) == 0:
            return value.new_zeros(query.shape[:2])
        count = degree(edge_index[1], query.size(0), dtype=value.dtype)
        kept = count.numel() * int(count.max()) * min(self.top_k or 1, key.size(1))
        most = self.max_logits if query.is_cuda else min(self.max_logits, _CACHED)
        rows = min(max(1, query.size(1)), max(1, most // max(1, key.size(1), kept)))
        logits, numbers = rows * key.size(1), key.shape[1:].numel()
        edges = edge_index.split(max(1, min(most // max(1, logits), CONVERTED // max(1, numbers))), dim=1)
        parts = []
        for part in query.split(rows, dim=1):
            read = [self._scores(part[target], key[source], value[source]) for source, target in edges]
            scores, values = (torch.cat(tensors) for tensors in zip(*read, strict=True))
            parts.append(self._joined(scores, values, edge_index[1], query.size(0)))
        return count.view(-1, 1) * torch.cat(parts, dim=1)

    def _scores(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of the logits of every edge, and the values there [E, P, k].

        The largest ``top_k`` logits and their masks; without, k is 1, with the log-sum-exp of all and the message.
        """
        logits = query @ (self._as(query, key) / self.temperature).transpose(1, 2)
        if self.top_k is not None:
            scores, index = logits.topk(min(self.top_k, logits.size(2)), dim=2)
            masks = value.transpose(1, 2).expand(-1, index.size(1), -1)
            return scores, masks.gather(2, index)
        peak = logits.detach().amax(dim=2, keepdim=True)
        weight = (logits - peak).exp()
        total = weight.sum(dim=2, keepdim=True)
        return total.log() + peak, weight @ value.to(weight.dtype) / total

    def _joined(self, scores: Tensor, values: Tensor, target: Tensor, num_nodes: int) -> Tensor:
        """The softmax [B, P] over all that is left of the edges [E, P, k] of each node; 0 without edges."""
        order = target.argsort(stable=True)
        lowest = torch.finfo(scores.dtype).min
        dense, _ = to_dense_batch(scores[order], target[order], fill_value=lowest, batch_size=num_nodes)
        masks, _ = to_dense_batch(values[order], target[order], batch_size=num_nodes)
        dense, masks = (tensor.transpose(1, 2).flatten(2) for tensor in (dense, masks))
        if self.top_k is not None:
            dense, index = dense.topk(min(self.top_k, dense.size(2)), dim=2)
            masks = masks.gather(2, index)
        return (dense.softmax(dim=2) * masks).sum(dim=2)

    def _query_dtype(self, dtype: torch.dtype, memory_keys: Tensor) -> torch.dtype:
        return torch.promote_types(dtype, torch.float32)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, top_k={self.top_k})"
