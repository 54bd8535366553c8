"""How spatial layers are called, on whole frames and inside of windows."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from stg_pyg.ops.regions import MaskRegions, RegionLayout, graphs_of


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
        edge_index, edge_weight, edge_attr: [2, E], [E] and [E, D].
        batch: [N] sorted graph of every node.
        **extras: ``feat`` [N, F], the features of the nodes, ``boxes`` [N, 4], or whatever own layers ask for.
    """
    taken = _taken(type(conv), "forward")
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
    if not computes_regions(type(conv)) or getattr(conv, "backend", "auto") not in ("auto", "region"):
        extras |= {"edge_weight": edge_weight, "edge_attr": edge_attr, "batch": batch}
        if not x.is_floating_point():
            x = x.to(torch.get_default_dtype() if edge_weight is None else edge_weight.dtype)
        nodes = call_spatial_conv(conv, x, edge_index, **extras)
        whole = RegionLayout.whole(layout.sizes, x.size(-2), x.size(-1))
        return MaskRegions.cropped(nodes, whole, graphs_of(batch, whole))
    taken = _taken(type(conv), "regions")
    extras = {key: value for key, value in extras.items() if key in taken}
    found: MaskRegions = conv.regions(  # type: ignore[operator]
        x, edge_index, edge_weight, batch, layout=layout, edge_attr=edge_attr, **extras
    )
    return found


def computes_regions(cls: type) -> bool:
    """Whether there is ``regions`` and no more derived class has overridden ``forward`` alone."""
    order = cls.__mro__
    regions = next((n for n, base in enumerate(order) if "regions" in vars(base)), len(order))
    return regions <= next(n for n, base in enumerate(order) if "forward" in vars(base))


def spatial_extras(conv: torch.nn.Module) -> frozenset[str]:
    """What a layer is given by name, beside the masks and edges."""
    return _taken(type(conv), "regions" if computes_regions(type(conv)) else "forward")


def _taken(cls: type, method: str) -> frozenset[str]:
    """The arguments that a method names, and those of ``weights`` where it passes others on to that."""
    named, passes_on = _arguments(getattr(cls, method))
    weights = getattr(cls, "weights", None) if passes_on else None
    return named if weights is None else named | _arguments(weights)[0]


@functools.lru_cache
def _arguments(function: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """Their names, and whether there are any others."""
    parameters = inspect.signature(function).parameters
    return frozenset(parameters), any(one.kind is one.VAR_KEYWORD for one in parameters.values())
