"""The arguments ``--spatial-conv`` and ``--temporal-conv``, which exchange the layers of the two graphs."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import nn
from torch.nn.parameter import is_lazy

from experiments.common.checkpoints import build_model
from experiments.common.presets import Preset
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.model.layers import make_spatial, make_temporal
from stg_pyg.model.stgnet import STGNet
from stg_pyg.nn import ConvAdapter
from stg_pyg.nn.spatial.registry import OWN, stock_layers

_FORM = "or package.module:Class, each with arguments as in"


def add_layers(parser: argparse._ActionsContainer, default: str) -> None:
    """Adds both; ``default`` says in words what they are without."""
    spatial = f"stg, attention, edge_mlp, symmetric, gru, mean, a convolution of PyG, {_FORM} GraphConv:aggr=mean"
    temporal = f"memory_attention, joint, mean, {_FORM} joint:top_k=20,temperature=0.1"
    for graph, names in (("spatial", spatial), ("temporal", temporal)):
        text = f"layer of the {graph} graph: {names} (docs/layers.md); default: {default}"
        parser.add_argument(f"--{graph}-conv", metavar="LAYER", help=text)


def layer_names(text: str) -> list[str]:
    """The names of a list divided by commas, or by semicolons where arguments have commas."""
    return [name.strip() for name in text.split(";" if ";" in text else ",") if name.strip()]


def on_evidence(name: str) -> str:
    """The layer that a name of a list stands for: a convolution of PyG runs on the evidence on the nodes, where it
    makes sense, and gives the weights of Eq. 5."""
    stock = ":" not in name and name not in OWN and name in stock_layers()
    return f"evidence:conv={name}" if stock else name


def with_layers(config: STGConfig, spatial: str | None, temporal: str | None) -> STGConfig:
    """The configuration with the layers that ``--spatial-conv`` and ``--temporal-conv`` name.

    Raises:
        InputError: a name is unknown, or what it names does not fit.
    """
    for graph, name, make in (("spatial", spatial, make_spatial), ("temporal", temporal, make_temporal)):
        if name is not None:
            try:
                make(name, config)  # type: ignore[operator]
                config = config.replace(f"{graph}.conv", name)
            except InputError as error:
                raise InputError(f"--{graph}-conv: {error}") from error
    return config


def exchanged(model: STGNet, preset: Preset, config: STGConfig) -> STGNet:
    """The same weights under a configuration with other layers."""
    other = STGNet.untrained(config) if model.segmentation is None else build_model(preset, config)
    other.load_state_dict(model.state_dict(), strict=False)
    return other.eval()


def check_layers(model: STGNet, config: STGConfig, checkpoint: Path | None) -> None:
    """Sees to it that a model of ``checkpoint``, or without a learned part, has the weights of the layers of the
    configuration that it is about to run under.

    Raises:
        InputError: a layer that takes part has weights, and the model does not hold them.
    """
    parts = (("spatial", config.spatial, "spatial_conv"), ("temporal", config.temporal, "memory_attention"))
    other = STGNet.untrained(config)
    for graph, part, name in parts:
        if part.enabled and not _holds(getattr(model, name), getattr(other, name)):
            where = "without --checkpoint there are" if checkpoint is None else f"{checkpoint} has"
            option = f"--{graph}-conv {part.conv}"
            raise InputError(
                f"{option}: {where} no weights of this layer; train it with python -m experiments.train {option}"
            )


def _holds(own: nn.Module, layer: nn.Module) -> bool:
    """Whether one layer has weights of all the names and shapes that another has; those of stock convolutions are
    called alike, so there the classes count, too."""
    if isinstance(layer, ConvAdapter) and not (isinstance(own, ConvAdapter) and type(own.conv) is type(layer.conv)):
        return False
    held = own.state_dict()
    return all(n in held and (is_lazy(v) or held[n].shape == v.shape) for n, v in layer.state_dict().items())
