"""The arguments ``--spatial-conv`` and ``--temporal-conv``, which exchange the layers of the two graphs."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import nn
from torch.nn.parameter import is_lazy

from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.model import STGNet
from stg_pyg.nn import resolve_spatial_conv, resolve_temporal_conv


def add_layers(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds both; ``default`` says in words what they are without."""
    spatial = "stg, attention, edge_mlp, symmetric, gru, mean, or a convolution of PyG"
    temporal = "memory_attention, joint or mean"
    for graph, names in (("spatial", spatial), ("temporal", temporal)):
        text = f"layer of the {graph} graph: {names}; default: {default}"
        parser.add_argument(f"--{graph}-conv", metavar="NAME", help=text)


def with_layers(config: STGConfig, spatial: str | None, temporal: str | None) -> STGConfig:
    """The configuration with the layers that ``--spatial-conv`` and ``--temporal-conv`` name.

    Raises:
        InputError: a name is unknown, or what it names does not fit.
    """
    if spatial is not None:
        resolve_spatial_conv(spatial)
        config = config.with_options(spatial_conv=spatial)
    if temporal is not None:
        resolve_temporal_conv(temporal)
        config = config.with_options(temporal_conv=temporal)
    return config


def check_layers(model: STGNet, config: STGConfig, checkpoint: Path | None) -> None:
    """Sees to it that a model has the weights of the layers of a configuration that it is about to run under.

    Args:
        model: of ``checkpoint``, or without a learned part.
        config: with other layers, perhaps.
        checkpoint: for the message.

    Raises:
        InputError: a layer that takes part has weights, and the model does not hold them.
    """
    other = STGNet.untrained(config)
    wanted = [
        ("--spatial-conv", config.spatial_conv, other.spatial_conv, model.spatial_conv, config.use_spatial),
        ("--temporal-conv", config.temporal_conv, other.memory_attention, model.memory_attention, config.use_temporal),
    ]
    for option, name, layer, own, takes_part in wanted:
        if takes_part and not _holds(own, layer):
            where = "without --checkpoint there are" if checkpoint is None else f"{checkpoint} has"
            raise InputError(
                f"{option} {name}: {where} no weights of this layer; "
                f"train it with python -m experiments.train {option} {name}"
            )


def _holds(own: nn.Module, layer: nn.Module) -> bool:
    """Whether one layer has weights of all the names and shapes that another has."""
    held = own.state_dict()
    return all(
        name in held and (is_lazy(value) or held[name].shape == value.shape)
        for name, value in layer.state_dict().items()
    )
