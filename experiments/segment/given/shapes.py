"""Boxes or points on the objects of the first frame, in the place of masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from experiments.segment.given.masks import MOST_OBJECTS, Given
from stg_pyg.errors import InputError
from stg_pyg.proposals.guided import GuidedProposer
from stg_pyg.proposals.prompts import mask_of_box, mask_of_points
from stg_pyg.utils.images import UInt8Array, load_json
from stg_pyg.video.frames import FrameSource, pixels
from stg_pyg.video.merge import merge_objects

_LARGEST = 1e6
_COUNTS = {"boxes": 4, "points": 2}
_FORMS = {
    "boxes": 'a JSON file {"1": [x0, y0, x1, y1], ...}, or lines "id x0 y0 x1 y1", in pixels',
    "points": 'a JSON file {"1": [[x, y], ...], ...}, or lines "id x y", in pixels',
}


class GivenShapes(Given):
    """Objects of the first frame by boxes, points or both; :meth:`segment` makes masks of them.

    Args:
        source: the video.
        boxes, points: files, at least one of them; see :func:`read_shapes`.

    Raises:
        InputError: a file is broken, an object is in both, or lies outside of the frame.
    """

    def __init__(self, source: FrameSource, boxes: Path | None, points: Path | None):
        files = {kind: path for kind, path in (("boxes", boxes), ("points", points)) if path is not None}
        self.path = next(iter(files.values()))
        self._shapes: dict[int, list[list[float]]] = {}
        self._files: dict[int, Path] = {}
        height, width = source.size
        for kind, path in files.items():
            for obj_id, rows in read_shapes(path, kind).items():
                if obj_id in self._files:
                    raise InputError(f"{path}: object {obj_id} has a box in {boxes} too; keep one of them")
                self._shapes[obj_id], self._files[obj_id] = rows, path
                for row in rows:
                    if row[0] >= width or row[1] >= height or row[-2] < 0 or row[-1] < 0:
                        frame = f"the frame, which is {pixels(source.size)} pixels"
                        raise InputError(f"{path}: object {obj_id} lies outside of {frame}")
        self.object_ids, self.frames = sorted(self._files), [source.frame_name(0)]
        how = f"masks of the first frame are made from {' and '.join(files)}"
        self.notes = [f"{how}; a mask that somebody drew does better"]
        self._labels: UInt8Array | None = None

    def segment(self, proposer: GuidedProposer, frame: UInt8Array, device: torch.device) -> None:
        """Makes the masks of the first frame, uint8 [H, W, 3].

        Raises:
            InputError: nothing is found of an object.
        """
        image = torch.from_numpy(frame).to(device).permute(2, 0, 1).float() / 255
        masks = []
        for obj_id in self.object_ids:
            shape = image.new_tensor(self._shapes[obj_id])
            is_box = shape.shape[1] == _COUNTS["boxes"]
            masks.append(mask_of_box(proposer, image, shape[0]) if is_box else mask_of_points(proposer, image, shape))
        labels: UInt8Array = merge_objects(torch.stack(masks), self.object_ids).cpu().numpy()
        for obj_id in self.object_ids:
            if not (labels == obj_id).any():
                remedy = "draw its mask and give it with --masks"
                raise InputError(f"{self._files[obj_id]}: nothing is found there of object {obj_id}; {remedy}")
        self._labels = labels

    def at(self, name: str) -> UInt8Array | None:
        return self._labels if name == self.frames[0] else None


def read_shapes(path: Path, kind: str) -> dict[int, list[list[float]]]:
    """Shapes in pixels by object id: ``boxes``, one (x0, y0, x1, y1) an object, or ``points``, some (x, y) an object.

    JSON is ``{"1": [x0, y0, x1, y1]}`` or ``{"1": [[x, y], ...]}``, text has lines ``1 x0 y0 x1 y1`` or ``1 x y``.

    Raises:
        InputError: one line with the file, the fault and the form.
    """
    try:
        text = path.read_text("utf-8-sig")
        rows = _of_json(load_json(text), kind) if text.lstrip()[:1] in ("{", "[") else _of_lines(text)
        return _checked(rows, kind)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give {_FORMS[kind]}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give {_FORMS[kind]}") from error
    except (ValueError, RecursionError) as error:
        fault = "is no text" if isinstance(error, UnicodeDecodeError) else " ".join(str(error).split())[:200]
        raise InputError(f"{path}: {fault}; give {_FORMS[kind]}") from error


def _of_lines(text: str) -> list[tuple[str, Any]]:
    lines = [line.partition("#")[0].replace(",", " ").split() for line in text.splitlines()]
    return [(words[0], [float(word) for word in words[1:]]) for words in lines if words]


def _of_json(content: Any, kind: str) -> list[tuple[str, Any]]:
    if not isinstance(content, dict):
        raise ValueError("a list does not say which object is which")
    rows: list[tuple[str, Any]] = []
    for obj_id, value in content.items():
        several = kind == "points" and isinstance(value, list) and value and isinstance(value[0], list)
        rows += [(obj_id, row) for row in (value if several else [value])]
    return rows


def _checked(rows: list[tuple[str, Any]], kind: str) -> dict[int, list[list[float]]]:
    if not rows:
        raise ValueError("is empty")
    shapes: dict[int, list[list[float]]] = {}
    for name, row in rows:
        if not (name.isascii() and name.isdecimal() and len(name) <= 4 and 1 <= int(name) <= MOST_OBJECTS):
            raise ValueError(f"{name[:20]!r} is no object id of 1 to {MOST_OBJECTS}")
        fine = isinstance(row, list) and len(row) == _COUNTS[kind]
        if not fine or not all(type(n) in (int, float) and abs(n) < _LARGEST for n in row):
            raise ValueError(f"object {name} needs {_COUNTS[kind]} numbers")
        if kind == "boxes" and int(name) in shapes:
            raise ValueError(f"object {name} has two boxes; keep one")
        if kind == "boxes" and not (row[0] < row[2] and row[1] < row[3]):
            raise ValueError(f"the box of object {name} has no extent, x0 < x1 and y0 < y1")
        shapes.setdefault(int(name), []).append([float(n) for n in row])
    return shapes
