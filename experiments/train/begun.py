"""What the weights of a stage depend on, so that a stage which goes on is the one that was begun."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from experiments.common.presets import Preset
from experiments.runs.settings import differences, plain, seen_as
from experiments.train import process_group
from stg_pyg.errors import InputError

_SCORING = ("val_split", "test_alpha")
_SEGMENTATION = ("lucid", "segmentation_", "batch_size", "learning_rate")
_OF_OTHER_STAGES = {
    "detector": ("config", "width", "crop_size", "proposals", "recipe", *_SEGMENTATION, "fine_", "graph_"),
    "segmentation": ("config", "proposals", "detector_", "fine_", "graph_"),
    "graph": ("detector_", "coco_", *_SEGMENTATION, "fine_"),
}
"""How the fields of a preset begin that a stage does not look at; the graph depends on the weights that the stage
before has made, and not on how."""
_MAY_CHANGE = ("device", "threads", "states", "program")
"""What may be another when a run goes on, with a note, as machines and programs change in the middle of a long one."""
_WORDS = {
    "states": "files of the videos",
    "segmentation": "the segmentation network",
    "networks": "weights",
    "origin": "weights",
}
"""How complaints call some settings."""


@dataclass(frozen=True)
class StageSettings:
    """What the weights of a stage depend on. Numbers of processes and of workers change no sample."""

    stage: str
    preset: Preset = field(metadata=seen_as(lambda settings: preset_of_stage(settings.stage, settings.preset)))
    seed: int
    precision: torch.dtype
    accumulate: int
    origin: Any
    """What the weights were before, as plain values."""
    states: str
    """Digest of the states of all files of the videos."""
    device: str
    """Its kind."""
    threads: int


def preset_of_stage(stage: str, preset: Preset) -> dict[str, Any]:
    """The plain values of a preset that a stage looks at."""
    values: dict[str, Any] = plain(preset)
    values["config"] = {path: value for path, value in values["config"].items() if not path.startswith("online.")}
    left_out = (*_SCORING, *_OF_OTHER_STAGES[stage])
    return {name: value for name, value in values.items() if not name.startswith(left_out)}


def check_begun(path: Path, begun: Any, now: dict[str, Any]) -> None:
    """Compares the settings in the checkpoint of a stage with those that it is to go on with.

    What changes rounding alone, the program and the files of the videos may be others; a line says so.

    Raises:
        InputError: anything else is.
    """
    changed = differences(begun, now)
    others = [name for name in changed if name not in _MAY_CHANGE]
    named = ", ".join(_WORDS.get(name, name) for name in others or changed)
    if others:
        raise InputError(
            f"{path}: was begun with other settings ({named}); give the options of then, or remove this file to begin "
            "anew"
        )
    if changed and process_group.is_main():
        print(f"note: {path} was begun otherwise ({named}), so the result is that of neither", file=sys.stderr)
