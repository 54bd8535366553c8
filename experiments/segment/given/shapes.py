"""Boxes or points on the objects of the first frame, in the place of masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.segment.given.masks import MOST_OBJECTS, Given
from stg_pyg.errors import InputError
from stg_pyg.proposals.guided import GuidedProposer
from stg_pyg.proposals.prompts import mask_of_box, mask_of_points
from stg_pyg.utils.images import UInt8Array, load_json
from stg_pyg.video.frames import FrameSource, pixels
from stg_pyg.video.merge import merge_objects

Row = tuple[int, list[float]]
_LARGEST = 1e6
_FORMS = {
    "boxes": 'a JSON file {"1": [x0, y0, x1, y1], ...}, or lines "id x0 y0 x1 y1", in pixels',
    "points": 'a JSON file {"1": [[x, y], ...], ...}, or lines "id x y", in pixels',
}


class GivenShapes(Given):
    """Objects of the first frame by boxes, points or both; :meth:`segment` makes masks of them.

    Args:
        source: the video.
        boxes, points: files, at least one of them; see :func:`read_boxes` and :func:`read_points`.

    Raises:
        InputError: a file is broken, an object is in both, or lies outside of the frame.
    """

    def __init__(self, source: FrameSource, boxes: Path | None, points: Path | None):
        path = boxes or points
        assert path is not None
        self.path = path
        self._first, self._size = source.frame_name(0), source.size
        self._boxes = {} if boxes is None else read_boxes(boxes)
        self._points = {} if points is None else read_points(points)
        both = sorted(set(self._boxes) & set(self._points))
        if both:
            raise InputError(f"{points}: object {both[0]} has a box in {boxes} too; keep one of them")
        self._files = dict.fromkeys(self._boxes, boxes) | dict.fromkeys(self._points, points)
        for obj_id, numbers in self._boxes.items():
            self._refuse_outside(obj_id, numbers)
        for obj_id, places in self._points.items():
            for x, y in places:
                self._refuse_outside(obj_id, [x, y, x, y])
        self.object_ids, self.frames = sorted(self._files), [self._first]
        how = f"masks of the first frame are made from {self._what()}"
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
            if obj_id in self._boxes:
                masks.append(mask_of_box(proposer, image, image.new_tensor(self._boxes[obj_id])))
            else:
                masks.append(mask_of_points(proposer, image, image.new_tensor(self._points[obj_id])))
        self._labels = self._merged(torch.stack(masks))

    def at(self, name: str) -> UInt8Array | None:
        return self._labels if name == self._first else None

    def _merged(self, masks: Tensor) -> UInt8Array:
        labels: UInt8Array = merge_objects(masks, self.object_ids).cpu().numpy()
        missing = set(self.object_ids) - {int(i) for i in np.unique(labels)}
        if missing:
            obj_id = min(missing)
            remedy = "draw its mask and give it with --masks"
            raise InputError(f"{self._files[obj_id]}: nothing is found there of object {obj_id}; {remedy}")
        return labels

    def _what(self) -> str:
        return " and ".join(name for name, shapes in (("boxes", self._boxes), ("points", self._points)) if shapes)

    def _refuse_outside(self, obj_id: int, box: list[float]) -> None:
        height, width = self._size
        x0, y0, x1, y1 = box
        if x0 >= width or y0 >= height or x1 < 0 or y1 < 0:
            frame = f"the frame, which is {pixels(self._size)} pixels"
            raise InputError(f"{self._files[obj_id]}: object {obj_id} lies outside of {frame}")


def read_boxes(path: Path) -> dict[int, list[float]]:
    """Boxes (x0, y0, x1, y1) in pixels by object id: JSON ``{"1": [x0, y0, x1, y1]}`` or lines ``1 x0 y0 x1 y1``.

    Raises:
        InputError: one line with the file, the fault and the form.
    """
    boxes: dict[int, list[float]] = {}
    for obj_id, box in _read(path, "boxes", _boxes_of_json, 4):
        if obj_id in boxes:
            raise _error(path, f"object {obj_id} has two boxes; keep one", "boxes")
        if not (box[0] < box[2] and box[1] < box[3]):
            raise _error(path, f"the box of object {obj_id} has no extent, x0 < x1 and y0 < y1", "boxes")
        boxes[obj_id] = box
    return boxes


def read_points(path: Path) -> dict[int, list[list[float]]]:
    """Points (x, y) in pixels by object id: JSON ``{"1": [[x, y], ...]}`` or lines ``1 x y``, several an object.

    Raises:
        InputError: one line with the file, the fault and the form.
    """
    points: dict[int, list[list[float]]] = {}
    for obj_id, point in _read(path, "points", _points_of_json, 2):
        points.setdefault(obj_id, []).append(point)
    return points


def _read(path: Path, kind: str, of_json: Callable[[Any], list[tuple[Any, Any]]], count: int) -> list[Row]:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give {_FORMS[kind]}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give {_FORMS[kind]}") from error
    except ValueError as error:
        raise _error(path, "is no text", kind) from error
    try:
        rows = of_json(load_json(text)) if text.lstrip()[:1] in ("{", "[") else _of_lines(text)
    except (ValueError, RecursionError) as error:
        raise _error(path, f"cannot be understood ({error})", kind) from error
    if not rows:
        raise _error(path, "is empty", kind)
    return [_checked(path, kind, obj_id, numbers, count) for obj_id, numbers in rows]


def _of_lines(text: str) -> list[tuple[Any, Any]]:
    rows: list[tuple[Any, Any]] = []
    for line in text.splitlines():
        words = line.partition("#")[0].replace(",", " ").split()
        if words:
            rows.append((words[0], [float(word) for word in words[1:]]))
    return rows


def _boxes_of_json(content: Any) -> list[tuple[Any, Any]]:
    if not isinstance(content, dict):
        raise ValueError("a list does not say which object is which")
    return list(content.items())


def _points_of_json(content: Any) -> list[tuple[Any, Any]]:
    rows: list[tuple[Any, Any]] = []
    for obj_id, points in _boxes_of_json(content):
        if not isinstance(points, list) or not points:
            raise ValueError(f"object {obj_id} has no list of points")
        rows += [(obj_id, point) for point in (points if isinstance(points[0], list) else [points])]
    return rows


def _checked(path: Path, kind: str, obj_id: str, numbers: Any, count: int) -> Row:
    if not (obj_id.isascii() and obj_id.isdecimal() and len(obj_id) <= 4 and 1 <= int(obj_id) <= MOST_OBJECTS):
        raise _error(path, f"{obj_id[:20]!r} is no object id of 1 to {MOST_OBJECTS}", kind)
    fine = isinstance(numbers, list) and len(numbers) == count
    if not fine or not all(type(n) in (int, float) and abs(n) < _LARGEST for n in numbers):
        raise _error(path, f"object {obj_id} needs {count} numbers", kind)
    return int(obj_id), [float(n) for n in numbers]


def _error(path: Path, fault: str, kind: str) -> InputError:
    fault = " ".join(fault.split())[:200]
    return InputError(f"{path}: {fault}; give {_FORMS[kind]}")
