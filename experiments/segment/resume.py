"""Where a run of experiments.segment stands, kept on disk so that a run that was killed goes on."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from experiments.common.presets import Preset
from experiments.runs.flow_state import flow_state, raft_state
from experiments.runs.settings import differences, path_state, seen_as
from stg_pyg.config import STGConfig
from stg_pyg.utils.images import write_atomic

FORMAT = "stg_pyg-segment-1"
SAVE_SECONDS = 30.0
"""At most this much work, and a frame, is done again after a run was killed."""

Fingerprint = dict[str, Any]
"""Plain values of everything that masks depend on."""


@dataclass(frozen=True)
class RunSettings:
    """What the masks of a run depend on, by the names of the options where there are any."""

    video: Path = field(metadata=seen_as(lambda run: path_state(run.video, nested=False)))
    masks: Path | None = field(metadata=seen_as(lambda run: path_state(run.masks, nested=False)))
    boxes: Path | None
    points: Path | None
    checkpoint: Path | None
    proposals: Path | None
    flow: str = field(metadata=seen_as(lambda run: flow_state(run.flow, run.sequence)))
    flow_weights: str = field(metadata=seen_as(lambda run: raft_state(run.flow, run.flow_weights)))
    sequence: str
    online_steps: int
    online_seconds: float | None
    every: int
    max_size: tuple[int, int]
    """(H, W) in pixels that frames are reduced to."""
    max_objects_at_once: int | None
    alpha: bool
    trace: bool
    device: str
    """Its kind."""
    seed: int
    preset: Preset
    config: STGConfig


@dataclass
class Stand:
    """How far the masks of a video are."""

    position: int = 0
    """Frames that are done."""
    scores: dict[int, list[float | None]] = field(default_factory=dict)
    """Confidence of every object in each of them."""
    seconds: float = 0.0
    """Time that they took."""
    stream: dict[str, Any] | None = None
    """History of the segmenter, if it had begun."""
    online_seconds: float = 0.0
    """Time that online learning took."""
    complete: bool = False
    """Whether all masks are there, and only what is made of them may be missing."""


class SavedRun:
    """The saved state of one run: ``network.pt`` after online learning, ``stream.pt`` every :data:`SAVE_SECONDS`.

    Files of a run with another fingerprint, and damaged ones, count as none; :attr:`note` says so.

    Args:
        folder: of the files; created with the first one.
        fingerprint: of this run.
    """

    def __init__(self, folder: Path, fingerprint: Fingerprint):
        self.folder, self.fingerprint, self.note = folder, fingerprint, ""

    def load_stand(self) -> Stand:
        """Where the run stands; at its beginning where nothing is saved."""
        content = self._load("stream.pt", [f.name for f in fields(Stand)])
        return Stand() if content is None else Stand(**{f.name: content[f.name] for f in fields(Stand)})

    def save_stand(self, stand: Stand) -> None:
        """Writes all of it, whole or not at all.

        Raises:
            InputError: the disk is full or read-only.
        """
        self._save("stream.pt", vars(stand))

    def load_network(self) -> tuple[dict[str, Any], float] | None:
        """Weights of the adapted network and the seconds that it took to learn them, if they are saved."""
        content = self._load("network.pt", ["weights", "seconds"])
        return None if content is None else (content["weights"], content["seconds"])

    def save_network(self, weights: dict[str, Any], seconds: float) -> None:
        """Writes what online learning made.

        Raises:
            InputError: the disk is full or read-only.
        """
        self._save("network.pt", {"weights": weights, "seconds": seconds})

    def remove(self) -> None:
        """Deletes what was saved, and the folder around it if that is empty then."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    def _save(self, name: str, content: dict[str, Any]) -> None:
        whole = {"format": FORMAT, "fingerprint": self.fingerprint, **content}
        write_atomic(self.folder / name, lambda file: torch.save(whole, file))

    def _load(self, name: str, needed: list[str]) -> dict[str, Any] | None:
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            whole = content["format"] == FORMAT and content.keys() >= set(needed)
            known = content["fingerprint"] if whole else None
        except Exception:  # whatever is wrong with the file: its work can be done again
            known = None
        if known == self.fingerprint:
            result: dict[str, Any] = content
            return result
        self.note = f"{self.folder} is of another run ({changed(known, self.fingerprint)}), so this one begins anew"
        return None


def changed(before: Fingerprint | None, now: Fingerprint) -> str:
    """What differs between two runs, in words."""
    if before is None:
        return "or damaged"
    names = differences(before, now)
    words = {name: name if "." in name else f"--{name.replace('_', '-')}" for name in names} | {
        n: f"the {n}" for n in ("video", "program")
    }
    return f"other: {', '.join(words[name] for name in names)}"
