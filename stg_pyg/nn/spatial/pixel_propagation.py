"""Mask propagation whose edge weights vary over the mask, from evidence at the pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.typing import OptTensor
from torch_geometric.utils import scatter, softmax

from stg_pyg.nn.made import keeps_arguments
from stg_pyg.nn.spatial.evidence_propagation import EVIDENCE, STEEPEST
from stg_pyg.ops.regions import MaskRegions, RegionLayout, graphs_of, windows_of_masks

MOST_ODDS = 12.0
"""Bound of r."""
PIXEL = 4
"""Maps of evidence at the pixel, :data:`stg_pyg.model.evidence.PIXEL_EVIDENCE`."""


@keeps_arguments
class PixelPropagation(MessagePassing):
    r"""Eq. 5 of STG-Net with edge weights that vary over the mask.

    .. math::
        (\mathbf{h}^v)^{\prime}_i = \frac{\mathbf{h}^v_i + \sum_{u \in \mathcal{N}(v)} W_{vu}(i) \, \mathbf{h}^u_i}
        {1 + \sum_{u \in \mathcal{N}(v)} W_{vu}(i)}, \qquad W_{vu}(i) = \exp(s_u(i) - s_v(i))

    so that the proposal that is right at a pixel decides there, not the one that is right on the whole. What
    :math:`s_u(i)` looks at is the mask itself, what the memory and X say at the pixel, Q, and the evidence on the node;
    before they decide, proposals hear from each other:

    .. math::
        \mathbf{z}_u = \mathrm{ReLU}(C_1 [\mathbf{h}^u, \mathbf{c}_u, \mathbf{p}]), \qquad
        s_u = C_3 \, \mathrm{ReLU}\Big(C_2 \big[\mathbf{z}_u, \tfrac{1}{|\mathcal{N}(u)|}
        \sum_{w \in \mathcal{N}(u)} \mathbf{z}_w\big]\Big)

    with 3 x 3 convolutions C on a grid of :obj:`size` x :obj:`size` cells, enlarged to the pixels of the mask.
    With :obj:`overrule`, the same convolutions give a term :math:`r(i)`, the mean over the nodes of a graph, that is
    added to the logit of the fused mask, so that evidence may contradict all proposals. The given :obj:`edge_weight`
    and :obj:`edge_attr` are not used. Untrained, all weights are 1 and r is 0.

    Args:
        hidden_channels (int): Channels of the maps. (default: :obj:`16`)
        size (int): Side of the grid. (default: :obj:`32`)
        messages (bool): Proposals hear from each other before they decide. (default: :obj:`True`)
        overrule (bool): See above. (default: :obj:`True`)

    Shapes:
        - **input:** node masks :math:`(|\mathcal{V}|, 1, H, W)`, edge indices :math:`(2, |\mathcal{E}|)`, batch vector
          :math:`(|\mathcal{V}|)`, sorted *(optional)*, evidence :math:`(|\mathcal{V}|, 6)` and at the pixels
          :math:`(B, 5, s, s)`, the maps of :data:`stg_pyg.model.evidence.PIXEL_EVIDENCE` and Q, in the window of
          the masks *(optional, zeros)*
        - **output:** node masks :math:`(|\mathcal{V}|, 1, H, W)`
    """

    def __init__(self, hidden_channels: int = 16, size: int = 32, messages: bool = True, overrule: bool = True):
        super().__init__(aggr="mean", node_dim=0)
        self.hidden_channels, self.size, self.messages, self.overrule = hidden_channels, size, messages, overrule
        # The mask, the mean and the spread of its graph, evidence on the node, at the pixel, and Q.
        self.look = nn.Conv2d(3 + EVIDENCE + PIXEL + 1, hidden_channels, 3, padding=1)
        self.hear = nn.Conv2d(2 * hidden_channels, hidden_channels, 3, padding=1)
        self.out = nn.Conv2d(hidden_channels, 2, 3, padding=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Resets the network to weights of 1."""
        super().reset_parameters()
        self.look.reset_parameters()
        self.hear.reset_parameters()
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: OptTensor = None,
        batch: OptTensor = None,
        edge_attr: OptTensor = None,
        evidence: OptTensor = None,
        pixel: OptTensor = None,
    ) -> Tensor:
        r"""Runs the layer; see the class for shapes."""
        if x.size(0) == 0:
            return x
        own = x.new_zeros(x.size(0), dtype=torch.long) if batch is None else batch
        sizes = torch.unique_consecutive(own, return_counts=True)[1].tolist()
        frames = x.reshape(x.size(0), 1, *((1,) * max(0, 3 - x.dim()) + tuple(x.shape[1:]))[-2:])
        layout = RegionLayout.whole(sizes, frames.size(2), frames.size(3))
        return self.regions(frames, edge_index, None, own, layout, None, evidence, pixel).flat.view(x.shape)

    def regions(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: OptTensor,
        batch: Tensor,
        layout: RegionLayout | None = None,
        edge_attr: OptTensor = None,
        evidence: OptTensor = None,
        pixel: OptTensor = None,
    ) -> MaskRegions:
        r"""Runs the layer inside one window per graph, which is also that of :obj:`pixel`; outside of it masks are 0.

        Args:
            layout (RegionLayout, optional): Sizes and windows of the graphs that have nodes; without it they are found.
        """
        if layout is None:
            sizes = torch.unique_consecutive(batch, return_counts=True)[1].tolist()
            layout = RegionLayout(tuple(sizes), windows_of_masks(x, sizes), (1, x.size(-2), x.size(-1)))
        dtype = x.dtype if x.is_floating_point() else self.out.weight.dtype
        found = MaskRegions.cropped(x, layout, graphs_of(batch, layout), dtype)
        grid = self.coarse(found.values)
        s, r = self.scores(grid, edge_index, batch, evidence, pixel)
        parts = []
        first = 0
        for values, n in zip(found.values, layout.sizes, strict=True):
            nodes = slice(first, first + n)
            first += n
            side = values.shape[-2:]
            if 0 in side:
                parts.append(values.flatten())
                continue
            weight = _enlarged(s[nodes], side)
            fused = self._fused(values, weight, edge_index, nodes)
            if self.overrule:
                term = _enlarged(r[nodes].mean(dim=0, keepdim=True), side).to(fused.dtype)
                odds = fused * torch.exp(term.clamp(-MOST_ODDS, MOST_ODDS))
                fused = odds / (odds + 1 - fused)  # the logit plus r, which leaves 0 and 1 as they are
            parts.append(fused.flatten())
        return MaskRegions(torch.cat(parts), layout, found.graphs, found.tail)

    def _fused(self, values: Tensor, s: Tensor, edge_index: Tensor, nodes: slice) -> Tensor:
        """Eq. 5 [n, 1, h, w] of masks of one graph with the weights of scores s [n, 1, h, w]."""
        source, target = edge_index
        own = (target >= nodes.start) & (target < nodes.stop)
        n = nodes.stop - nodes.start
        if int(own.sum()) == n * (n - 1):  # fully connected: all nodes of a graph agree
            share = torch.softmax(s, dim=0).to(values.dtype)
            return (share * values).sum(dim=0, keepdim=True).expand_as(values)
        loops = torch.arange(n, device=s.device)
        to = torch.cat([target[own] - nodes.start, loops])
        of = torch.cat([source[own] - nodes.start, loops])
        share = softmax(s[of], to, num_nodes=n, dim=0).to(values.dtype)
        return scatter(share * values[of], to, dim=0, dim_size=n, reduce="sum")

    def coarse(self, values: Sequence[Tensor]) -> Tensor:
        r"""The masks of all nodes on the grid :math:`(|\mathcal{V}|, 1, s, s)`."""
        shape, dtype = (self.size, self.size), self.out.weight.dtype
        parts = [
            F.interpolate(part.to(dtype), shape, mode="area")
            if 0 not in part.shape[-2:]
            else part.new_zeros(len(part), 1, *shape, dtype=dtype)
            for part in values
        ]
        return torch.cat(parts)

    def scores(
        self, grid: Tensor, edge_index: Tensor, batch: Tensor, evidence: OptTensor, pixel: OptTensor
    ) -> tuple[Tensor, Tensor]:
        r"""The maps :math:`s` and :math:`r` of every node, :math:`(|\mathcal{V}|, 1, s, s)` each."""
        count = int(batch.max()) + 1
        mean = scatter(grid, batch, dim=0, dim_size=count, reduce="mean")
        spread = scatter(grid.square(), batch, dim=0, dim_size=count, reduce="mean") - mean.square()
        about = grid.new_zeros(len(grid), EVIDENCE) if evidence is None else evidence.to(grid.dtype)
        if pixel is None:
            there = grid.new_zeros(count, PIXEL + 1, *grid.shape[-2:])
        else:
            there = F.interpolate(pixel.to(grid.dtype), grid.shape[-2:], mode="bilinear", align_corners=False)
        seen = [grid, mean[batch], spread[batch], about[:, :, None, None].expand(-1, -1, *grid.shape[-2:])]
        z = self.look(torch.cat([*seen, there[batch]], dim=1)).relu()
        # propagate_type: (z: Tensor)
        heard = self.propagate(edge_index, z=z, size=None) if self.messages else torch.zeros_like(z)
        s, r = self.out(self.hear(torch.cat([z, heard], dim=1)).relu()).split(1, dim=1)
        return STEEPEST * torch.tanh(s / STEEPEST), r

    def message(self, z_j: Tensor) -> Tensor:
        return z_j

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.hidden_channels}, size={self.size}, messages={self.messages})"


def _enlarged(maps: Tensor, side: Sequence[int]) -> Tensor:
    return F.interpolate(maps, (math.ceil(side[0]), math.ceil(side[1])), mode="bilinear", align_corners=False)
