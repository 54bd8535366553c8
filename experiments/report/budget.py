"""What a page can hold: fewer frames, smaller pictures and fewer details where all of them would be too much."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from experiments.report.trace import Detail
from stg_pyg.io import UInt8Array

LEVELS = ((640, 70), (560, 65), (480, 60), (400, 55), (320, 50))
"""Longer side and JPEG quality of the frames, from the first that fits the budget."""

FRAME_SHARE = 0.7
"""Most of what details may take that is not the attention of single places."""


@dataclass(frozen=True)
class Budget:
    """What one sequence may take of a page."""

    frames: int
    """Most frames."""
    picture_chars: int
    """Characters of all its frames,"""
    detail_chars: int
    """and of all its details."""


def choose_frames(count: int, most: int, wanted: Sequence[int]) -> list[int]:
    """Frames that are shown: all, or evenly many with the first, the last and those that are wanted."""
    if count <= most:
        return list(range(count))
    even = np.linspace(0, count - 1, max(most - len(set(wanted)), 2)).round().astype(int)
    return sorted({*even.tolist(), *wanted})


def fit(image: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """A frame at the size (H, W) of its masks."""
    if image.shape[:2] == size:
        return image
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def shrink(image: UInt8Array, level: tuple[int, int] = LEVELS[0]) -> bytes:
    """A frame as a JPEG, with a longer side and a quality of ``level`` at most."""
    side, quality = level
    scale = min(1.0, side / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def pack_pictures(jpegs: Sequence[bytes], most: int) -> list[str]:
    """JPEGs of the first level as base64, of a lower level where they would take more than ``most`` characters."""
    for level in LEVELS[1:]:
        if sum(map(len, jpegs)) * 4 / 3 <= most:
            break
        jpegs = [shrink(_decode(jpeg), level) for jpeg in jpegs]
    return [base64.b64encode(jpeg).decode() for jpeg in jpegs]


def pack_details(
    details: Sequence[Detail | None], most: int, notes: list[str]
) -> tuple[list[str | None], list[str | None]]:
    """Details and attention of cells of as many frames as fit into ``most`` characters; what is left out is noted."""
    frames = ["" if detail is None else detail.frame for detail in details]
    cells = ["" if detail is None else detail.cells for detail in details]
    every = _stride(frames, most if not any(cells) else round(FRAME_SHARE * most))
    stride = _stride(cells, most - sum(map(len, frames[::every])), every)
    if every > 1:
        notes.append(f"How frames came about is kept of every {_ordinal(every)} frame.")
    if stride > every:
        notes.append(f"The attention of single places is kept of every {_ordinal(stride)} frame.")
    return (
        [text if text and i % every == 0 else None for i, text in enumerate(frames)],
        [text if text and i % stride == 0 else None for i, text in enumerate(cells)],
    )


def _stride(texts: Sequence[str], most: int, unit: int = 1) -> int:
    """The least multiple of ``unit`` so that texts 0, stride, 2 stride, ... have ``most`` characters at most."""
    return next((n for n in range(unit, len(texts), unit) if sum(map(len, texts[::n])) <= most), max(len(texts), unit))


def _decode(jpeg: bytes) -> UInt8Array:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
