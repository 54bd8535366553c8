"""An annotated frame taken apart: its objects cut out, and the background as it might look without them.

Everything is made when first asked for, at the resolution that is needed: level k is the frame reduced 2^k times.
Points are continuous pixel coordinates of the full frame, in which pixel (i, j) has its centre at (j + 0.5, i + 0.5).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from stg_pyg.lucid.splines import FloatArray

UInt8Array = NDArray[np.uint8]
_Method = TypeVar("_Method", bound=Callable[..., Any])

COARSE_SIDE = 120
"""Longer side in pixels of the picture that is inpainted."""
MAX_LEVEL = 4
_BORDER = 4
_HOLE_MARGIN = 0.008
"""How far around an object the frame is not trusted to be background, as a share of the longer side."""


@dataclass(frozen=True)
class Layer:
    """A piece of picture to be put into another: colours and how far they cover what is behind."""

    rgb: UInt8Array
    """[h, w, 3]."""
    alpha: UInt8Array
    """[h, w], 0 to 255."""
    scale: tuple[float, float]
    """Pixels of the layer a pixel of the frame, across and down."""
    offset: tuple[int, int]
    """First column and row of the layer in the whole reduced frame."""

    def index(self, points: FloatArray) -> FloatArray:
        """Points [N, 2] of the frame as columns and rows of the layer, whole numbers at the centres of its pixels."""
        return points * self.scale - 0.5 - self.offset


def _once(method: _Method) -> _Method:
    """The method, whose results are kept by the object."""

    @functools.wraps(method)
    def kept(self: Any, *arguments: int) -> Any:
        key = (method.__name__, *arguments)
        if key not in self._kept:
            self._kept[key] = method(self, *arguments)
        return self._kept[key]

    return kept  # type: ignore[return-value]


class FrameParts:
    """The parts of one annotated frame.

    Args:
        image: uint8 [H, W, 3].
        labels: uint8 [H, W] object ids, 0 is background.

    Raises:
        ValueError: the shapes or types are others.
    """

    def __init__(self, image: UInt8Array, labels: UInt8Array):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image has shape {image.shape} and type {image.dtype}: expected uint8 [H, W, 3]")
        if labels.shape != image.shape[:2] or labels.dtype != np.uint8:
            raise ValueError(f"labels have shape {labels.shape} and type {labels.dtype}: expected uint8 as the image")
        self.image, self.labels = image, labels
        self.height, self.width = labels.shape
        boxes = {obj: box_of(labels == obj) for obj in object_ids(labels).tolist()}
        self.boxes = {obj: box for obj, box in boxes.items() if box is not None}
        """Of each object by id: float [4] (x0, y0, x1, y1), x1 and y1 exclusive."""
        self._kept: dict[tuple[Any, ...], Any] = {}

    @_once
    def _reduced(self, level: int) -> UInt8Array:
        """The frame at a level."""
        return self._halved(self._reduced(level - 1), level) if level else self.image

    @_once
    def _mask(self, obj: int, level: int) -> UInt8Array:
        """How much of each pixel at a level one object fills, or all of them for 0; 0 to 255."""
        if level:
            return self._halved(self._mask(obj, level - 1), level)
        return ((self.labels == obj) if obj else (self.labels > 0)).astype(np.uint8) * np.uint8(255)

    def _halved(self, picture: UInt8Array, level: int) -> UInt8Array:
        # At half the size, linear interpolation is the mean of four pixels, and many times faster than INTER_AREA.
        return np.asarray(cv2.resize(picture, self._size(level), interpolation=cv2.INTER_LINEAR))

    def scale(self, level: int) -> tuple[float, float]:
        """Pixels at a level a pixel of the frame, across and down."""
        width, height = self._size(level)
        return width / self.width, height / self.height

    def _size(self, level: int) -> tuple[int, int]:
        return max(self.width >> level, 1), max(self.height >> level, 1)

    @_once
    def object(self, obj: int, level: int) -> Layer:
        """One object, its colours continued beyond its border so that nothing of the old background comes along."""
        picture, scale = self._reduced(level), self.scale(level)
        x0, y0, x1, y1 = self.boxes[obj]
        left, top = max(int(x0 * scale[0]) - _BORDER, 0), max(int(y0 * scale[1]) - _BORDER, 0)
        right, bottom = int(x1 * scale[0]) + _BORDER + 1, int(y1 * scale[1]) + _BORDER + 1
        rgb = picture[top:bottom, left:right]
        mask = self._mask(obj, level)[top:bottom, left:right]
        alpha = mask if level else np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.6))
        # The outermost pixels show object and background mixed: they take the colours further inside.
        inside = cv2.erode((mask > 250).astype(np.float32), np.ones((3, 3), np.uint8))[..., None]
        near = cv2.GaussianBlur(inside, (0, 0), 2.0)[..., None]
        spread = cv2.GaussianBlur(rgb * inside, (0, 0), 2.0) / np.maximum(near, 1e-6)
        known = np.where(near > 0.02, 1 - inside, 0)
        colours = np.clip(rgb + known * (spread - rgb) + 0.5, 0, 255).astype(np.uint8)
        padded = cv2.copyMakeBorder(colours, *(_BORDER,) * 4, cv2.BORDER_REPLICATE)
        alpha = cv2.copyMakeBorder(alpha, *(_BORDER,) * 4, cv2.BORDER_CONSTANT, value=0)
        return Layer(np.asarray(padded), np.asarray(alpha), scale, (left - _BORDER, top - _BORDER))

    @_once
    def _coarse_fill(self) -> tuple[UInt8Array, UInt8Array, list[tuple[int, int]]]:
        """Inpainted picture, numbers of its holes, and for each where texture for it is found; all much reduced."""
        factor = min(COARSE_SIDE / max(self.width, self.height), 1.0)
        size = max(round(self.width * factor), 1), max(round(self.height * factor), 1)
        level = min(max(int(math.log2(1 / factor)), 0), MAX_LEVEL)
        hole = _widened(_shrink(self._mask(0, level), size))
        picture = _shrink(self._reduced(level), size)
        if hole.all():
            return np.full_like(picture, picture.mean(axis=(0, 1)).astype(np.uint8)), hole, [(0, 0)]
        unknown = hole | _islands(hole)
        filled = np.asarray(cv2.inpaint(picture, unknown, 3, cv2.INPAINT_TELEA), np.uint8) if hole.any() else picture
        count, found = cv2.connectedComponents(hole)
        numbers = np.asarray(found, np.int32)
        shifts = [_texture_shift(filled, numbers, number) for number in range(1, min(count, 255))]
        return filled, np.minimum(numbers, 254).astype(np.uint8), shifts

    @_once
    def background(self, level: int) -> UInt8Array:
        """The frame at a level with all objects removed."""
        filled, numbers, shifts = self._coarse_fill()
        picture, size = self._reduced(level), self._size(level)
        if not self.boxes:
            return picture
        result, hole = picture.copy(), _widened(self._mask(0, level))
        factor = size[0] / filled.shape[1], size[1] / filled.shape[0]
        reach = max(round(factor[0]), 3)
        for number, shift in enumerate(shifts, 1):
            rows, columns = _extent(numbers == number, factor, (size[1], size[0]), reach)
            base = _enlarge(filled, factor, rows, columns)
            texture = _texture(picture, hole, shift, factor, rows, columns)
            soft = cv2.GaussianBlur(hole[rows, columns].astype(np.float32), (0, 0), 1.0)[..., None]
            part = picture[rows, columns]
            result[rows, columns] = np.clip(part + soft * (base + texture - part) + 0.5, 0, 255).astype(np.uint8)
        return result


def object_ids(labels: UInt8Array) -> NDArray[np.intp]:
    """Ids of the objects of a label map, ascending."""
    counts = cv2.calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256])  # type: ignore[list-item]
    return np.flatnonzero(counts[1:]) + 1


def box_of(mask: NDArray[Any]) -> FloatArray | None:
    """Box (x0, y0, x1, y1) of what is not 0 in a mask [H, W], x1 and y1 exclusive; None if nothing is."""
    x, y, width, height = cv2.boundingRect((mask != 0).view(np.uint8))
    return np.array([x, y, x + width, y + height], dtype=float) if width else None


def _widened(mask: UInt8Array) -> UInt8Array:
    """1 where an object is or might be, [h, w]."""
    radius = max(round(_HOLE_MARGIN * max(mask.shape)), 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    return np.asarray(cv2.dilate((mask > 0).astype(np.uint8), kernel))


def _islands(hole: UInt8Array) -> UInt8Array:
    """1 in small parts that are cut off from the rest by a hole: more often in front of the object than behind."""
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(1 - hole, connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    small = areas < min(0.2 * int(hole.sum()), int(areas.max(initial=0)))
    return np.concatenate([[False], small])[numbers].astype(np.uint8)


def _shrink(picture: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _extent(
    region: NDArray[np.bool_], factor: tuple[float, float], shape: tuple[int, int], reach: int
) -> tuple[slice, slice]:
    """Rows and columns of the enlarged box around a region."""
    slices = []
    for axis, scale, side in ((1, factor[1], shape[0]), (0, factor[0], shape[1])):
        places = np.flatnonzero(region.any(axis=axis))
        first, last = int(places[0] * scale) - reach, int((places[-1] + 1) * scale) + reach + 1
        slices.append(slice(max(first, 0), min(last, side)))
    return slices[0], slices[1]


def _enlarge(picture: UInt8Array, factor: tuple[float, float], rows: slice, columns: slice) -> NDArray[np.float32]:
    """The part (rows, columns) of ``picture`` enlarged by ``factor``, float."""
    xs = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5) / factor[0] - 0.5
    ys = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) / factor[1] - 0.5
    maps = np.meshgrid(xs, ys)
    return np.asarray(cv2.remap(picture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32))


def _texture_shift(filled: UInt8Array, numbers: NDArray[np.int32], number: int) -> tuple[int, int]:
    """From how far away, in columns and rows, the background looks most like what fills a hole."""
    ys, xs = np.nonzero(numbers == number)
    height, width = numbers.shape
    across, down = xs.max() - xs.min() + 1, ys.max() - ys.min() + 1
    colours, best, least = filled.astype(np.float32), (0, 0), np.inf
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.6, 0), (-0.6, 0), (1.5, 0), (-1.5, 0)):
        dx, dy = round(x * (across + 1)), round(y * (down + 1))
        other_xs, other_ys = xs + dx, ys + dy
        inside = (other_xs >= 0) & (other_xs < width) & (other_ys >= 0) & (other_ys < height)
        there = other_ys.clip(0, height - 1), other_xs.clip(0, width - 1)
        usable = inside & (numbers[there] == 0)
        difference = np.abs(colours[there] - colours[ys, xs]).mean(axis=1)
        cost = float(np.where(usable, difference, 60).mean())
        if cost < least:
            best, least = (dx, dy), cost
    return best


def _texture(
    picture: UInt8Array,
    hole: UInt8Array,
    shift: tuple[int, int],
    factor: tuple[float, float],
    rows: slice,
    columns: slice,
) -> NDArray[np.float32]:
    """The fine detail of the background a shift away from (rows, columns), zero where there is none."""
    dx, dy = round(shift[0] * factor[0]), round(shift[1] * factor[1])
    matrix = np.array([[1.0, 0, columns.start + dx], [0, 1, rows.start + dy]])
    size = columns.stop - columns.start, rows.stop - rows.start
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    source = cv2.warpAffine(picture, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101).astype(np.float32)
    unusable = cv2.warpAffine(hole, matrix, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=1)
    sigma = max(min(factor), 1.0)
    side = 2 * round(2 * sigma) + 1
    usable = (1 - unusable)[..., None].astype(np.float32)
    weight = cv2.blur(usable, (side, side))[..., None]
    mean = cv2.blur(source * usable, (side, side)) / np.maximum(weight, 1e-6)
    return np.asarray((source - mean) * usable)
