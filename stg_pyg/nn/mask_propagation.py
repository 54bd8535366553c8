"""Mask propagation over the spatial graph, Eqs. 4 and 5."""

import math

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.typing import Adj, OptTensor
from torch_geometric.utils import is_sparse, scatter, spmm, to_edge_index, to_torch_csr_tensor

BACKENDS = ("auto", "edgewise", "fused", "closed")
_SMALL_GRAPH = 64


class MaskPropagation(MessagePassing):
    r"""The mask propagation operator of the `"Spatiotemporal Graph Neural Network based Mask Reconstruction for Video
    Object Segmentation" <https://arxiv.org/abs/2012.05499>`_ paper (Eqs. 4 and 5, with :math:`W_{vv} = 0`).

    .. math::
        \mathbf{m}^v &= \sum_{u \in \mathcal{N}(v)} W_{vu} \mathbf{h}^u

        (\mathbf{h}^v)^{\prime} &= \frac{\mathbf{h}^v + \mathbf{m}^v}{1 + \sum_{u \in \mathcal{N}(v)} W_{vu}}

    where :math:`W_{vu}` is the weight of the edge from source :math:`u` to target :math:`v` (default: 1). The weights
    stay the same in all steps, so :math:`l` of them are one linear map :math:`\mathbf{A}^l` with
    :math:`\mathbf{A} = (\mathbf{I} + \mathbf{W}) / (1 + \mathbf{W} \mathbf{1})`. A node without edges keeps its mask.
    No self-loops are added; one in the input counts as any other edge.

    Args:
        num_steps (int): The number of steps :math:`l`. (default: :obj:`2`)
        backend (str): How it is computed; all give the same result.
            :obj:`"edgewise"` forms a message per edge.
            :obj:`"fused"` multiplies with the sparse matrix, step by step.
            :obj:`"closed"` forms :math:`\mathbf{A}^l`, a dense block per graph of :obj:`batch`, and reads the masks
            once; without :obj:`batch` there is a single block of all nodes.
            :obj:`"auto"` takes :obj:`"fused"` for a sparse adjacency and for a large sparse edge list without
            :obj:`batch`, and :obj:`"closed"` otherwise. (default: :obj:`"auto"`)

    Shapes:
        - **input:** node masks :math:`(|\mathcal{V}|, *)`, edge indices :math:`(2, |\mathcal{E}|)` or a sparse
          transposed adjacency :math:`(|\mathcal{V}|, |\mathcal{V}|)` whose values are the weights,
          edge weights :math:`(|\mathcal{E}|)` *(optional)*, batch vector :math:`(|\mathcal{V}|)`, sorted *(optional)*
        - **output:** node masks :math:`(|\mathcal{V}|, *)`
    """

    def __init__(self, num_steps: int = 2, backend: str = "auto"):
        super().__init__(aggr="sum", node_dim=0)
        if num_steps < 0:
            raise ValueError(f"'num_steps' must not be negative (got {num_steps})")
        if backend not in BACKENDS:
            raise ValueError(f"'backend' must be one of {BACKENDS} (got '{backend}')")
        self.num_steps = num_steps
        self.backend = backend
        self.reset_parameters()

    def forward(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_weight: OptTensor = None,
        batch: OptTensor = None,
        edge_attr: OptTensor = None,
    ) -> Tensor:
        r"""Runs the propagation.

        Args:
            x (torch.Tensor): The floating point masks.
            edge_index (torch.Tensor or SparseTensor): The edge indices, or the sparse transposed adjacency.
            edge_weight (torch.Tensor, optional): The edge weights :math:`W_{vu}` of an edge list.
            batch (torch.Tensor, optional): The sorted batch vector.
            edge_attr (torch.Tensor, optional): Not used; taken so that all spatial layers are called alike.

        Raises:
            ValueError: :obj:`edge_weight` is given next to a sparse adjacency, :obj:`x` is not floating point, or an
                edge joins two graphs of :obj:`batch`.
        """
        if is_sparse(edge_index) and edge_weight is not None:
            raise ValueError("'edge_weight' is ambiguous next to a sparse adjacency: put the weights into its values")
        if not x.is_floating_point():
            raise ValueError(f"'x' must be floating point (got {x.dtype}): convert the masks first")
        h = x.reshape(x.size(0), math.prod(x.shape[1:]))
        if x.size(0) > 0 and self.num_steps > 0:
            backend = self._choose_backend(h, edge_index, batch)
            if backend == "closed":
                h = self._closed(h, edge_index, edge_weight, batch)
            else:
                h = self._stepwise(h, edge_index, edge_weight, fused=backend == "fused")
        return h.view(x.shape)

    def _choose_backend(self, h: Tensor, edge_index: Adj, batch: OptTensor) -> str:
        if self.backend != "auto":
            return self.backend
        if is_sparse(edge_index):
            return "fused"
        num_nodes = h.size(0)
        dense = num_nodes <= _SMALL_GRAPH or 2 * edge_index.size(1) >= num_nodes * (num_nodes - 1)
        return "closed" if dense or batch is not None else "fused"

    def _stepwise(self, h: Tensor, edge_index: Adj, edge_weight: OptTensor, fused: bool) -> Tensor:
        edges, weight = _edge_list(edge_index, edge_weight, h.dtype)
        norm = _normalization(edges[1], weight, h.size(0)).unsqueeze(1)
        adj: Adj = edges
        if fused:
            adj = to_torch_csr_tensor(edges.flip(0), weight, size=(h.size(0), h.size(0)))
        for _ in range(self.num_steps):
            # propagate_type: (x: Tensor, edge_weight: Tensor)
            h = (h + self.propagate(adj, x=h, edge_weight=weight, size=None)) / norm
        return h

    def _closed(self, h: Tensor, edge_index: Adj, edge_weight: OptTensor, batch: OptTensor) -> Tensor:
        # A product of small matrices is exact enough only from float32 on, also under autocast.
        dtype = h.dtype if h.dtype == torch.float64 else torch.float32
        edges, weight = _edge_list(edge_index, edge_weight, dtype)
        source, target = edges[0], edges[1]
        sizes, row, column = _block_layout(source, target, h.size(0), batch)
        norm = _normalization(target, weight, h.size(0))
        blocks = weight.new_zeros(sum(n * n for n in sizes))
        blocks = blocks.index_add(0, row[target] + column[source], weight / norm[target])
        blocks = blocks.index_add(0, row + column, norm.reciprocal())
        return _apply_blocks(blocks, h, sizes, self.num_steps)

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        return edge_weight.view(-1, 1) * x_j

    def message_and_aggregate(self, adj_t: Adj, x: Tensor) -> Tensor:
        return spmm(adj_t, x, reduce="sum")

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(num_steps={self.num_steps}, backend='{self.backend}')"


def _edge_list(edge_index: Adj, edge_weight: OptTensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Edge indices (source, target) and weights of ``dtype``, from either form of the input."""
    if is_sparse(edge_index):
        edges, values = to_edge_index(edge_index)
        return edges.flip(0), values.to(dtype)
    assert isinstance(edge_index, Tensor)
    if edge_weight is None:
        return edge_index, torch.ones(edge_index.size(1), dtype=dtype, device=edge_index.device)
    return edge_index, edge_weight.view(-1).to(dtype)


def _normalization(target: Tensor, weight: Tensor, num_nodes: int) -> Tensor:
    """The denominators [N] of Eq. 5."""
    return 1 + scatter(weight, target, dim=0, dim_size=num_nodes, reduce="sum")


def _block_layout(
    source: Tensor, target: Tensor, num_nodes: int, batch: Tensor | None
) -> tuple[list[int], Tensor, Tensor]:
    """Where the dense blocks of all graphs lie in one flat tensor.

    Returns the sizes of the graphs that have nodes, and for each node the place where its row starts and its column:
    element (v, u) is at ``row[v] + column[u]``.
    """
    node = torch.arange(num_nodes, device=target.device)
    if batch is None:
        return [num_nodes], node * num_nodes, node
    _, graph, count = torch.unique_consecutive(batch, return_inverse=True, return_counts=True)
    if bool((graph[source] != graph[target]).any()):
        raise ValueError("an edge joins two graphs of 'batch', or 'batch' is not sorted")
    column = node - (count.cumsum(0) - count)[graph]
    square = count * count
    row = (square.cumsum(0) - square)[graph] + column * count[graph]
    return count.tolist(), row, column


def _apply_blocks(blocks: Tensor, h: Tensor, sizes: list[int], num_steps: int) -> Tensor:
    """The block-diagonal matrix of the flat ``blocks``, to the power of ``num_steps``, times ``h`` [N, F]."""
    if len(set(sizes)) == 1:
        power = _matrix_power(blocks.view(len(sizes), sizes[0], sizes[0]), num_steps).to(h.dtype)
        return torch.matmul(power, h.view(len(sizes), sizes[0], h.size(1))).view(h.shape)
    parts = zip(blocks.split([n * n for n in sizes]), h.split(sizes), sizes, strict=True)
    return torch.cat([_matrix_power(a.view(n, n), num_steps).to(h.dtype) @ part for a, part, n in parts])


def _matrix_power(matrix: Tensor, exponent: int) -> Tensor:
    with torch.autocast(matrix.device.type, enabled=False):
        return torch.linalg.matrix_power(matrix, exponent)
