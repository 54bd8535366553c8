"""The layers of a model: made from its configuration, and named so that they can be made again."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.nn.made import arguments_of, find_class, format_layer, parse_layer, path_of
from stg_pyg.nn.spatial import registry as spatial_registry
from stg_pyg.nn.spatial.conv_adapter import ConvAdapter
from stg_pyg.nn.temporal import registry as temporal_registry

Query = nn.Module | str


def make_spatial(query: Query, config: STGConfig) -> nn.Module:
    """The layer of the spatial graph; one of ours gets the constants that its text leaves open.

    Raises:
        InputError: it is unknown or does not fit.
    """
    options = spatial_registry.own_options(query, num_steps=config.spatial.num_steps)
    return spatial_registry.resolve_spatial_conv(query, **options)


def make_temporal(query: Query, config: STGConfig) -> nn.Module:
    """The layer of the temporal graph, as :func:`make_spatial`."""
    constants = {name: getattr(config.temporal, name) for name in ("normalize_keys", "temperature", "update")}
    options = temporal_registry.LAYERS.options(query, False, constants)
    return temporal_registry.resolve_temporal_conv(query, **options)


def with_named_layers(config: STGConfig, spatial: nn.Module, temporal: nn.Module) -> STGConfig:
    """The configuration whose ``spatial_conv`` and ``temporal_conv`` make these layers again, weights apart.

    Raises:
        InputError: that cannot be told of a layer: its class cannot be imported by name, its arguments are not known or
            no plain values, or it was changed since it was made.
    """
    with torch.random.fork_rng([]):
        spatial_name, temporal_name = (module.LAYERS.name_of for module in (spatial_registry, temporal_registry))
        texts = {
            "spatial.conv": _text_of(spatial, config.spatial.conv, config, make_spatial, spatial_name),
            "temporal.conv": _text_of(temporal, config.temporal.conv, config, make_temporal, temporal_name),
        }
        return config.replace(texts)


def source_files(config: STGConfig) -> list[Path]:
    """The files that the classes of layers from elsewhere are in, and those beside them that they take classes,
    functions or modules from, which results depend on.

    Raises:
        InputError: such a class cannot be imported.
    """
    names = [parse_layer(text)[0] for text in (config.spatial.conv, config.temporal.conv)]
    files: set[Path] = set()
    for cls in (find_class(name) for name in names if ":" in name):
        own = Path(inspect.getfile(cls))
        files.add(own)
        root = own.parents[cls.__module__.count(".")]  # what it takes from modules beside it counts, too
        _add_imported(sys.modules[cls.__module__], root, files)
    return sorted(files)


def _add_imported(module: ModuleType, root: Path, files: set[Path]) -> None:
    """Adds the files below ``root`` of the modules that a module takes something from, and that these do."""
    for value in list(vars(module).values()):
        origin = value if isinstance(value, ModuleType) else sys.modules.get(str(getattr(value, "__module__", "")))
        file = Path(getattr(origin, "__file__", None) or ".")
        if origin is not None and root in file.parents and "site-packages" not in file.parts and file not in files:
            files.add(file)
            _add_imported(origin, root, files)


def _text_of(
    layer: nn.Module,
    known: str,
    config: STGConfig,
    make: Callable[[Query, STGConfig], nn.Module],
    name_of: Callable[[type], str | None],
) -> str:
    """The text ``known``, if it makes such a layer, else one that does."""
    inner = _without_adapter(layer)
    arguments, name = arguments_of(inner), type(inner).__name__
    with contextlib.suppress(InputError):
        if arguments is not None and _alike(make(known, config), layer):
            return known
    remedy = "make the layer by its name or class, see 'Checkpoints' in docs/layers.md"
    if arguments is None:
        raise InputError(f"the layer {name} cannot be stored: what it was made with is not known; {remedy}")
    try:
        text = format_layer(name_of(type(inner)) or path_of(type(inner)), arguments)
        again = make(text, config)
    except InputError as error:
        raise InputError(f"the layer {name} cannot be stored: {error}; {remedy}") from error
    if not _alike(again, layer):
        raise InputError(f"the layer {name} cannot be stored: it was changed since it was made; {remedy}")
    return text


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two layers are of the same classes, with the same arguments and shapes of weights."""
    kinds = [[(name, type(module)) for name, module in layer.named_modules()] for layer in (one, other)]
    if kinds[0] != kinds[1]:
        return False
    first, second = (_without_adapter(layer) for layer in (one, other))
    if arguments_of(first) != arguments_of(second) or _values(first) != _values(second):
        return False
    states = [layer.state_dict() for layer in (one, other)]
    return states[0].keys() == states[1].keys() and all(
        is_lazy(value) or is_lazy(states[1][name]) or value.shape == states[1][name].shape
        for name, value in states[0].items()
    )


def _values(layer: nn.Module) -> dict[str, Any]:
    """Attributes that are called as arguments of the constructor are."""
    plain = (bool, int, float, str, type(None))
    values = {name: getattr(layer, name, None) for name in inspect.signature(type(layer)).parameters}
    return {name: value for name, value in values.items() if isinstance(value, plain)}


def _without_adapter(layer: nn.Module) -> nn.Module:
    return layer.conv if isinstance(layer, ConvAdapter) else layer
