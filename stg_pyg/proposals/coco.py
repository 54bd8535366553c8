"""Proposals from anywhere as COCO results JSON: reading with one clear line for whatever is wrong, and writing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from stg_pyg.errors import InputError
from stg_pyg.proposals.rle import EncodedProposals, ProposalSource, Size, compress_runs, find_fault, mask_boxes
from stg_pyg.utils.images import PathLike, load_json, natural_sort_key, write_atomic

Results = Mapping[str, Mapping[str, EncodedProposals]]
_PICTURES = (".jpg", ".jpeg", ".png")
_LARGEST = 1e38  # float32 holds twice of it
_FORMAT = (
    '[{"image_id": "<sequence>/<frame stem>", "category_id": 1, "bbox": [x, y, w, h], "score": s, '
    '"segmentation": {"size": [H, W], "counts": "<RLE>"}}]'
)


def read_coco_results(path: PathLike) -> dict[str, dict[str, EncodedProposals]]:
    """The proposals of a COCO results file, by sequence and frame stem.

    The file is a list of ``{"image_id": "<sequence>/<frame stem>", "category_id": 1, "bbox": [x, y, w, h],
    "score": s, "segmentation": {"size": [H, W], "counts": RLE}}``, RLE being COCO's compressed string or a list of
    runs. ``segmentation`` may be missing, then only the box is known; ``bbox`` may be missing, then it is the mask's;
    a missing ``score`` is 1. A suffix .jpg, .jpeg or .png of ``image_id`` is dropped. The order of the file is kept.
    Polygons are refused, for they do not say the size of their frame. Masks are checked here, and not decoded.
    """
    return {name: {stem: frame.encoded for stem, frame in of.items()} for name, of in _read(Path(path)).items()}


def write_coco_results(path: PathLike, results: Results) -> None:
    """Writes proposals by sequence and frame stem as COCO results; boxes, scores and masks read back bit-exact."""
    write_coco_frames(path, ((sequence, stem, e) for sequence, of in results.items() for stem, e in of.items()))


def write_coco_frames(path: PathLike, frames: Iterable[tuple[str, str, EncodedProposals]]) -> None:
    """The same for a stream of (sequence, frame stem, proposals), one frame at a time in memory."""

    def write(file: IO[bytes]) -> None:
        separator = "[\n"
        for sequence, stem, encoded in frames:
            for entry in _entries(f"{sequence}/{stem}", encoded):
                file.write((separator + json.dumps(entry, separators=(",", ":"), allow_nan=False)).encode())
                separator = ",\n"
        file.write(b"[]\n" if separator == "[\n" else b"\n]\n")

    write_atomic(path, write)


class CocoProposals(ProposalSource):
    """The proposals of a COCO results file; see :func:`read_coco_results`. A frame without entries has none."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self._frames = _read(self.path)

    @property
    def sequences(self) -> list[str]:
        return sorted(self._frames, key=natural_sort_key)

    def check(self, sequence: str, frame_names: Sequence[str]) -> None:
        known = set(frame_names)
        for stem, frame in self._frames.get(sequence, {}).items():
            if stem not in known:
                names = f"its {len(known)} frames are named like {_short(frame_names[0])}" if known else "it has none"
                message = f"the video has no such frame, {names}; correct image_id"
                raise _error(self.path, frame.numbers[0], f"{sequence}/{stem}", message)

    def frame(self, sequence: str, stem: str, size: Size) -> EncodedProposals:
        frame = self._frames.get(sequence, {}).get(stem)
        if frame is None:
            return EncodedProposals.empty(size)
        encoded = frame.encoded
        if encoded.size not in ((0, 0), size):
            message = f"segmentation has size {_by(encoded.size)} but the frame {_by(size)}"
            message += "; compute the proposals on frames of this size"
            raise _error(self.path, frame.masked, f"{sequence}/{stem}", message)
        x0, y0, x1, y1 = encoded.boxes.T
        outside = torch.nonzero((x0 >= size[1]) | (y0 >= size[0]) | (x1 <= 0) | (y1 <= 0))
        if len(outside):
            message = f"bbox lies outside the frame of {_by(size)} (height x width) pixels"
            message += "; bbox is [x, y, width, height] in pixels of such a frame"
            raise _error(self.path, frame.numbers[int(outside[0])], f"{sequence}/{stem}", message)
        return replace(encoded, size=size)


class _Fault(Exception):
    """What is wrong with an entry; ``number`` where it is another one than that at hand."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.number = number


@dataclass
class _Frame:
    """What the file says about one frame."""

    numbers: list[int] = field(default_factory=list)
    boxes: list[Sequence[float] | None] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    counts: list[bytes | None] = field(default_factory=list)
    size: Size = (0, 0)
    masked: int = 0
    """Number of the first entry with a mask."""
    encoded: EncodedProposals = field(default_factory=lambda: EncodedProposals.empty((0, 0)))

    def add(self, number: int, entry: dict[str, Any]) -> None:
        box, score, segmentation = entry.get("bbox"), entry.get("score", 1.0), entry.get("segmentation")
        if not _is_finite(score):
            raise _Fault(f"score {_short(score)} is no finite number; drop the entry")
        if box is None and segmentation is None:
            raise _Fault("has neither bbox nor segmentation; give one of them")
        if box is not None and not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
            raise _Fault(f"bbox {_short(box)} is not [x, y, w, h] of four finite numbers; drop it")
        counts = None
        if segmentation is not None:
            counts, size = _mask(segmentation)
            if self.size == (0, 0):
                self.size, self.masked = size, number
            elif self.size != size:
                other = f"entry {self.masked} of this frame says {_by(self.size)}"
                raise _Fault(f"segmentation has size {_by(size)} but {other}; correct one of them")
        self.numbers.append(number)
        self.boxes.append(box)
        self.scores.append(float(score))
        self.counts.append(counts)

    def encode(self) -> None:
        rows = [n for n, item in enumerate(self.counts) if item is not None]
        fault = find_fault([item for item in self.counts if item is not None], self.size)
        if fault is not None:
            raise _Fault(f"segmentation {fault[1]}; encode it again", self.numbers[rows[fault[0]]])
        boxes = np.array([box or (0, 0, 0, 0) for box in self.boxes], np.float64)
        boxes[:, 2:] += boxes[:, :2]
        boxless = [n for n, box in enumerate(self.boxes) if box is None]
        if boxless:
            boxes[boxless] = mask_boxes([self.counts[n] or b"" for n in boxless], self.size)
        boxes = boxes.astype(np.float32)
        flat = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(axis=1))
        if len(flat):
            box = self.boxes[flat[0]]
            what = "the mask is empty and has no bbox" if box is None else f"bbox {_short(box)} has no extent, w, h > 0"
            raise _Fault(f"{what}; drop the entry", self.numbers[flat[0]])
        scores = torch.tensor(self.scores, dtype=torch.float32)
        self.encoded = EncodedProposals(torch.from_numpy(boxes), scores, self.counts, self.size)
        self.boxes, self.scores = [], []


def _read(path: Path) -> dict[str, dict[str, _Frame]]:
    try:
        entries = load_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path of the proposals") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON or cut short ({error}); export the proposals again") from error
    if not isinstance(entries, list):
        raise InputError(f"{path}: must be a list of results, not a JSON {type(entries).__name__}; write {_FORMAT}")
    frames: dict[str, dict[str, _Frame]] = {}
    number, image_id = 0, None
    try:
        for number in range(len(entries)):
            entry, entries[number] = entries[number], None  # the file's own objects are many times its size
            if not isinstance(entry, dict):
                raise InputError(f"{path}: entry {number} is no object but {_short(entry)}; write {_FORMAT}")
            image_id = entry.get("image_id")
            sequence, stem = _names(image_id)
            frames.setdefault(sequence, {}).setdefault(stem, _Frame()).add(number, entry)
        for sequence, of in frames.items():
            for stem, frame in of.items():
                image_id = f"{sequence}/{stem}"
                frame.encode()
    except _Fault as fault:
        raise _error(path, number if fault.number is None else fault.number, image_id, str(fault)) from None
    return frames


def _names(image_id: Any) -> tuple[str, str]:
    """Sequence and frame stem of an ``image_id``."""
    if not isinstance(image_id, str):
        what = "is missing" if image_id is None else "is no text"
        raise _Fault(f'it {what}; write image_id as "<sequence>/<frame stem>"')
    parts = image_id.split("/")
    if parts[-1].lower().endswith(_PICTURES):
        parts[-1] = parts[-1].rpartition(".")[0]
    if len(parts) < 2 or not {"", ".", ".."}.isdisjoint(parts) or "\0" in image_id:
        raise _Fault('write image_id as "<sequence>/<frame stem>", such as "car-turn/00010"')
    return "/".join(parts[:-1]), parts[-1]


def _mask(segmentation: Any) -> tuple[bytes, Size]:
    if isinstance(segmentation, list):
        remedy = "convert it with pycocotools.mask.frPyObjects and merge, which need the size of the frame"
        raise _Fault(f"segmentation is a polygon, not RLE; {remedy}")
    size, counts = (segmentation.get("size"), segmentation.get("counts")) if isinstance(segmentation, dict) else (0, 0)
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 < side < 65536 for side in size)):
        raise _Fault('segmentation has no size [H, W] in whole pixels; write {"size": [H, W], "counts": "<RLE>"}')
    height, width = size
    if isinstance(counts, list):
        if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != height * width:
            pixels = f"{height} x {width} = {height * width} pixels"
            raise _Fault(f"segmentation's counts are not whole runs of {pixels} in sum; encode it again")
        return compress_runs(counts, (height, width)), (height, width)
    if not isinstance(counts, str):
        raise _Fault("segmentation's counts are neither text nor a list; write COCO's RLE")
    return counts.encode("utf-8", "surrogatepass"), (height, width)


def _entries(image_id: str, encoded: EncodedProposals) -> Iterable[dict[str, Any]]:
    boxes = encoded.boxes.double()
    sides = boxes[:, 2:] - boxes[:, :2]
    if not bool((sides > 0).all() & boxes.isfinite().all() & encoded.scores.isfinite().all()):
        raise InputError(f"{image_id}: a box without extent or a value that is not finite; drop it before writing")
    # In float64 the difference of two coordinates in pixels, and x + w again, are exact.
    values = torch.cat([boxes[:, :2], sides], dim=1).tolist()
    for box, score, counts in zip(values, encoded.scores.tolist(), encoded.counts, strict=True):
        entry: dict[str, Any] = {"image_id": image_id, "category_id": 1, "bbox": box, "score": score}
        if counts is not None:
            entry["segmentation"] = {"size": list(encoded.size), "counts": counts.decode("ascii")}
        yield entry


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST


def _by(size: Size) -> str:
    return f"{size[0]} x {size[1]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _error(path: Path, number: int, image_id: Any, message: str) -> InputError:
    return InputError(f"{path}: entry {number} (image_id {_short(image_id)}): {message}")
