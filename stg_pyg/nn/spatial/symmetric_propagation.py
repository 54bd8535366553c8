"""Mask propagation with the symmetric normalisation of graph convolutional networks."""

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from stg_pyg.nn.spatial.mask_propagation import MaskPropagation


class SymmetricPropagation(MaskPropagation):
    r"""Eq. 5 of STG-Net with the normalisation of the `"Semi-Supervised Classification with Graph Convolutional
    Networks" <https://arxiv.org/abs/1609.02907>`_ paper.

    .. math::
        \mathbf{h}^{\prime} = \mathbf{D}^{-1/2} (\mathbf{I} + \mathbf{W}) \mathbf{D}^{-1/2} \mathbf{h}, \qquad
        D_{vv} = 1 + \sum_{u \in \mathcal{N}(v)} W_{vu}

    It is a fixed linear step without parameters, so all backends are there. Rows do not add up to 1: a mask in
    :math:`[0, 1]` may leave it where degrees differ. A node whose :math:`D_{vv}` is not positive sends and gets
    nothing.

    Args:
        num_steps (int): The number of steps :math:`l`. (default: :obj:`2`)
        backend (str): See :class:`MaskPropagation`. (default: :obj:`"auto"`)

    Shapes:
        - **input:** as :class:`MaskPropagation`
        - **output:** node masks :math:`(|\mathcal{V}|, *)`
    """

    def coefficients(self, edge_index: Tensor, edge_weight: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
        r"""The matrix of one step; see :meth:`MaskPropagation.coefficients`."""
        source, target = edge_index[0], edge_index[1]
        degree = 1 + scatter(edge_weight, target, dim=0, dim_size=num_nodes, reduce="sum")
        root = torch.where(degree > 0, degree, 1).rsqrt() * (degree > 0)
        return root[target] * edge_weight * root[source], root.square()
