"""What is to be run over the videos of a split."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from experiments.common.presets import Preset
from experiments.runs.rows import Row
from experiments.runs.settings import fingerprint, flow_state, no_influence, raft_state, seen_as


@dataclass(frozen=True)
class Job:
    """What a process needs to score sequences; small enough to be sent."""

    checkpoint: Path | None
    """None: no learned part, for proposals from outside."""
    preset: Preset
    split: str
    root: Path | None = field(metadata=no_influence("every record has the state of the files of its video"))
    rows: tuple[Row, ...]
    out: Path = field(metadata=no_influence("says where results go"))
    """Masks of row r go to ``out``/r, or to ``out`` itself if there is one row only."""
    device: str = field(metadata=seen_as(lambda job: torch.device(job.device).type))
    seed: int
    overlays: bool = False
    online_steps: int | None = None
    """Steps of online learning; none: those of the checkpoint."""
    online_seconds: float | None = None
    """Most seconds of it; none: as long as the steps take."""
    proposals: Path | None = None
    """Proposals from outside."""
    flow: str = field(default="dis", metadata=seen_as(lambda job: flow_state(job.flow)))
    """Source of flow, for :func:`stg_pyg.flow.sources.resolve_flow`,"""
    weights: str = field(default="auto", metadata=seen_as(lambda job: raft_state(job.flow, job.weights)))
    """and the weights of RAFT."""
    oracle: bool = False
    """Also score the best proposal and the best fusion of each frame."""
    frames: int | None = None
    """Frames of each video, from its first one on; none: all."""
    online_seed: int | None = None
    """Of online learning; none: ``seed``, which the videos of some data sets depend on too."""
    trace: bool = False
    """Also write how every frame came about, for a job of one row."""

    def folder(self, row: Row, sequence: str) -> Path:
        return self.out / sequence if len(self.rows) == 1 else self.out / row.name / sequence

    def trace_folder(self, sequence: str) -> Path:
        return self.out / "trace" / sequence

    @property
    def learning_seed(self) -> int:
        """What online learning and the updates of a network draw from."""
        return self.seed if self.online_seed is None else self.online_seed


def settings_of(job: Job) -> dict[str, Any]:
    """What the results of a video depend on, as plain values."""
    return fingerprint(job, job.device)


def learning_part(job: Job) -> Job:
    """The job without what online learning does not look at, so that jobs which learn the same are equal."""
    names = ("overlays", "proposals", "flow", "weights", "oracle", "frames", "trace")
    defaults = {field.name: field.default for field in dataclasses.fields(Job) if field.name in names}
    return dataclasses.replace(job, rows=(), **defaults)  # type: ignore[arg-type]
