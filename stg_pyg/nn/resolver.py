"""Spatial layers by name, class or instance, all called alike."""

import copy
import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch_geometric.nn.conv as pyg_conv
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.resolver import normalize_string
from torch_geometric.utils import scatter

from stg_pyg.errors import InputError
from stg_pyg.graph import fully_connected_edge_index
from stg_pyg.nn.attention_propagation import AttentionPropagation
from stg_pyg.nn.edge_mlp_propagation import EdgeMLPPropagation
from stg_pyg.nn.gru_propagation import GRUPropagation
from stg_pyg.nn.mask_propagation import MaskPropagation
from stg_pyg.nn.region import MaskRegions, RegionLayout, graphs_of
from stg_pyg.nn.symmetric_propagation import SymmetricPropagation

_UNIFORM = {"x", "edge_index", "edge_weight", "edge_attr", "batch"}


class MeanPropagation(torch.nn.Module):
    r"""Gives every node the plain mean of the masks of its graph; edges are not used.

    .. math::
        (\mathbf{h}^v)^{\prime} = \frac{1}{N} \sum_u \mathbf{h}^u

    Shapes:
        - **input:** node masks :math:`(|\mathcal{V}|, *)`, batch vector :math:`(|\mathcal{V}|)` *(optional)*
        - **output:** node masks :math:`(|\mathcal{V}|, *)`
    """

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor | None = None,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        edge_attr: Tensor | None = None,
    ) -> Tensor:
        r"""Runs the layer; see the class for shapes."""
        if x.size(0) == 0:
            return x
        if batch is None:
            return x.mean(dim=0, keepdim=True).expand_as(x)
        return scatter(x, batch, dim=0, reduce="mean")[batch]

    def regions(
        self,
        x: Tensor,
        edge_index: Tensor | None,
        edge_weight: Tensor | None,
        batch: Tensor,
        *,
        layout: RegionLayout,
        edge_attr: Tensor | None = None,
    ) -> MaskRegions:
        r"""The means of masks [N, 1, H, W] inside the windows of ``layout``, outside of which they are 0."""
        dtype = edge_weight.dtype if edge_weight is not None else torch.get_default_dtype()
        found = MaskRegions.cropped(x, layout, graphs_of(batch, layout), dtype)
        means = [values.mean(dim=0, keepdim=True).expand_as(values).flatten() for values in found.values]
        return replace(found, flat=torch.cat(means)) if means else found

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}()"


class ConvAdapter(torch.nn.Module):
    r"""A stock convolution of PyTorch Geometric as a spatial layer: all pixels share the graph, a pixel is a channel.

    Masks [N, *] become :math:`(P, N, 1)` node features of a static graph, one for each of the :math:`P` pixels.
    ``edge_weight``, else ``edge_attr``, and ``batch`` are passed by keyword where ``forward`` takes them. Outputs are
    not bounded to [0, 1], and layers that take roots of degrees (``GCNConv``) need ``edge_weight(..., clamp=True)``.

    Args:
        conv (torch.nn.Module): The convolution, of one input and one output channel.
        edge_dim (int): The number of edge attributes that will be passed. (default: :obj:`2`)

    Raises:
        InputError: the convolution does not fit; found here, by its signature and by a trial on three nodes.
    """

    def __init__(self, conv: torch.nn.Module, edge_dim: int = 2):
        super().__init__()
        name = type(conv).__name__
        parameters = inspect.signature(conv.forward).parameters
        edge_arguments = [key for key in ("edge_weight", "edge_attr") if key in parameters]
        if not edge_arguments:
            raise InputError(f"{name} does not fit: its forward takes neither edge_weight nor edge_attr")
        self.edge_argument = edge_arguments[0]
        self.takes_batch = "batch" in parameters
        for key in ("in_channels", "out_channels"):
            if getattr(conv, key, 1) not in (1, (1, 1)):
                raise InputError(f"{name} does not fit: {key} is {getattr(conv, key)}, a mask has 1 channel")
        self.conv = conv
        self._check_static_graph(name, edge_dim)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        edge_attr: Tensor | None = None,
    ) -> Tensor:
        r"""Runs the convolution on masks ``x`` [N, *]; the output has the same shape."""
        return self._run(self.conv, x, edge_index, edge_weight, batch, edge_attr)

    def _run(
        self,
        conv: torch.nn.Module,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None,
        batch: Tensor | None,
        edge_attr: Tensor | None,
    ) -> Tensor:
        kwargs: dict[str, Tensor | None] = {
            self.edge_argument: edge_weight if self.edge_argument == "edge_weight" else edge_attr
        }
        if self.takes_batch:
            kwargs["batch"] = batch
        pixels = x.reshape(x.size(0), math.prod(x.shape[1:])).t().unsqueeze(2)
        return conv(pixels, edge_index, **kwargs).squeeze(2).t().reshape(x.shape)

    def _check_static_graph(self, name: str, edge_dim: int) -> None:
        """Runs a copy on two pixels together and one by one; a layer without static graphs fails or mixes them."""
        conv = copy.deepcopy(self.conv).eval()
        parameter = next(conv.parameters(), torch.empty(0))
        x = torch.tensor([[0.1, 0.9], [0.4, 0.2], [0.8, 0.3]]).to(parameter)
        edges = fully_connected_edge_index(3, device=parameter.device)
        weight = torch.linspace(0.2, 0.9, 6).to(parameter)
        inputs = (edges, weight, torch.zeros_like(edges[0, :3]), weight.unsqueeze(1).repeat(1, edge_dim))
        try:
            with torch.no_grad():
                both = self._run(conv, x, *inputs)
                single = [self._run(conv, part, *inputs) for part in x.split(1, dim=1)]
        except Exception as error:
            raise InputError(f"{name} does not fit: it fails on node features [pixels, nodes, 1] ({error})") from error
        if not torch.allclose(both, torch.cat(single, dim=1), atol=1e-5):
            raise InputError(f"{name} does not fit: it mixes the pixels of node features [pixels, nodes, 1]")


def call_spatial_conv(
    conv: torch.nn.Module,
    x: Tensor,
    edge_index: Tensor,
    *,
    edge_weight: Tensor | None = None,
    edge_attr: Tensor | None = None,
    batch: Tensor | None = None,
    **extras: Tensor | None,
) -> Tensor:
    r"""Calls a layer of :func:`resolve_spatial_conv`, with those of the extras that its ``forward`` names.

    Args:
        conv: the layer.
        x: [N, *] masks.
        edge_index: [2, E].
        edge_weight: [E].
        edge_attr: [E, D].
        batch: [N] sorted graph of every node.
        **extras: ``feat`` [N, F], the features of the nodes, ``boxes`` [N, 4], or whatever own layers ask for.
    """
    taken = _parameters_of(type(conv).forward)
    extras = {key: value for key, value in extras.items() if key in taken}
    return conv(x, edge_index, edge_weight=edge_weight, edge_attr=edge_attr, batch=batch, **extras)


def call_spatial_regions(
    conv: torch.nn.Module,
    x: Tensor,
    edge_index: Tensor,
    layout: RegionLayout,
    *,
    edge_weight: Tensor | None,
    edge_attr: Tensor | None,
    batch: Tensor,
    **extras: Tensor | None,
) -> MaskRegions:
    r"""As :func:`call_spatial_conv`, on masks that are 0 outside of known windows.

    A layer that has :meth:`MaskPropagation.regions`, of the class of its ``forward`` or a class derived from it,
    computes inside of the windows, unless another of its backends was asked for. Other layers may turn 0 into something
    else; they compute whole frames, which are then the windows of the result.

    Args:
        layout: sizes of the graphs that have nodes, and their windows in frames [1, H, W].
    """
    if not _computes_regions(type(conv)) or getattr(conv, "backend", "auto") not in ("auto", "region"):
        extras |= {"edge_weight": edge_weight, "edge_attr": edge_attr, "batch": batch}
        if not x.is_floating_point():
            x = x.to(torch.get_default_dtype() if edge_weight is None else edge_weight.dtype)
        nodes = call_spatial_conv(conv, x, edge_index, **extras)
        whole = RegionLayout.whole(layout.sizes, x.size(-2), x.size(-1))
        return MaskRegions.cropped(nodes, whole, graphs_of(batch, whole))
    regions: Callable[..., MaskRegions] = conv.regions  # type: ignore[assignment]
    taken = _parameters_of(type(conv).regions)  # type: ignore[attr-defined]
    extras = {key: value for key, value in extras.items() if key in taken}
    return regions(x, edge_index, edge_weight, batch, layout=layout, edge_attr=edge_attr, **extras)


def resolve_spatial_conv(query: str | type | torch.nn.Module, **kwargs: Any) -> torch.nn.Module:
    r"""Finds a spatial layer that is called ``conv(x, edge_index, edge_weight=..., edge_attr=..., batch=...)``.

    Args:
        query: ``"stg"`` or ``"mask_propagation"`` (:class:`MaskPropagation`), ``"mean"`` (:class:`MeanPropagation`),
            ``"attention"``, ``"symmetric"``, ``"gru"`` or ``"edge_mlp"`` (the class of that name), a name of a class,
            the name of a convolution of :mod:`torch_geometric.nn` such as ``"GraphConv"``, a class, or an instance.
            What does not take the call natively is wrapped into a :class:`ConvAdapter`.
        **kwargs: arguments of the class, none for an instance. ``in_channels`` and ``out_channels`` are 1 and
            ``edge_dim`` is 2 where a convolution takes them and they are not given.

    Raises:
        InputError: the name is unknown, the arguments are wrong, or the layer does not fit.
    """
    if isinstance(query, torch.nn.Module):
        if kwargs:
            raise InputError(f"{type(query).__name__} is an instance already: do not pass {sorted(kwargs)}")
        return query if _is_uniform(query) else ConvAdapter(query, getattr(query, "edge_dim", None) or 2)
    cls = _class_of(query) if isinstance(query, str) else query
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        raise InputError(f"expected a name, a module class or a module as the spatial layer, got {cls!r}")
    parameters = inspect.signature(cls).parameters
    defaults = {"in_channels": 1, "out_channels": 1, "edge_dim": 2}
    kwargs = {key: value for key, value in defaults.items() if key in parameters} | kwargs
    try:
        conv = cls(**kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"cannot make {cls.__name__} with {kwargs}: {error}") from error
    return conv if _is_uniform(conv) else ConvAdapter(conv, kwargs.get("edge_dim") or 2)


def own_options(query: Any, **options: Any) -> dict[str, Any]:
    """Those of some options that an own layer, given by its name, has as arguments; none for all else."""
    known = {normalize_string(key): cls for name, cls in _OWN.items() for key in (name, cls.__name__)}
    cls = known.get(normalize_string(query)) if isinstance(query, str) else None
    taken = () if cls is None else inspect.signature(cls).parameters
    return {key: value for key, value in options.items() if key in taken}


_OWN: dict[str, type] = {
    "stg": MaskPropagation,
    "mask_propagation": MaskPropagation,
    "mean": MeanPropagation,
    "attention": AttentionPropagation,
    "symmetric": SymmetricPropagation,
    "gru": GRUPropagation,
    "edge_mlp": EdgeMLPPropagation,
}


def _class_of(name: str) -> type:
    own = {normalize_string(key): cls for key, cls in _OWN.items()}
    own |= {normalize_string(cls.__name__): cls for cls in _OWN.values()}
    stock = {key: cls for key, cls in vars(pyg_conv).items() if isinstance(cls, type)}
    stock = {key: cls for key, cls in stock.items() if issubclass(cls, MessagePassing) and cls is not MessagePassing}
    known = own | {normalize_string(key): cls for key, cls in stock.items()}
    cls = known.get(normalize_string(name))
    if cls is None:
        names = ", ".join([*_OWN, *sorted(stock)])
        raise InputError(f"unknown spatial layer '{name}'; known names: {names}")
    return cls


def _computes_regions(cls: type) -> bool:
    """Whether there is ``regions`` and no more derived class has overridden ``forward`` alone."""
    order = cls.__mro__
    regions = next((n for n, base in enumerate(order) if "regions" in vars(base)), len(order))
    return regions <= next(n for n, base in enumerate(order) if "forward" in vars(base))


def _is_uniform(conv: torch.nn.Module) -> bool:
    return set(inspect.signature(conv.forward).parameters) >= _UNIFORM


@functools.lru_cache
def _parameters_of(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)
