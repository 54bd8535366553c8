"""Mask propagation over the spatial graph, Eqs. 4 and 5."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.nn import MessagePassing
from torch_geometric.typing import Adj, OptTensor
from torch_geometric.utils import is_sparse, scatter, spmm, to_edge_index, to_torch_csr_tensor

from stg_pyg.nn.made import keeps_arguments
from stg_pyg.ops.regions import MaskRegions, RegionLayout, region_product, windows_of_boxes, windows_of_masks

BACKENDS = ("auto", "edgewise", "fused", "closed", "region")
_SMALL_GRAPH = 64
_STEPS = ("message", "aggregate", "update", "message_and_aggregate")
_HOOKED = ("message", "aggregate", "message_and_aggregate", "propagate")
_HOOKS = ("pre_hooks", "hooks")


@keeps_arguments
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
            :obj:`"region"` does the same inside one window per graph, outside of which all its masks are 0; masks may
            be bool or uint8. :meth:`regions` returns the windows alone, which saves writing the zeros.
            :obj:`"auto"` takes :obj:`"fused"` for a sparse adjacency and for a large sparse edge list without
            :obj:`batch`, and :obj:`"closed"` otherwise. Where a hook of message passing is registered, an explainer
            looks on, or a derived class overrides one of its methods, it takes what calls them: :obj:`"edgewise"`, or
            :obj:`"fused"` for :meth:`message_and_aggregate`. (default: :obj:`"auto"`)

    Shapes:
        - **input:** node masks :math:`(|\mathcal{V}|, *)`, edge indices :math:`(2, |\mathcal{E}|)`, also as an
          :class:`~torch_geometric.EdgeIndex`, or a sparse transposed adjacency
          :math:`(|\mathcal{V}|, |\mathcal{V}|)` whose values are the weights,
          edge weights :math:`(|\mathcal{E}|)` *(optional)*, batch vector :math:`(|\mathcal{V}|)`, sorted *(optional)*,
          boxes :math:`(|\mathcal{V}|, 4)` *(optional)*
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

    def forward(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_weight: OptTensor = None,
        batch: OptTensor = None,
        edge_attr: OptTensor = None,
        boxes: OptTensor = None,
        sizes: Sequence[int] | None = None,
        **extras: Any,
    ) -> Tensor:
        r"""Runs the propagation.

        Args:
            x (torch.Tensor): The floating point masks; bool or uint8 ones with :obj:`backend="region"`.
            edge_index (torch.Tensor or SparseTensor): The edge indices, or the sparse transposed adjacency.
            edge_weight (torch.Tensor, optional): The edge weights :math:`W_{vu}` of an edge list.
            batch (torch.Tensor, optional): The sorted batch vector.
            edge_attr (torch.Tensor, optional): The edge attributes, for :meth:`weights`.
            boxes (torch.Tensor, optional): See :meth:`regions`; used by :obj:`backend="region"` only.
            sizes (list of int, optional): The number of nodes of each graph, from a caller who knows them, instead of
                :obj:`batch`: nothing is read back from the device, and
                :obj:`torch.compile(..., fullgraph=True)` compiles the layer. Edges are not checked then.
            **extras: What :meth:`weights` of a derived class takes beside these.

        Raises:
            ValueError: :obj:`edge_weight` is given next to a sparse adjacency, :obj:`x` is not floating point, an
                edge joins two graphs of :obj:`batch`, or :obj:`sizes` do not add up to the number of nodes.
        """
        edge_index = _plain(edge_index)
        if self.backend == "region":
            found = MaskPropagation.regions(
                self, x, edge_index, edge_weight, batch, boxes, edge_attr=edge_attr, **extras
            )
            return found.to_frame().view(x.shape)
        edge_weight = self._checked_weights(x, edge_index, edge_weight, edge_attr, extras)
        if not x.is_floating_point():
            raise ValueError(f"'x' must be floating point (got {x.dtype}): convert the masks, or use backend='region'")
        h = x.reshape(x.size(0), math.prod(x.shape[1:]))
        if x.size(0) > 0 and self.num_steps > 0:
            backend = self._choose_backend(h, edge_index, batch, sizes)
            if backend == "closed":
                counts, powers = self._powers(edge_index, edge_weight, h.size(0), batch, h.dtype, sizes)
                h = _apply_powers(powers, h, counts)
            else:
                h = self._stepwise(h, edge_index, edge_weight, fused=backend == "fused")
        return h.view(x.shape)

    def regions(
        self,
        x: Tensor,
        edge_index: Adj,
        edge_weight: OptTensor = None,
        batch: OptTensor = None,
        boxes: OptTensor = None,
        layout: RegionLayout | None = None,
        edge_attr: OptTensor = None,
        **extras: Any,
    ) -> MaskRegions:
        r"""Runs the propagation inside one window per graph and returns the windows alone, whatever the backend.

        Args:
            x (torch.Tensor): The masks :math:`(|\mathcal{V}|, *, H, W)`, floating point, bool or uint8.
            edge_index, edge_weight, batch, edge_attr, **extras: See :meth:`forward`.
            boxes (torch.Tensor, optional): Boxes of the nodes :math:`(|\mathcal{V}|, 4)`, or else of the graphs
                :math:`(B, 4)`, as (x0, y0, x1, y1) in pixels. The window of a graph is the one around all its boxes;
                masks outside of it are taken as 0. By default, windows are found from the pixels that are not 0,
                which reads all masks. No gradient goes to pixels outside of the windows.
            layout (RegionLayout, optional): Sizes of the graphs that have nodes and their windows, instead of
                :obj:`boxes`, from a caller who knows them: nothing is read back from the device.

        Raises:
            ValueError: as for :meth:`forward`, or the number of boxes is neither that of nodes nor that of graphs.
        """
        edge_index = _plain(edge_index)
        edge_weight = self._checked_weights(x, edge_index, edge_weight, edge_attr, extras)
        if not x.is_floating_point() and x.dtype not in (torch.bool, torch.uint8):
            raise ValueError(f"'x' must be floating point, bool or uint8 (got {x.dtype})")
        dtype = x.dtype if x.is_floating_point() else _weight_dtype(edge_index, edge_weight)
        tail = (1,) * max(0, 3 - x.dim()) + tuple(x.shape[1:])
        frames = x.reshape(x.size(0), math.prod(tail[:-2]), *tail[-2:])
        known = None if layout is None else layout.sizes
        sizes, powers = self._powers(edge_index, edge_weight, x.size(0), batch, dtype, known)
        first = torch.tensor(sizes, dtype=torch.long, device=x.device).cumsum(0) - 1
        graphs = torch.zeros_like(first) if batch is None else batch[first]
        if layout is None:
            if boxes is None:
                windows = windows_of_masks(frames, sizes)
            else:
                windows = windows_of_boxes(_node_boxes(boxes, x.size(0), batch), sizes, *tail[-2:])
            layout = RegionLayout(tuple(sizes), windows, (frames.size(1), frames.size(2), frames.size(3)))
        if self.backend == "auto" and self._observed() and len(frames):
            h = self._stepwise(frames.flatten(1).to(dtype), edge_index, edge_weight, self._observed() == "fused")
            flat = MaskRegions.cropped(h.view(frames.shape), layout, graphs).flat
        else:
            flat = region_product(frames, powers, layout, dtype)
        return MaskRegions(flat, layout, graphs, tail)

    def weights(
        self, x: Tensor, edge_index: Adj, edge_weight: OptTensor = None, edge_attr: OptTensor = None
    ) -> OptTensor:
        r"""The edge weights :math:`(|\mathcal{E}|)`, here those that are given. A layer with others overrides this
        alone; what it takes beside these arguments, it is given by name."""
        return edge_weight

    def coefficients(self, edge_index: Tensor, edge_weight: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
        r"""One step as a matrix: its elements :math:`(|\mathcal{E}|)` at the edges, and those of the nodes themselves
        :math:`(|\mathcal{V}|)`. A layer with another fixed linear step overrides this alone."""
        norm = 1 + scatter(edge_weight, edge_index[1], dim=0, dim_size=num_nodes, reduce="sum")
        return edge_weight / norm[edge_index[1]], norm.reciprocal()

    def _checked_weights(
        self, x: Tensor, edge_index: Adj, edge_weight: OptTensor, edge_attr: OptTensor, extras: dict[str, Any]
    ) -> OptTensor:
        edge_weight = self.weights(x, edge_index, edge_weight, edge_attr, **extras)
        if is_sparse(edge_index) and edge_weight is not None:
            raise ValueError("'edge_weight' is ambiguous next to a sparse adjacency: put the weights into its values")
        return edge_weight

    def _observed(self) -> str | None:
        """The backend that calls the hooks of message passing that there are, the explainer, or the steps that a
        derived class has overridden; None without any."""
        overridden = [name for name in _STEPS if getattr(type(self), name) is not getattr(MaskPropagation, name)]
        if overridden:
            return "fused" if overridden == ["message_and_aggregate"] else "edgewise"
        hooked = [step for step in _HOOKED if any(getattr(self, f"_{step}_forward_{kind}") for kind in _HOOKS)]
        if hooked[:1] == ["message_and_aggregate"] and not self.explain:
            return "fused"
        return "edgewise" if hooked or self.explain else None

    def _choose_backend(self, h: Tensor, edge_index: Adj, batch: OptTensor, sizes: Sequence[int] | None = None) -> str:
        if self.backend != "auto":
            return self.backend
        if observed := self._observed():
            return observed
        if is_sparse(edge_index):
            return "fused"
        num_nodes = h.size(0)
        dense = num_nodes <= _SMALL_GRAPH or 2 * edge_index.size(1) >= num_nodes * (num_nodes - 1)
        return "closed" if dense or batch is not None or sizes is not None else "fused"

    def _stepwise(self, h: Tensor, edge_index: Adj, edge_weight: OptTensor, fused: bool) -> Tensor:
        dtype = h.dtype
        if fused and dtype in (torch.float16, torch.bfloat16):
            h = h.float()  # there are no sparse products of half precision on every device
        edges, weight = _edge_list(edge_index, edge_weight, h.dtype)
        weight, own = self.coefficients(edges, weight, h.size(0))
        adj: Adj = edges
        if fused:
            adj = to_torch_csr_tensor(edges.flip(0), weight, size=(h.size(0), h.size(0)))
        for _ in range(self.num_steps):
            # propagate_type: (x: Tensor, edge_weight: Tensor)
            h = own.unsqueeze(1) * h + self.propagate(adj, x=h, edge_weight=weight, size=None)
        return h.to(dtype)

    def _powers(
        self,
        edge_index: Adj,
        edge_weight: OptTensor,
        num_nodes: int,
        batch: OptTensor,
        dtype: torch.dtype,
        known_sizes: Sequence[int] | None = None,
    ) -> tuple[list[int], list[Tensor]]:
        """The sizes n of the graphs that have nodes, and the l-th power [n, n] of the step of each, as ``dtype``."""
        # A product of small matrices is exact enough only from float32 on, also under autocast.
        working = dtype if dtype == torch.float64 else torch.float32
        edges, weight = _edge_list(edge_index, edge_weight, working)
        sizes, row, column = _block_layout(edges[0], edges[1], num_nodes, batch, known_sizes)
        weight, own = self.coefficients(edges, weight, num_nodes)
        blocks = weight.new_zeros(sum(n * n for n in sizes))
        blocks = blocks.index_add(0, row[edges[1]] + column[edges[0]], weight)
        blocks = blocks.index_add(0, row + column, own)
        if len(set(sizes)) == 1:
            powers = _matrix_power(blocks.view(len(sizes), sizes[0], sizes[0]), self.num_steps)
            return sizes, list(powers.to(dtype).unbind())
        parts = zip(blocks.split([n * n for n in sizes]), sizes, strict=True)
        return sizes, [_matrix_power(part.view(n, n), self.num_steps).to(dtype) for part, n in parts]

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        return edge_weight.view(-1, 1) * x_j

    def message_and_aggregate(self, adj_t: Adj, x: Tensor) -> Tensor:
        return spmm(adj_t, x, reduce="sum")

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(num_steps={self.num_steps}, backend='{self.backend}')"


def _plain(edge_index: Adj) -> Adj:
    return edge_index.as_tensor() if isinstance(edge_index, EdgeIndex) else edge_index


def _weight_dtype(edge_index: Adj, edge_weight: OptTensor) -> torch.dtype:
    """The dtype of results where the masks have none: that of the weights, or the default one."""
    values = to_edge_index(edge_index)[1] if is_sparse(edge_index) else edge_weight
    return values.dtype if values is not None and values.is_floating_point() else torch.get_default_dtype()


def _node_boxes(boxes: Tensor, num_nodes: int, batch: OptTensor) -> Tensor:
    """Boxes [N, 4] of the nodes, from theirs or from those of the graphs."""
    if boxes.dim() == 2 and boxes.size(1) == 4:
        if boxes.size(0) == num_nodes:
            return boxes
        graph = torch.zeros(num_nodes, dtype=torch.long, device=boxes.device) if batch is None else batch
        if num_nodes == 0 or int(graph.max()) < boxes.size(0):
            return boxes[graph]
    raise ValueError(f"'boxes' must be [{num_nodes}, 4] of nodes or [B, 4] of graphs (got {list(boxes.shape)})")


def _edge_list(edge_index: Adj, edge_weight: OptTensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Edge indices (source, target) and weights of ``dtype``, from either form of the input."""
    if is_sparse(edge_index):
        edges, values = to_edge_index(edge_index)
        return edges.flip(0), values.to(dtype)
    assert isinstance(edge_index, Tensor)
    if edge_weight is None:
        return edge_index, torch.ones(edge_index.size(1), dtype=dtype, device=edge_index.device)
    return edge_index, edge_weight.view(-1).to(dtype)


def _block_layout(
    source: Tensor, target: Tensor, num_nodes: int, batch: Tensor | None, known_sizes: Sequence[int] | None = None
) -> tuple[list[int], Tensor, Tensor]:
    """Where the dense blocks of all graphs lie in one flat tensor; with ``known_sizes`` nothing is checked.

    Returns the sizes of the graphs that have nodes, and for each node the place where its row starts and its column:
    element (v, u) is at ``row[v] + column[u]``.
    """
    node = torch.arange(num_nodes, device=target.device)
    if known_sizes is not None:
        sizes = [size for size in known_sizes if size]
        if sum(sizes) != num_nodes:
            raise ValueError(f"'sizes' add up to {sum(sizes)} and there are {num_nodes} nodes")
        count = torch.tensor(sizes, dtype=torch.long)
        square = count * count
        starts = torch.stack([count, count.cumsum(0) - count, square.cumsum(0) - square])
        own, first, start = starts.repeat_interleave(count, dim=1, output_size=num_nodes).unbind()
        column = torch.arange(num_nodes) - first
        row = start + column * own
        return sizes, row.to(target.device), column.to(target.device)
    if batch is None:
        return [num_nodes], node * num_nodes, node
    _, graph, count = torch.unique_consecutive(batch, return_inverse=True, return_counts=True)
    if bool((graph[source] != graph[target]).any()):
        raise ValueError("an edge joins two graphs of 'batch', or 'batch' is not sorted")
    column = node - (count.cumsum(0) - count)[graph]
    square = count * count
    row = (square.cumsum(0) - square)[graph] + column * count[graph]
    return count.tolist(), row, column


def _apply_powers(powers: list[Tensor], h: Tensor, sizes: list[int]) -> Tensor:
    """The block-diagonal matrix of ``powers`` times ``h`` [N, F]."""
    if len(set(sizes)) == 1:
        return torch.matmul(torch.stack(powers), h.view(len(sizes), sizes[0], h.size(1))).view(h.shape)
    return torch.cat([power @ part for power, part in zip(powers, h.split(sizes), strict=True)])


def _matrix_power(matrix: Tensor, exponent: int) -> Tensor:
    with torch.autocast(matrix.device.type, enabled=False):
        return torch.linalg.matrix_power(matrix, exponent)
