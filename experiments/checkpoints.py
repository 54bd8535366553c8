"""Checkpoints: written whole or not at all, read without running code of theirs."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.presets import Preset, find_preset
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.layers import with_named_layers
from stg_pyg.model import STGNet

FORMAT = "stg_pyg-1"
SHIPPED = Path(__file__).parent / "weights" / "davis2016-small.pt"
"""The checkpoint that comes with the repository, see the page beside it."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors and plain values under a temporary name, then renames."""
    temporary = path.with_name(f".{path.name}.tmp")  # always the same: what a killed run left is written over
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free space or choose another --out") from error
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, kind: str) -> dict[str, Any]:
    """The content of a checkpoint of that kind (``model``, ``segmentation`` or ``graph``).

    Raises:
        InputError: the file is missing, damaged, or something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; make one with python -m experiments.train")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path}: not a readable checkpoint; train again or copy it again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("kind") != kind:
        raise InputError(f"{path}: not a {kind} checkpoint of this version of stg_pyg ({FORMAT})")
    return _Content(path, content)


class _Content(dict[str, Any]):
    """What a checkpoint holds; what it should hold and does not is bad input."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        super().__init__(content)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise InputError(f"{self._path}: has no {name}, so another version of stg_pyg made it; train again")


def load_weights(module: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Loads a state dict.

    Raises:
        InputError: names or shapes differ, or a weight is not finite.
    """
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: has no weights where they belong; train again or copy it again")
    bad = [name for name, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise InputError(f"{path}: {bad[0]} has values that are not finite; take an earlier checkpoint")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path}: made by another network configuration; train again with this preset") from error


def build_model(preset: Preset, config: STGConfig | None = None, weights: str | Path = "none") -> STGNet:
    """The network of a preset: a small one from random weights, or the paper's.

    Args:
        config: constants, in the place of the preset's.
        weights: ``auto``, ``none`` or a path for the ResNets and DeepLabv3+ of a paper preset; not for the small ones.

    Raises:
        InputError: weights cannot be had.
    """
    config = config or preset.config
    if preset.size == "small":
        return STGNet.small(config, preset.width)
    return STGNet.paper(config, features=weights, keys=weights, segmentation=weights)


def untrained_model(preset_name: str = "davis2016-small") -> STGNet:
    """A model without a learned part, which runs proposals with masks from outside, for the data of a preset."""
    config = STGConfig.untrained().with_options(key_size=find_preset(preset_name).config.key_size)
    return STGNet.untrained(config).eval()


def save_model(path: Path, model: STGNet, preset: Preset, seed: int) -> None:
    """Writes a model with what is needed to build and run it again, its weights in half precision if that holds them.

    Raises:
        InputError: one of its layers cannot be named, see :func:`stg_pyg.layers.with_named_layers`, or has weights that
            have no shape yet, or the file cannot be written.
    """
    try:
        config = with_named_layers(model.config, model.spatial_conv, model.memory_attention)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    state = {name: _halved(value) for name, value in model.state_dict().items()}
    made_of = {"preset": preset.name, "crop_size": preset.crop_size, "config": config.to_dict(), "seed": seed}
    save(path, {"kind": "model", **made_of, "model": state})


def _halved(value: Tensor) -> Tensor:
    """The tensor in half precision, as it is where that would overflow."""
    if not value.is_floating_point():
        return value
    half = value.half()
    return half if bool((half.isfinite() | ~value.isfinite()).all()) else value


def load_model(path: str | Path) -> tuple[STGNet, Preset]:
    """The model of a checkpoint and the preset it was trained by."""
    path = Path(path)
    content = load(path, "model")
    try:
        preset = find_preset(content["preset"])
        preset = dataclasses.replace(preset, crop_size=int(content.get("crop_size", preset.crop_size)))
        model = build_model(preset, STGConfig.from_dict(content["config"]))
    except InputError as error:
        raise InputError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: its configuration is not of this version of stg_pyg; train again") from error
    load_weights(model, content["model"], path)
    return model.eval(), preset
