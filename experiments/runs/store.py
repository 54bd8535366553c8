"""What a run has finished: one file a video, by which the run goes on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stg_pyg.utils.images import write_atomic


class Records:
    """Results by video in ``<folder>/<video>.json``, with the settings that they depend on.

    Args:
        folder: of the records; created with the first one.
        settings: plain values. A record with other settings counts as none.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = settings

    def load(self, name: str) -> dict[str, Any] | None:
        """What was saved for a video under the same settings, or None; floats come back as they were, NaN too."""
        try:
            content = json.loads(self._path(name).read_bytes(), object_hook=_with_numbers)
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(content, dict) or content.get("settings") != _plain(self.settings):
            return None
        result = content.get("result")
        return result if isinstance(result, dict) else None

    def save(self, name: str, result: dict[str, Any]) -> None:
        """Writes the record of a video, whole or not at all."""
        text = json.dumps({"settings": self.settings, "result": result}, default=_jsonable)
        write_atomic(self._path(name), lambda file: file.write(text.encode()))

    def forget(self, name: str) -> None:
        """Deletes the record of a video that is about to be done again."""
        path = self._path(name)
        path.unlink(missing_ok=True)
        for half_written in path.parent.glob(f".{path.name}.*.tmp"):
            half_written.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _with_numbers(value: dict[str, Any]) -> dict[Any, Any]:
    """Object ids, which JSON makes text, as numbers again."""
    return {int(k): v for k, v in value.items()} if value and all(map(str.isdecimal, value)) else value


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=_jsonable), object_hook=_with_numbers)


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)
