"""Where a run of experiments.segment stands, kept on disk so that a run that was killed goes on."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from experiments.common.presets import Preset
from experiments.runs.settings import differences, digest, flow_state, path_state, raft_state, seen_as
from experiments.segment.outputs import Scores
from stg_pyg.config import STGConfig
from stg_pyg.utils.images import write_atomic

FORMAT = "stg_pyg-segment-1"
CONFIDENCE = "confidence.json"
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
    proposals: Path | str | None
    detector: str
    """Digest of the weights of the one that makes the proposals, if one does."""
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
    scores: Scores = field(default_factory=dict)
    seconds: float = 0.0
    """Time that they took."""
    stream: dict[str, Any] | None = None
    """History of the segmenter, if it had begun."""
    online_seconds: float = 0.0
    complete: bool = False
    """Whether all masks are there, and only what is made of them may be missing."""


class SavedRun:
    """The saved state of one run: ``network.pt`` after online learning, and ``stream.pt`` now and then.

    Files of a run with another fingerprint, and damaged ones, count as none; :attr:`note` says so.

    Args:
        folder: of the files; created with the first one.
        fingerprint: of this run.
    """

    def __init__(self, folder: Path, fingerprint: Fingerprint):
        self.folder, self.fingerprint, self.note = folder, fingerprint, ""

    def load_stand(self) -> Stand:
        """Where the run stands; at its beginning where nothing is saved."""
        return Stand(**(self.load("stream.pt", [f.name for f in fields(Stand)]) or {}))

    def save_stand(self, stand: Stand) -> None:
        """Saves where the run stands, see :meth:`save`."""
        self.save("stream.pt", vars(stand))

    def remove(self) -> None:
        """Deletes what was saved, and the folder around it if that is empty then."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Writes a file, whole or not at all.

        Raises:
            InputError: the disk is full or read-only.
        """
        whole = {"format": FORMAT, "fingerprint": self.fingerprint, **content}
        write_atomic(self.folder / name, lambda file: torch.save(whole, file))

    def load(self, name: str, needed: Iterable[str]) -> dict[str, Any] | None:
        """The values of these names in a file of this run, if it is there and whole."""
        path, known = self.folder / name, None
        if not path.is_file():
            return None
        # Whatever is wrong with the file: its work can be done again.
        with contextlib.suppress(Exception):
            content = torch.load(path, map_location="cpu", weights_only=True)
            values = {name: content[name] for name in needed}
            known = content["fingerprint"] if content["format"] == FORMAT else None
        if known == self.fingerprint:
            return values
        self.note = f"{self.folder} is of another run ({_changed(known, self.fingerprint)}), so this one begins anew"
        return None


def finished_stand(out: Path, fingerprint: Fingerprint) -> Stand | None:
    """The stand at the end of an earlier run of the same command that was not stopped."""
    try:
        content, confidence = (json.loads((out / name).read_bytes()) for name in ("run.json", CONFIDENCE))
        if content["fingerprint"] != digest(fingerprint):
            return None
        scores = {int(obj_id): list(row) for obj_id, row in confidence["objects"].items()}
        frames, seconds = int(content["frames"]), float(content["seconds_per_frame"])
        return Stand(frames, scores, seconds * frames, None, float(content["online_seconds"]), True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _changed(before: Fingerprint | None, now: Fingerprint) -> str:
    """What differs between two runs, in words."""
    if before is None:
        return "or damaged"
    words = {"video": "the video", "program": "the program"}
    names = [words.get(n, n if "." in n else f"--{n.replace('_', '-')}") for n in differences(before, now)]
    return f"other: {', '.join(names)}"
