"""Mask propagation whose edge weights a stock convolution gives, from evidence on the nodes."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch_geometric.nn.conv as pyg_conv
from torch import Tensor, nn
from torch_geometric.typing import OptTensor

from stg_pyg.nn.made import keeps_arguments
from stg_pyg.nn.spatial.mask_propagation import MaskPropagation

EVIDENCE = 6
"""Columns of the evidence on a node: those of :func:`stg_pyg.model.evidence.node_evidence`, and its score's logit."""
STEEPEST = 6.0
"""Bound of s, so that no weight leaves the range of half precision."""
_NODES_OF_A_GRAPH = 12


@keeps_arguments
class EvidencePropagation(MaskPropagation):
    r"""Eq. 5 of STG-Net with gates on both ends of an edge, from messages between the proposals about their evidence.

    .. math::
        W_{vu} = \exp(s_u - s_v), \qquad s = 6 \tanh(\mathbf{a}^{\top} \, \mathrm{ReLU}(\mathbf{z} +
        \mathrm{conv}(\mathbf{z}, \mathbf{e})) / 6), \qquad \mathbf{z}_u = \mathrm{ReLU}(\mathbf{B} \mathbf{c}_u)

    with the evidence :math:`\mathbf{c}_u` on a node (likeness to the first frame, agreement with Q, p and the others,
    score) and the attributes :math:`\mathbf{e}_{vu}` of the edges. In Eq. 5 the node's own mask then has no more weight
    than it deserves: one step makes :math:`\sum_u \exp(s_u) \mathbf{h}^u / \sum_u \exp(s_u)` over the neighbourhood.
    The given :obj:`edge_weight` is not used. Untrained, all weights are 1.

    Args:
        conv (str): The name of a convolution of :mod:`torch_geometric.nn` that takes node features, or :obj:`None`
            for no messages. (default: :obj:`"GATv2Conv"`)
        hidden_channels (int): Channels of the nodes. (default: :obj:`16`)
        num_steps (int): The number of steps :math:`l`. (default: :obj:`1`)
        backend (str): See :class:`MaskPropagation`. (default: :obj:`"auto"`)

    Shapes:
        - **input:** node masks :math:`(|\mathcal{V}|, *)`, edge indices :math:`(2, |\mathcal{E}|)`, edge attributes
          :math:`(|\mathcal{E}|, 2)` *(optional)*, evidence :math:`(|\mathcal{V}|, 6)` *(optional, zeros)*
        - **output:** node masks :math:`(|\mathcal{V}|, *)`

    Raises:
        ValueError: there is no such convolution, or it cannot be made for node features.
    """

    def __init__(
        self, conv: str | None = "GATv2Conv", hidden_channels: int = 16, num_steps: int = 1, backend: str = "auto"
    ):
        super().__init__(num_steps, backend)
        self.conv_name, self.hidden_channels = conv, hidden_channels
        self.embed = nn.Linear(EVIDENCE, hidden_channels)
        self.conv: Any = None if conv in (None, "none") else make_node_conv(conv, hidden_channels)
        self.out = nn.Linear(hidden_channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets the network to weights of 1."""
        super().reset_parameters()
        self.embed.reset_parameters()
        if self.conv is not None:
            self.conv.reset_parameters()
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def scores(self, x: Tensor, edge_index: Tensor, edge_attr: OptTensor, evidence: OptTensor) -> Tensor:
        r"""The :math:`s` of every node :math:`(|\mathcal{V}|)`."""
        dtype = self.out.weight.dtype
        c = x.new_zeros(x.size(0), EVIDENCE, dtype=dtype) if evidence is None else evidence.to(dtype)
        z = self.embed(c).relu()
        if self.conv is not None:
            takes = inspect.signature(self.conv.forward).parameters
            extras = {"edge_attr": edge_attr.to(dtype)} if edge_attr is not None and "edge_attr" in takes else {}
            z = z + self.conv(z, edge_index, **extras)
        return STEEPEST * torch.tanh(self.out(z.relu())[:, 0] / STEEPEST)

    def weights(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: OptTensor = None,
        edge_attr: OptTensor = None,
        evidence: OptTensor = None,
    ) -> Tensor:
        r"""The edge weights :math:`(|\mathcal{E}|)`."""
        s = self.scores(x, edge_index, edge_attr, evidence)
        return torch.exp(s[edge_index[0]] - s[edge_index[1]])

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}('{self.conv_name}', {self.hidden_channels}, num_steps={self.num_steps})"


def make_node_conv(name: str, channels: int) -> nn.Module:
    """A convolution of PyG from node features to node features of ``channels``.

    Raises:
        ValueError: there is none of that name, or it needs more than its channels.
    """
    cls = getattr(pyg_conv, name, None)
    if not isinstance(cls, type):
        raise ValueError(f"torch_geometric.nn has no {name}")
    options: dict[str, Any] = {}
    parameters = inspect.signature(cls).parameters
    if name in ("GINConv", "GINEConv"):
        options["nn"] = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))
    elif "in_channels" in parameters:
        options |= {"in_channels": channels, "out_channels": channels}
    elif "channels" in parameters:
        options["channels"] = channels
    if name == "PNAConv":
        options |= {"aggregators": ["mean", "min", "max", "std"], "scalers": ["identity"]}
        options["deg"] = torch.ones(_NODES_OF_A_GRAPH, dtype=torch.long)
    if "edge_dim" in parameters:
        options["edge_dim"] = 2
    try:
        return cls(**options)
    except TypeError as error:
        raise ValueError(f"{name} needs more than its channels: {error}") from error
