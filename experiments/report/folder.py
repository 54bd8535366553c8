"""What an output folder of this project holds: runs of masks, how frames came about, scores, logs, tables, plots."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from stg_pyg.errors import InputError
from stg_pyg.io import natural_sort_key

NO_SEQUENCES = {"overlays", "trace", "alpha"}
"""Names of folders beside those of the sequences."""
RUN_DEPTH = 2
"""Folders between the output folder and those of the sequences, ``runs/<name>/<sequence>`` being the deepest."""


@dataclass(frozen=True)
class Run:
    """One set of masks: a folder for each sequence."""

    name: str
    """Path from the output folder, ``.`` for itself."""
    folder: Path
    masks: dict[str, Path]
    """Folder of the masks by sequence."""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """J, F and G in percent by sequence, as the benchmark counts them; empty where nothing was scored."""

    def confidence(self, sequence: str) -> dict[int, dict[str, float | None]]:
        """What experiments.segment says of each object by frame, None where it has no pixel; empty elsewhere."""
        content = read_json(self.folder / "confidence.json")
        if not isinstance(content, dict) or content.get("sequence") != sequence:
            return {}
        try:
            rows = {int(i): [None if v is None else float(v) for v in row] for i, row in content["objects"].items()}
            return {i: dict(zip(map(str, content["frames"]), row, strict=True)) for i, row in rows.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            path = self.folder / "confidence.json"
            raise InputError(f"{path}: is not of experiments.segment ({error!r}); delete it") from error

    def trace(self, sequence: str, frame: str) -> Path:
        """Where the trace of a frame is, if there is one."""
        return self.folder / "trace" / sequence / f"{frame}.npz"

    def has_trace(self, sequence: str) -> bool:
        return any((self.folder / "trace" / sequence).glob("*.npz"))


@dataclass(frozen=True)
class Origin:
    """Where the frames of a run were read from, as its command noted."""

    video: Path | None = None
    preset: str | None = None
    resolution: str | None = None
    split: str | None = None
    root: Path | None = None
    seed: int = 0


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


def find_runs(folder: Path) -> list[Run]:
    """All sets of masks in an output folder, its own first."""
    runs, level = [], [folder]
    for _ in range(RUN_DEPTH + 1):
        runs += [run for path in level if (run := _run_in(path, folder)) is not None]
        level = [sub for path in level if path not in {run.folder for run in runs} for sub in subfolders(path)]
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


def find_origin(folder: Path, run: Run | None) -> Origin:
    """Where the frames are, as far as the run has noted it."""
    places = [folder] if run is None else [run.folder, *(p for p in run.folder.parents if p.is_relative_to(folder))]
    for place in places:
        segmented = read_json(place / "run.json")
        if isinstance(segmented, dict) and isinstance(segmented.get("video"), str):
            return Origin(video=Path(segmented["video"]))
        for record in sorted((place / ".done").glob("*.json"))[:1]:
            content = read_json(record)
            settings = content.get("settings") if isinstance(content, dict) else None
            if isinstance(settings, dict) and isinstance(settings.get("preset"), dict):
                return _origin_of_job(settings)
    return Origin()


def subfolders(path: Path) -> list[Path]:
    """Folders in a folder in natural order, hidden ones apart."""
    found = (p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(found, key=lambda p: natural_sort_key(p.name))


def _run_in(path: Path, folder: Path) -> Run | None:
    metrics = read_json(path / "metrics.json")
    metrics = metrics if isinstance(metrics, dict) else {}
    scores = metrics.get("sequences")
    scores = scores if isinstance(scores, dict) else {}
    masks = {sub.name: sub for sub in subfolders(path) if sub.name not in NO_SEQUENCES and _has_masks(sub)}
    segmented = read_json(path / "run.json")
    if isinstance(segmented, dict) and segmented.get("sequence") in masks:
        masks = {segmented["sequence"]: masks[segmented["sequence"]]}
    stored = metrics.get("config", {}).get("predictions") if isinstance(metrics.get("config"), dict) else None
    if not masks and isinstance(stored, str):
        masks = {name: Path(stored) / name for name in scores if _has_masks(Path(stored) / name)}
    if not masks:
        return None
    if not scores and path != folder:  # the rows of one table are scored together
        table = read_json(path.parent / "table.json")
        row = table.get(path.name) if isinstance(table, dict) else None
        scores = row.get("sequences", {}) if isinstance(row, dict) else {}
    return Run(path.relative_to(folder).as_posix(), path, masks, scores)


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


def _origin_of_job(settings: dict[str, Any]) -> Origin:
    preset, root = settings["preset"], settings.get("root")
    return Origin(
        preset=preset.get("dataset"),
        resolution=preset.get("resolution"),
        split=settings.get("split"),
        root=None if root is None else Path(root),
        seed=int(settings.get("seed") or 0),
    )
