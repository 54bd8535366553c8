"""Mask propagation with attention over node features."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.nn.dense import Linear
from torch_geometric.typing import OptTensor
from torch_geometric.utils import softmax

from stg_pyg.nn.made import keeps_arguments
from stg_pyg.nn.spatial.mask_propagation import MaskPropagation

ATTENTIONS = ("gat", "gatv2", "transformer")


@keeps_arguments
class AttentionPropagation(MaskPropagation):
    r"""Eq. 5 of STG-Net with attention over the node features :math:`\mathbf{X}` as the edge weights.

    .. math::
        W_{vu} = \frac{1}{K} \sum_{k=1}^{K} \mathrm{softmax}_{u \in \mathcal{N}(v)} \, s_k(\mathbf{X}^v, \mathbf{X}^u)

    where, for each of :math:`K` heads of :math:`d` channels,

    .. math::
        s(\mathbf{X}^v, \mathbf{X}^u) = \begin{cases}
        \mathrm{LeakyReLU}(\mathbf{a}^{\top} [\mathbf{q}^v \, \Vert \, \mathbf{k}^u]) & \text{gat} \\
        \mathbf{a}^{\top} \mathrm{LeakyReLU}(\mathbf{q}^v + \mathbf{k}^u) & \text{gatv2} \\
        \mathbf{q}^v \cdot \mathbf{k}^u / \sqrt{d} & \text{transformer} \end{cases}, \qquad
        \mathbf{q}^v = \mathbf{Q} \mathbf{X}^v, \quad \mathbf{k}^u = \mathbf{K} \mathbf{X}^u

    of the papers `GAT <https://arxiv.org/abs/1710.10903>`_ (there :math:`\mathbf{Q} = \mathbf{K}`),
    `GATv2 <https://arxiv.org/abs/2105.14491>`_ and `UniMP <https://arxiv.org/abs/2009.03509>`_, without a self-loop:
    the node's own mask enters Eq. 5 with weight 1. The given :obj:`edge_weight` and :obj:`edge_attr` are not used.

    Args:
        feat_channels (int): The number of node features, :obj:`-1` to take it from the first call.
            (default: :obj:`-1`)
        attention (str): The score, :obj:`"gat"`, :obj:`"gatv2"` or :obj:`"transformer"`. (default: :obj:`"gatv2"`)
        hidden_channels (int): The number of channels :math:`d` of a head. (default: :obj:`32`)
        heads (int): The number of heads :math:`K`. (default: :obj:`1`)
        negative_slope (float): The slope of LeakyReLU. (default: :obj:`0.2`)
        num_steps (int): The number of steps :math:`l`. (default: :obj:`2`)
        backend (str): See :class:`MaskPropagation`. (default: :obj:`"auto"`)

    Shapes:
        - **input:** node masks :math:`(|\mathcal{V}|, *)`, edge indices :math:`(2, |\mathcal{E}|)`,
          node features :math:`(|\mathcal{V}|, F)`, batch vector :math:`(|\mathcal{V}|)`, sorted *(optional)*
        - **output:** node masks :math:`(|\mathcal{V}|, *)`
    """

    def __init__(
        self,
        feat_channels: int = -1,
        attention: str = "gatv2",
        hidden_channels: int = 32,
        heads: int = 1,
        negative_slope: float = 0.2,
        num_steps: int = 2,
        backend: str = "auto",
    ):
        super().__init__(num_steps, backend)
        if attention not in ATTENTIONS:
            raise ValueError(f"'attention' must be one of {ATTENTIONS} (got '{attention}')")
        self.feat_channels = feat_channels
        self.attention = attention
        self.heads = heads
        self.hidden_channels = hidden_channels
        self.negative_slope = negative_slope
        width = heads * hidden_channels
        self.key = Linear(feat_channels, width, bias=attention == "gatv2", weight_initializer="glorot")
        shared = attention == "gat"
        self.query = self.key if shared else Linear(feat_channels, width, bias=False, weight_initializer="glorot")
        scores = {"gat": 2 * hidden_channels, "gatv2": hidden_channels, "transformer": 0}[attention]
        self.score = torch.nn.Parameter(torch.empty(heads, scores)) if scores else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets the projections and the score."""
        super().reset_parameters()
        self.key.reset_parameters()
        self.query.reset_parameters()
        if self.score is not None:
            torch.nn.init.xavier_uniform_(self.score)

    def weights(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: OptTensor = None,
        edge_attr: OptTensor = None,
        feat: OptTensor = None,
    ) -> Tensor:
        r"""The edge weights :math:`(|\mathcal{E}|)`; those of all edges into a node add up to 1.

        Raises:
            ValueError: :obj:`feat` is missing.
        """
        if feat is None:
            raise ValueError("AttentionPropagation needs the node features 'feat'")
        source, target = edge_index[0], edge_index[1]
        query = self.query(feat).unflatten(1, (self.heads, self.hidden_channels))[target]
        key = self.key(feat).unflatten(1, (self.heads, self.hidden_channels))[source]
        return softmax(self._scores(query, key), target, num_nodes=len(feat), dim=0).mean(dim=1)

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Scores [E, heads] of queries and keys [E, heads, d]."""
        if self.score is None:
            return (query * key).sum(dim=2) / math.sqrt(query.size(2))
        if self.attention == "gat":
            return F.leaky_relu((torch.cat([query, key], dim=2) * self.score).sum(dim=2), self.negative_slope)
        return (F.leaky_relu(query + key, self.negative_slope) * self.score).sum(dim=2)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}('{self.attention}', heads={self.heads}, num_steps={self.num_steps}, "
            f"backend='{self.backend}')"
        )
