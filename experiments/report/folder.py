"""What an output folder of this project holds: sets of masks, their scores, traces and confidence."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stg_pyg.errors import InputError
from stg_pyg.io import UInt8Array, natural_sort_key, read_label_map
from stg_pyg.proposal_store import META, StoredProposals
from stg_pyg.trace_files import FrameTrace, read_trace

NO_SEQUENCES = {"overlays", "trace", "alpha"}
"""Names of folders beside those of the sequences."""
RUN_DEPTH = 2
"""Folders between the output folder and those of the sequences, ``runs/<name>/<sequence>`` being the deepest."""


@dataclass(frozen=True)
class Run:
    """One set of masks, a folder for each sequence, or of proposals."""

    name: str
    """Path from the output folder, ``.`` for itself."""
    folder: Path
    masks: dict[str, Path]
    """Folder of the masks by sequence."""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """J, F and G in percent by sequence, as the benchmark counts them; empty where nothing was scored."""
    stored: StoredProposals | None = None
    """In place of masks, what experiments.proposals wrote."""

    @property
    def sequences(self) -> list[str]:
        return sorted(self.masks, key=natural_sort_key) or (self.stored.sequences if self.stored else [])

    def frame_names(self, sequence: str) -> list[str]:
        if self.stored is not None:
            return self.stored.frame_names(sequence)
        files = self.masks[sequence].glob("*.png")
        return sorted((path.stem for path in files if not path.name.startswith(".")), key=natural_sort_key)

    def labels(self, sequence: str, frame: str) -> UInt8Array:
        """Object ids [H, W] of a frame, none where there are only proposals."""
        if self.stored is not None:
            return np.zeros(self.stored.meta["sizes"][sequence], np.uint8)
        return read_label_map(self.masks[sequence] / f"{frame}.png")

    def trace(self, sequence: str, frame: str) -> FrameTrace | None:
        path = self.folder / "trace" / sequence / f"{frame}.npz"
        return read_trace(path) if path.is_file() else None

    def has_trace(self, sequence: str) -> bool:
        return any((self.folder / "trace" / sequence).glob("*.npz"))

    def confidence(self, sequence: str) -> dict[int, dict[str, float | None]]:
        """What experiments.segment says of each object by frame, None where it has no pixel; empty elsewhere."""
        path = self.folder / "confidence.json"
        content = entries(path)
        if content.get("sequence") != sequence:
            return {}
        try:
            rows = {int(i): [None if v is None else float(v) for v in row] for i, row in content["objects"].items()}
            return {i: dict(zip(content["frames"], row, strict=True)) for i, row in rows.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: is not of experiments.segment ({error!r}); delete it") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where there is none.

    Raises:
        InputError: it is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({error}); delete it, or run the command that writes it again") from error


def entries(path: Path, *keys: str) -> dict[str, Any]:
    """The JSON object that keys lead to in a file, empty where there is none.

    Raises:
        InputError: the file is no JSON.
    """
    content = read_json(path)
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}


def find_runs(folder: Path) -> list[Run]:
    """All sets of masks in an output folder, its own first."""
    runs, level = [], [folder]
    for _ in range(RUN_DEPTH + 1):
        runs += [run for path in level if (run := _run_in(path, folder)) is not None]
        level = [sub for path in level if path not in {run.folder for run in runs} for sub in _subfolders(path)]
    if not runs and (folder / META).is_file():
        return [Run(".", folder, {}, stored=StoredProposals(folder))]
    return runs


def choose_run(runs: list[Run], wanted: str | None) -> Run | None:
    """The run that is shown: the one asked for; else one with traces, the folder's own, the full model's, the first.

    Raises:
        InputError: there is none of that name.
    """
    if wanted is not None:
        for run in runs:
            if run.name == wanted.rstrip("/"):
                return run
        there = ", ".join(run.name for run in runs) or "none"
        raise InputError(f"--run {wanted}: the folder has no such run of masks; there are: {there}")

    def rank(run: Run) -> tuple[bool, bool, bool]:
        return not any(map(run.has_trace, run.masks)), run.name != ".", run.name != "temporal"

    return min(runs, key=rank, default=None)


def _run_in(path: Path, folder: Path) -> Run | None:
    scores = entries(path / "metrics.json", "sequences")
    masks = {sub.name: sub for sub in _subfolders(path) if sub.name not in NO_SEQUENCES and _has_masks(sub)}
    segmented = entries(path / "run.json").get("sequence")
    masks = {name: sub for name, sub in masks.items() if name == segmented} or masks
    stored = entries(path / "metrics.json", "config").get("predictions")
    if not masks and isinstance(stored, str):
        masks = {name: Path(stored) / name for name in scores if _has_masks(Path(stored) / name)}
    if not masks:
        return None
    if not scores and path != folder:  # the rows of one table are scored together
        scores = entries(path.parent / "table.json", path.name, "sequences")
    return Run(path.relative_to(folder).as_posix(), path, masks, scores)


def _subfolders(path: Path) -> list[Path]:
    found = (p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(found, key=lambda p: natural_sort_key(p.name))


def _has_masks(folder: Path) -> bool:
    """Whether the first PNG of a folder has ids as pixels, rather than the colours of a plot."""
    first = min((p for p in folder.glob("*.png") if not p.name.startswith(".")), default=None)
    if first is None:
        return False
    try:
        with Image.open(first) as image:
            return image.mode in ("1", "L", "P")
    except (OSError, SyntaxError, ValueError):
        return True  # reading it says what is wrong
