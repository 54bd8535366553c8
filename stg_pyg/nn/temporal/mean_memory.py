"""The mean of the masks in the memory, which any attention has to beat."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.utils import degree, scatter

from stg_pyg.nn.made import keeps_arguments
from stg_pyg.nn.temporal.memory_update import make_gate, update_masks


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
