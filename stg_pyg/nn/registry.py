"""Layers of a graph by name: ours, those of PyTorch Geometric where they fit, and any class by its path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch_geometric.resolver import normalize_string

from stg_pyg.errors import InputError
from stg_pyg.nn.made import find_class, parse_layer, unknown_name


class Registry:
    """The names of the layers of one graph.

    Args:
        graph: ``spatial`` or ``temporal``.
        own: our classes by name.
        stock: classes of PyTorch Geometric by name.
        names: those that a message about an unknown name tells.
    """

    def __init__(
        self,
        graph: str,
        own: Mapping[str, type],
        names: Callable[[], Sequence[str]],
        stock: Callable[[], Mapping[str, type]] = dict,
    ):
        self.graph, self.own, self.names, self.stock = graph, own, names, stock

    def find(self, query: str | type) -> tuple[str, type[torch.nn.Module], dict[str, Any]]:
        """The name, the class and the given arguments of a text (see :func:`~stg_pyg.nn.made.parse_layer`) or a class.

        Raises:
            InputError: there is none.
        """
        if not isinstance(query, str):
            if isinstance(query, type) and issubclass(query, torch.nn.Module):
                return query.__name__, query, {}
            raise InputError(f"expected a name, a module class or a module as the {self.graph} layer, got {query!r}")
        name, given = parse_layer(query)
        if ":" in name:
            return name, find_class(name), given
        known = {normalize_string(key): cls for key, cls in self.stock().items()}
        known |= {normalize_string(key): cls for own, cls in self.own.items() for key in (cls.__name__, own)}
        if normalize_string(name) not in known:
            raise unknown_name(self.graph, name, self.names())
        return name, known[normalize_string(name)], given

    def name_of(self, cls: type) -> str | None:
        """The name that a class is known by, None for one from elsewhere."""
        return next((name for name, known in (*self.own.items(), *self.stock().items()) if known is cls), None)

    def options(self, query: Any, only_own: bool, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of some options that a layer has as arguments and leaves open; none for an instance.

        Args:
            query: as of :meth:`find`, or an instance.
            only_own: none for layers that are not ours either.
            options: by the names of arguments.

        Raises:
            InputError: the layer is unknown.
        """
        if isinstance(query, torch.nn.Module):
            return {}
        _, cls, given = self.find(query)
        if only_own and cls not in self.own.values():
            return {}
        taken = inspect.signature(cls).parameters
        return {key: value for key, value in options.items() if key in taken and key not in given}


def refuse_arguments(layer: torch.nn.Module, arguments: Mapping[str, Any]) -> None:
    """Raises:
    InputError: an instance is to be made with arguments.
    """
    if arguments:
        raise InputError(f"{type(layer).__name__} is an instance already: do not pass {sorted(arguments)}")
