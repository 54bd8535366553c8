"""Checkpoints: written whole or not at all, read without running code of theirs."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.model.layers import with_named_layers
from stg_pyg.model.stgnet import STGNet

FORMAT = "stg_pyg-2"
SHIPPED = Path(__file__).parents[1] / "weights" / "davis2016-small.pt"
"""The checkpoint that comes with the package, see the page beside it; for non-commercial use."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes tensors and plain values under a temporary name, then renames."""
    temporary = path.with_name(f".{path.name}.tmp")  # always the same: what a killed run left is written over
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free space or choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path, kind: str) -> dict[str, Any]:
    """The content of a checkpoint of that kind (``model``, or a stage of training).

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


def save_model(path: str | os.PathLike[str], model: STGNet, **about: Any) -> None:
    """Writes a model with what is needed to build and run it again, its weights in half precision if that holds them.

    Args:
        model: made by a class method of :class:`STGNet`, as :meth:`STGNet.small`.
        **about: plain values that :func:`load` finds again.

    Raises:
        InputError: the model was put together by hand, one of its layers cannot be named
            (:func:`stg_pyg.model.layers.with_named_layers`), or the file cannot be written.
    """
    if model.made_of is None:
        raise InputError(f"{path}: a model put together by hand cannot be built again; store its state_dict()")
    try:
        config = with_named_layers(model.config, model.spatial_conv, model.memory_attention)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    state = {name: _halved(value) for name, value in model.state_dict().items()}
    made_of = {"network": model.made_of, "crop_size": model.crop_size, "config": config.to_dict()}
    save(Path(path), {"kind": "model", **made_of, **about, "model": state})


def _halved(value: Tensor) -> Tensor:
    """The tensor in half precision, as it is where that would overflow."""
    if not value.is_floating_point():
        return value
    half = value.half()
    return half if bool((half.isfinite() | ~value.isfinite()).all()) else value


def load_model(path: str | os.PathLike[str] = "shipped") -> STGNet:
    """The model of a checkpoint, ready to segment; ``"shipped"`` is the one that comes with the package.

    Nothing is unpickled, and nothing downloaded. A layer from elsewhere is imported by its name.

    Raises:
        InputError: the file is missing, damaged, or of another version.
    """
    path = SHIPPED if str(path) == "shipped" else Path(path)
    content = load(path, "model")
    try:
        model = build(content["network"], STGConfig.from_dict(content["config"]))
        model.crop_size = int(content["crop_size"])
    except InputError as error:
        raise InputError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    except (TypeError, ValueError, AttributeError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: its configuration is not of this version of stg_pyg; train again") from error
    load_weights(model, content["model"], path)
    return model.eval()


def build(made_of: dict[str, Any], config: STGConfig) -> STGNet:
    """A network as :attr:`STGNet.made_of` says, with random weights."""
    makers = {
        "pretrained": STGNet.pretrained,
        "small": STGNet.small,
        "paper": STGNet.paper,
        "untrained": STGNet.untrained,
    }
    options = {name: value for name, value in made_of.items() if name != "name"}
    if made_of["name"] == "paper":
        options |= {"features": "none", "keys": "none", "segmentation": "none"}
    return makers[made_of["name"]](config, **options)  # type: ignore[operator]
