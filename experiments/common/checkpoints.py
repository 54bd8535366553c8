"""Models by preset, and their checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.common.presets import Preset, find_preset
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.model import checkpoint
from stg_pyg.model.checkpoint import SHIPPED, load, load_weights, save
from stg_pyg.model.stgnet import STGNet

__all__ = ["SHIPPED", "load", "load_weights", "save"]


def path_of(text: str) -> Path:
    """A checkpoint as an argument; ``shipped`` is the one that comes with the package."""
    return SHIPPED if text == "shipped" else Path(text)


def build_model(preset: Preset, config: STGConfig | None = None, weights: str | Path = "none") -> STGNet:
    """The network of a preset: a small one from random weights, or the paper's.

    Args:
        config: constants, in the place of the preset's.
        weights: ``auto``, ``none`` or a path for the ResNets and DeepLabv3+ of a paper preset; not for the small ones.

    Raises:
        InputError: weights cannot be had.
    """
    config = config or preset.config
    if preset.size != "small":
        model = STGNet.paper(config, weights, weights, weights, backbone=preset.backbone)
    elif preset.backbone is not None:
        model = STGNet.pretrained(config, preset.backbone, str(weights))
    else:
        model = STGNet.small(config, preset.width)
    model.crop_size = preset.crop_size
    return model


def untrained_model(preset_name: str = "davis2016-small") -> STGNet:
    """A model without a learned part, which runs proposals with masks from outside, for the data of a preset."""
    config = STGConfig.untrained().replace("temporal.key_size", find_preset(preset_name).config.temporal.key_size)
    return STGNet.untrained(config).eval()


def save_model(path: Path, model: STGNet, preset: Preset, seed: int) -> None:
    """:func:`stg_pyg.save_model` with the preset and the seed of the training."""
    model.crop_size = preset.crop_size
    checkpoint.save_model(path, model, preset=preset.name, seed=seed)


def load_model(path: str | Path) -> tuple[STGNet, Preset]:
    """:func:`stg_pyg.load_model` and the preset that the model was trained by.

    Raises:
        InputError: as there, or the preset is unknown.
    """
    path = path_of(str(path))
    model, name = checkpoint.load_model(path), load(path, "model")["preset"]
    try:
        preset = find_preset(name)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, AttributeError) as error:
        raise InputError(f"{path}: its preset is not of this version of stg_pyg; train again") from error
    made_of = model.made_of or {}
    networks = {"width": made_of.get("width", preset.width), "backbone": made_of.get("backbone")}
    return model, dataclasses.replace(preset, crop_size=model.crop_size, **networks)
