"""Figure 5 of the paper: a few frames of a sequence with the masks of several methods, one below the other."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from experiments.report.folder import Pictures, Run, choose_run, find_runs
from experiments.report.sequence import shrink
from stg_pyg.errors import InputError
from stg_pyg.evaluation.metrics import region_similarity
from stg_pyg.utils.images import UInt8Array, natural_sort_key, overlay

COLUMNS = 4
"""Frames of a strip."""
WIDTH, BAR, GAP = 320, 20, 4
"""Of a picture in a strip, of the line of text above it, and between two pictures, in pixels."""
NAME_LENGTH = 32
"""Characters of a name that there is room for."""


def open_methods(folder: Path, run: Run | None, others: Sequence[Path], sequences: Sequence[str]) -> dict[str, Run]:
    """The masks of all methods by the name of their folder, those of the page's own ``folder`` last.

    Raises:
        InputError: a folder is not there, is the page's own, or lacks the masks of a sequence or of a frame.
    """
    if run is None or run.stored is not None:
        raise InputError(f"{folder}: has no masks that --beside could show others beside; give a folder with masks")
    found: list[tuple[Path, Run]] = []
    for path in others:
        if not path.is_dir():
            raise InputError(f"--beside {path}: no such folder; give one with <sequence>/<frame>.png")
        other = choose_run(find_runs(path), None)
        if other is None or other.stored is not None:
            raise InputError(f"--beside {path}: has no masks; give a folder with <sequence>/<frame>.png")
        if path.resolve() == folder.resolve() or other.folder.resolve() == run.folder.resolve():
            raise InputError(f"--beside {path}: is what the page shows itself; give the folder of another method")
        for name in sequences:
            _check_sequence(path, run, other, name)
        found.append((path, other))
    found.append((folder, run))
    short = [path.resolve().name for path, _ in found]
    names = [name if short.count(name) == 1 else str(path) for name, (path, _) in zip(short, found, strict=True)]
    return {
        name if method.name == "." else f"{name}/{method.name}": method
        for name, (_, method) in zip(names, found, strict=True)
    }


def _check_sequence(path: Path, run: Run, other: Run, name: str) -> None:
    if name not in other.masks:
        known = ", ".join(other.sequences)
        raise InputError(f"--beside {path}: has no masks of {name}; choose others with --sequence, there are: {known}")
    there = set(other.frame_names(name))
    if missing := [frame for frame in run.frame_names(name) if frame not in there]:
        raise InputError(
            f"{other.masks[name] / missing[0]}.png: no such file; --beside needs all frames of {run.folder}"
        )


def build_strip(name: str, methods: Mapping[str, Run], pictures: Pictures) -> str:
    """The strip of a sequence as a JPEG in base64: :data:`COLUMNS` frames where the methods differ most, in columns;
    above the picture with the annotation where there is one, below the masks of each method with their J in percent.

    Raises:
        InputError: a picture is not there, or masks, annotations and pictures are not of one size.
    """
    frames = list(methods.values())[-1].frame_names(name)
    chosen = [frames[t] for t in choose_columns(differences(name, methods, frames))]
    columns = []
    for frame, picture in zip(chosen, pictures.frames(name, chosen), strict=True):
        if picture is None:
            why = pictures.note or f"frame {frame} is not where --root, --split, --preset or --video say"
            raise InputError(f"--beside: has no picture of {name}: {why}")
        truth = pictures.truth(name, frame)
        if truth is not None:
            _check_size(f"the annotation of {name}, {frame}", truth, picture.shape)
        tiles = [_tile(picture, truth, f"{frame}: annotation" if truth is not None else frame, "")]
        for method, run in methods.items():
            labels = run.labels(name, frame)
            _check_size(run.masks[name] / f"{frame}.png", labels, picture.shape)
            j = None if truth is None else frame_similarity(labels, truth, _known(pictures, name, frame))
            tiles.append(_tile(picture, labels, method, "" if j is None else f"J {100 * j:.1f}"))
        columns.append(np.concatenate(tiles))
    space = np.full_like(columns[0][:, :GAP], 255)
    strip = np.concatenate([part for column in columns for part in (column, space)][:-1], axis=1)
    return base64.b64encode(shrink(Image.fromarray(strip), (max(strip.shape), 85))).decode()


def differences(name: str, methods: Mapping[str, Run], frames: Sequence[str]) -> list[float]:
    """How much the methods differ in each frame: 1 - J(M_a, M_b), in [0, 1], in the mean over all pairs a, b of methods
    and all objects that one of the two shows; 0 where none does.

    Raises:
        InputError: masks of a frame are not of one size.
    """
    found = []
    for frame in frames:
        maps = [run.labels(name, frame) for run in methods.values()]
        for run, labels in zip(methods.values(), maps, strict=True):
            _check_size(run.masks[name] / f"{frame}.png", labels, maps[-1].shape)
        values = [
            1 - float(region_similarity(a == obj_id, b == obj_id))
            for a, b in combinations(maps, 2)
            for obj_id in np.union1d(a, b)
            if obj_id
        ]
        found.append(fmean(values) if values else 0.0)
    return found


def choose_columns(differences: Sequence[float]) -> list[int]:
    """The :data:`COLUMNS` frames with the largest differences, the earlier of equal ones, in their order. No two are
    closer than half of an even spacing, as neighbours show the same."""
    apart = len(differences) / (2 * COLUMNS)
    chosen: list[int] = []
    for t in sorted(range(len(differences)), key=lambda t: -differences[t]):
        if len(chosen) < COLUMNS and all(abs(t - other) >= apart for other in chosen):
            chosen.append(t)
    return sorted(chosen)


def frame_similarity(labels: UInt8Array, truth: UInt8Array, obj_ids: Sequence[int]) -> float | None:
    """J of one frame in [0, 1], the mean over these objects; None without any."""
    return fmean(float(region_similarity(labels == i, truth == i)) for i in obj_ids) if obj_ids else None


def _known(pictures: Pictures, name: str, frame: str) -> list[int]:
    """The objects that are given in a frame or before it."""
    now = natural_sort_key(frame)
    return [i for i, first in pictures.first_frame_of(name).items() if natural_sort_key(first) <= now]


def _check_size(what: Path | str, labels: UInt8Array, wanted: Sequence[int]) -> None:
    if labels.shape != tuple(wanted[:2]):
        (h, w), (height, width) = labels.shape, wanted[:2]
        raise InputError(f"{what}: is {w} x {h} pixels and not {width} x {height}; write masks at full size")


def _tile(picture: UInt8Array, labels: UInt8Array | None, left: str, right: str) -> UInt8Array:
    """A picture with masks at the width of a strip, below a line of text."""
    size = WIDTH, round(WIDTH * picture.shape[0] / picture.shape[1])
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    if labels is not None:
        small = overlay(small, cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST))
    tile = Image.new("RGB", (WIDTH, BAR + size[1] + GAP), "white")
    tile.paste(Image.fromarray(small), (0, BAR))
    draw, font = ImageDraw.Draw(tile), ImageFont.truetype(findfont("DejaVu Sans"), 13)
    draw.text((2, 2), left[:NAME_LENGTH].encode(errors="backslashreplace").decode(), "black", font)
    draw.text((WIDTH - 2, 2), right, "black", font, anchor="ra")
    return np.asarray(tile)
