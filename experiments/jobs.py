"""What is to be run over the videos of a split."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.presets import Preset
from experiments.records import code_digest, file_digest, stamp
from experiments.rows import Row


@dataclasses.dataclass(frozen=True)
class Job:
    """What a process needs to score sequences; small enough to be sent."""

    checkpoint: Path | None
    """None: no learned part, for proposals from outside."""
    preset: Preset
    split: str
    root: Path | None
    rows: tuple[Row, ...]
    out: Path
    """Masks of row r go to ``out``/r, or to ``out`` itself if there is one row only."""
    device: str
    seed: int
    overlays: bool = False
    online_steps: int | None = None
    """Steps of online learning; none: those of the checkpoint."""
    online_seconds: float | None = None
    """Most seconds of it; none: as long as the steps take."""
    proposals: Path | None = None
    """Proposals from outside."""
    flow: str = "dis"
    """Source of flow, for :func:`stg_pyg.flow.resolve_flow`,"""
    weights: str = "auto"
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


def learning_seed(job: Job) -> int:
    """What online learning and the updates of a network draw from."""
    return job.seed if job.online_seed is None else job.online_seed


def settings_of(job: Job) -> dict[str, Any]:
    """What the results of a video depend on, as plain values."""
    flow = Path(job.flow)
    return {
        "checkpoint": None if job.checkpoint is None else file_digest(job.checkpoint),
        "code": code_digest(),
        "preset": dataclasses.asdict(job.preset),
        "split": job.split,
        "root": None if job.root is None else str(job.root.resolve()),
        "rows": {row.name: None if row.config is None else row.config.to_dict() for row in job.rows},
        "device": job.device,
        "seed": job.seed,
        "overlays": job.overlays,
        "online_steps": job.online_steps,
        "online_seconds": job.online_seconds,
        "proposals": None if job.proposals is None else stamp(job.proposals),
        "flow": stamp(flow) if flow.exists() else job.flow,
        "oracle": job.oracle,
        "frames": job.frames,
        "online_seed": job.online_seed,
        "trace": job.trace,
    }
