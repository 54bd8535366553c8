"""Mask propagation with learned edge weights."""

import torch
from torch import Tensor
from torch_geometric.typing import OptTensor

from stg_pyg.nn.made import keeps_arguments
from stg_pyg.nn.spatial.mask_propagation import MaskPropagation


@keeps_arguments
class EdgeMLPPropagation(MaskPropagation):
    r"""Eq. 5 of STG-Net with edge weights that a small network learns from the edge attributes.

    .. math::
        W_{vu} = \sigma(\mathrm{MLP}(\mathbf{e}_{vu}))

    where :math:`\mathbf{e}_{vu}` is the attribute of the edge from :math:`u` to :math:`v` (cosine, IoU). It stands in
    for the fixed sum of Eq. 3; the given :obj:`edge_weight` is not used. Untrained, all weights are 0.5.

    Args:
        edge_dim (int): The number of edge attributes. (default: :obj:`2`)
        hidden_channels (int): The width of the network. (default: :obj:`16`)
        num_steps (int): The number of steps :math:`l`. (default: :obj:`2`)
        backend (str): See :class:`MaskPropagation`. (default: :obj:`"auto"`)

    Shapes:
        - **input:** node masks :math:`(|\mathcal{V}|, *)`, edge indices :math:`(2, |\mathcal{E}|)`,
          edge attributes :math:`(|\mathcal{E}|, D)`, batch vector :math:`(|\mathcal{V}|)`, sorted *(optional)*
        - **output:** node masks :math:`(|\mathcal{V}|, *)`
    """

    def __init__(self, edge_dim: int = 2, hidden_channels: int = 16, num_steps: int = 2, backend: str = "auto"):
        super().__init__(num_steps, backend)
        self.edge_dim = edge_dim
        self.hidden = torch.nn.Linear(edge_dim, hidden_channels)
        self.out = torch.nn.Linear(hidden_channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets the network to constant weights."""
        super().reset_parameters()
        self.hidden.reset_parameters()
        torch.nn.init.zeros_(self.out.weight)
        torch.nn.init.zeros_(self.out.bias)

    def weights(
        self, x: Tensor, edge_index: Tensor, edge_weight: OptTensor = None, edge_attr: OptTensor = None
    ) -> Tensor:
        r"""The edge weights :math:`(|\mathcal{E}|)`.

        Raises:
            ValueError: :obj:`edge_attr` is missing or has another number of columns.
        """
        if edge_attr is None:
            raise ValueError("EdgeMLPPropagation needs 'edge_attr'")
        if edge_attr.dim() != 2 or edge_attr.size(1) != self.edge_dim:
            raise ValueError(f"'edge_attr' must be [E, {self.edge_dim}] (got {list(edge_attr.shape)}): set 'edge_dim'")
        return self.out(self.hidden(edge_attr.to(self.hidden.weight.dtype)).relu()).sigmoid().squeeze(1)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.edge_dim}, {self.hidden.out_features}, num_steps={self.num_steps}, "
            f"backend='{self.backend}')"
        )
