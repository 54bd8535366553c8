"""The argument ``--set``, by which any constant of the method is changed."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.common.layers_option import exchanged
from experiments.common.presets import Preset
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.model.stgnet import STGNet


def add_constants(parser: argparse._ActionsContainer) -> None:
    """Adds ``--set``."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change a constant of stg_pyg.STGConfig, as spatial.alpha=0.1 or warping.gaps=1,2,4; may be repeated",
    )


def with_constants(config: STGConfig, changes: Sequence[str]) -> STGConfig:
    """The configuration with what ``--set`` says.

    Raises:
        InputError: a path is unknown, a value of the wrong type, or the constants do not fit together.
    """
    try:
        return config.replace(dict(map(_parsed, changes)))
    except InputError as error:
        raise InputError(f"--set {' --set '.join(changes)}: {error}") from error


def check_weights(model: STGNet, preset: Preset, config: STGConfig, checkpoint: Path | None) -> None:
    """Sees to it that a model has all weights that a configuration with other constants asks for.

    Raises:
        InputError: it has not.
    """
    missing = set(exchanged(model, preset, config).state_dict()) - set(model.state_dict())
    if missing:
        where = "without --checkpoint there are" if checkpoint is None else f"{checkpoint} has"
        raise InputError(f"--set: {where} no weights of {min(missing)}, which these constants ask for; train with them")


def _parsed(change: str) -> tuple[str, Any]:
    path, equals, text = change.partition("=")
    if not equals:
        raise InputError(f"{change} is no PATH=VALUE, as spatial.alpha=0.1")
    try:
        return path, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return path, {"none": None, "true": True, "false": False}.get(text.lower(), text)
