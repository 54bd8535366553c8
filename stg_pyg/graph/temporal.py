"""The temporal graph: the memory frames of objects and their current frame (Eq. 7)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data


class MemoryGraph(Data):
    r"""Bipartite temporal graph: memory nodes of earlier frames to the current nodes of the same objects.

    Batches with :class:`torch_geometric.data.Batch`: memory nodes and current nodes are shifted apart, ``batch.batch``
    counts current nodes, and ``follow_batch=["memory_mask"]`` adds the vector of the memory nodes.

    Attributes:
        mask: [B, h, w] masks :math:`h^t` of the current nodes, one for each object.
        key: [B, C, h, w] keys :math:`\mathbf{K}^t`.
        memory_mask: [M, h, w] masks :math:`h^r` of the memory nodes.
        memory_key: [M, C, h, w] keys :math:`\mathbf{K}^r`.
        edge_index: [2, E] memory node and current node of every edge.
        obj_id: [B] ids of the objects.
        frame_idx: [B] frame of every current node.
        memory_frame_idx: [M] frame of every memory node.
    """

    def __init__(self, mask: Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mask is not None:
            self.mask = mask
            self.num_nodes = mask.size(0)

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Rows of ``edge_index`` are shifted by the numbers of memory and of current nodes."""
        if key == "edge_index":
            return torch.tensor([[self.memory_mask.size(0)], [self.mask.size(0)]])
        return super().__inc__(key, value, *args, **kwargs)

    def validate(self, raise_on_error: bool = True) -> bool:
        """Whether every edge goes from a memory node to a current node; warns where not, or raises ValueError."""
        sizes = torch.tensor([[self.memory_mask.size(0)], [self.mask.size(0)]], device=self.edge_index.device)
        if self.edge_index.shape[:-1] == (2,) and bool(((self.edge_index >= 0) & (self.edge_index < sizes)).all()):
            return True
        counts = " and ".join(str(n) for n in sizes.flatten().tolist())
        problem = f"'edge_index' must be [2, E] with numbers of the {counts} memory and current nodes of {self}"
        if raise_on_error:
            raise ValueError(problem)
        warnings.warn(problem, stacklevel=2)
        return False


def build_memory_graph(
    mask: Tensor,
    key: Tensor,
    memory_masks: Tensor,
    memory_keys: Tensor,
    *,
    obj_id: int = 0,
    frame_idx: int = 0,
    memory_frame_idx: Tensor | None = None,
) -> MemoryGraph:
    """The temporal graph of one object: every memory frame points at the one current node.

    Args:
        mask: [h, w].
        key: [C, h, w].
        memory_masks: [R, h, w].
        memory_keys: [R, C, h, w].
        obj_id, frame_idx, memory_frame_idx: see :class:`MemoryGraph`.
    """
    source = torch.arange(memory_masks.size(0), device=mask.device)
    return MemoryGraph(
        mask=mask.unsqueeze(0),
        key=key.unsqueeze(0),
        memory_mask=memory_masks,
        memory_key=memory_keys,
        edge_index=torch.stack([source, torch.zeros_like(source)]),
        obj_id=torch.tensor([obj_id], device=mask.device),
        frame_idx=torch.tensor([frame_idx], device=mask.device),
        memory_frame_idx=memory_frame_idx,
    )
