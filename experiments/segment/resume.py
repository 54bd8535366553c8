"""Where a run of experiments.segment stands, kept on disk so that a run that was killed goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from experiments.records import code_digest, file_digest, stamp
from stg_pyg.io import write_atomic

FORMAT = "stg_pyg-segment-1"
SAVE_SECONDS = 30.0
"""At most this much work, and a frame, is done again after a run was killed."""
_CODE = ("*.py",)

Fingerprint = dict[str, str]
"""A digest of each thing that masks depend on, by what the user calls it."""


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
    names = [name for name in now if before.get(name) != now[name]] or ["the version"]
    return f"other: {', '.join(names)}"


def fingerprint(parts: dict[str, Any]) -> Fingerprint:
    """The digest of each part, and that of the program and the libraries that results depend on."""
    own = Path(__file__).parent
    files = sorted(path for pattern in _CODE for path in own.glob(pattern))
    versions = [torch.__version__, np.__version__, cv2.__version__]
    parts = {**parts, "the program": [code_digest(), *map(file_digest, files), *versions]}
    texts = {name: json.dumps(part, default=str) for name, part in parts.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}


def state_of(path: Path | None) -> list[Any] | None:
    """Where a file or folder is, with the sizes and times of its files."""
    return None if path is None or not path.exists() else stamp(path)
