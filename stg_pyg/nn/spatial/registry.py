"""Spatial layers by name, class or instance, all called alike."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch_geometric.nn.conv as pyg_conv
from torch import Tensor
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter

from stg_pyg.errors import InputError
from stg_pyg.graph.spatial import EDGE_DIM
from stg_pyg.nn.made import make_layer
from stg_pyg.nn.registry import Registry, refuse_arguments
from stg_pyg.nn.spatial.attention_propagation import AttentionPropagation
from stg_pyg.nn.spatial.calls import call_spatial_conv, call_spatial_regions
from stg_pyg.nn.spatial.conv_adapter import ConvAdapter, edge_argument_of
from stg_pyg.nn.spatial.edge_mlp_propagation import EdgeMLPPropagation
from stg_pyg.nn.spatial.evidence_propagation import EvidencePropagation
from stg_pyg.nn.spatial.gru_propagation import GRUPropagation
from stg_pyg.nn.spatial.mask_propagation import MaskPropagation
from stg_pyg.nn.spatial.pixel_propagation import PixelPropagation
from stg_pyg.nn.spatial.symmetric_propagation import SymmetricPropagation
from stg_pyg.nn.trial import check_made_again, check_spatial_layer
from stg_pyg.ops.regions import MaskRegions, RegionLayout, graphs_of

__all__ = ["ConvAdapter", "MeanPropagation", "call_spatial_conv", "call_spatial_regions", "resolve_spatial_conv"]

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


def resolve_spatial_conv(query: str | type | torch.nn.Module, **kwargs: Any) -> torch.nn.Module:
    r"""Finds a spatial layer that is called ``conv(x, edge_index, edge_weight=..., edge_attr=..., batch=...)``.

    What is not ours is tried, see :func:`stg_pyg.nn.trial.check_spatial_layer`.

    Args:
        query: ``"stg"`` or ``"mask_propagation"`` (:class:`MaskPropagation`), ``"mean"`` (:class:`MeanPropagation`),
            ``"attention"``, ``"symmetric"``, ``"gru"`` or ``"edge_mlp"`` (the class of that name), a name of a class,
            the name of a convolution of :mod:`torch_geometric.nn` such as ``"GraphConv"``, or
            ``"package.module:Class"``, each with arguments (``"GraphConv:aggr=mean"``, see
            :func:`stg_pyg.nn.made.parse_layer`); a class, or an instance. What does not take the call natively is
            wrapped into a :class:`ConvAdapter`.
        **kwargs: arguments of the class, none for an instance. ``in_channels``, ``out_channels`` and ``channels`` are
            1 and ``edge_dim`` is 2 where a convolution takes them and they are not given.

    Raises:
        InputError: the name is unknown, the arguments are wrong, or the layer does not fit.
    """
    if isinstance(query, torch.nn.Module):
        refuse_arguments(query, kwargs)
        return _checked(query)
    name, cls, given = LAYERS.find(query)
    if not _is_uniform(cls.forward):
        edge_argument_of(cls.forward, cls.__name__)
    parameters = inspect.signature(cls).parameters
    defaults = {"in_channels": 1, "out_channels": 1, "channels": 1, "edge_dim": EDGE_DIM}
    arguments = {key: value for key, value in defaults.items() if key in parameters} | given | kwargs
    layer = _checked(make_layer(cls, name, arguments))
    if cls not in OWN.values():
        with torch.random.fork_rng([]):
            made = make_layer(cls, name, arguments)
        twin = copy.copy(layer)
        twin._modules = twin._modules | {"conv": made}
        check_made_again(layer, twin if isinstance(layer, ConvAdapter) else made, cls.__name__)
    return layer


def own_options(query: Any, **options: Any) -> dict[str, Any]:
    """Those of some options that an own layer, given by its text, has as arguments and leaves open; none for all else.

    Raises:
        InputError: the layer is unknown.
    """
    return LAYERS.options(query, True, options) if isinstance(query, str) else {}


OWN: dict[str, type] = {
    "stg": MaskPropagation,
    "mask_propagation": MaskPropagation,
    "mean": MeanPropagation,
    "attention": AttentionPropagation,
    "symmetric": SymmetricPropagation,
    "gru": GRUPropagation,
    "edge_mlp": EdgeMLPPropagation,
    "evidence": EvidencePropagation,
    "pixel": PixelPropagation,
}


def stock_layers() -> dict[str, type]:
    """All convolutions of PyTorch Geometric by name; most of them do not fit."""
    found = {key: cls for key, cls in vars(pyg_conv).items() if isinstance(cls, type)}
    return {key: cls for key, cls in found.items() if issubclass(cls, MessagePassing) and cls is not MessagePassing}


@functools.lru_cache
def working_names() -> tuple[str, ...]:
    """The names that resolve without arguments."""
    works = []
    with torch.random.fork_rng([]):
        for name in sorted(stock_layers()):
            with contextlib.suppress(InputError):
                resolve_spatial_conv(name)
                works.append(name)
    return (*OWN, *works)


LAYERS = Registry("spatial", OWN, working_names, stock_layers)


def _is_uniform(forward: Callable[..., Any]) -> bool:
    return set(inspect.signature(forward).parameters) >= _UNIFORM


def _checked(layer: torch.nn.Module) -> torch.nn.Module:
    """The layer, or its adapter."""
    name = type(layer.conv if isinstance(layer, ConvAdapter) else layer).__name__
    if not _is_uniform(layer.forward):
        layer = ConvAdapter(layer)
    if type(layer) not in OWN.values() or getattr(layer, "edge_dim", EDGE_DIM) != EDGE_DIM:
        check_spatial_layer(layer, name)
    return layer
