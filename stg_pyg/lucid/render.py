"""A dreamt scene painted: the background, then its things from back to front, seen through a window of the frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stg_pyg.lucid.layers import MAX_LEVEL, FrameParts, Layer, UInt8Array, box_of
from stg_pyg.lucid.splines import FloatArray, ThinPlateSpline, apply, center_of, dense_map, node_grid
from stg_pyg.ops.windows import PADDING_COLOUR

_MIN_BLUR, _MAX_BLUR = 1.5, 12.0
"""Motion blur in pixels: less is not seen, more is cut."""


@dataclass(frozen=True)
class Thing:
    """Something in a scene, an object of the annotated frame or what passes in front of it."""

    label: int
    """Object id, 0 for what is no object."""
    box: FloatArray
    """Where it is in the annotated frame, [4]."""
    forward: FloatArray
    """Affine map of the annotated frame to the scene, [3, 3]."""
    spline: ThinPlateSpline
    """Displacement of points of the annotated frame in boxes' sides, over positions in the box from -1/2 to 1/2."""
    reach: float
    """Bound of that displacement over the box."""
    motion: tuple[float, float]
    """Path during the exposure in pixels of the frame."""
    layer: Layer | None = None
    """Its picture, where that is not cut out of the annotated frame."""

    def source(self, points: FloatArray) -> FloatArray:
        """Where in the annotated frame the points [N, 2] of the scene come from."""
        flat = apply(np.linalg.inv(self.forward), points)
        size = self.box[2:] - self.box[:2]
        position = (flat - center_of(self.box)) / size
        return np.asarray(flat + self.spline(position.clip(-1, 1)) * size)

    def corners(self) -> FloatArray:
        """Corners [4, 2] in the scene of a box around it."""
        margin = (self.box[2:] - self.box[:2]) * (self.reach + 0.02) + 2.0
        (x0, y0), (x1, y1) = self.box[:2] - margin, self.box[2:] + margin
        return apply(self.forward, np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]]))


@dataclass(frozen=True)
class Scene:
    """One instant of a dream."""

    camera: FloatArray
    """Affine map of the annotated frame's background to the scene, [3, 3]."""
    things: tuple[Thing, ...]
    """From back to front."""
    light: UInt8Array | None
    """Values [256, 3] that those of each channel become."""
    blur: float
    """Of the whole picture, standard deviation in its pixels."""


class Rendering(NamedTuple):
    """A scene seen through a window."""

    image: UInt8Array
    """[h, w, 3]."""
    labels: UInt8Array
    """[h, w] object ids."""
    mask: UInt8Array
    """[h, w] how much of each pixel the object in question fills, 0 to 255."""


def render(parts: FrameParts, scene: Scene, window: FloatArray, shape: tuple[int, int], focus: int) -> Rendering:
    """The scene through ``window`` (2 x 3, crop to frame) as a picture of ``shape``, and the object ``focus`` in it.

    What is outside of the frame has the padding colour and no object.
    """
    image = _background(parts, scene.camera, window, shape)
    labels, mask = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    for thing in scene.things:
        _paint(parts, thing, window, focus, image, labels, mask)
    if scene.blur > 0:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), scene.blur))
    if scene.light is not None:
        image = np.asarray(cv2.LUT(image, scene.light[:, None]))
    outside = _outside(window, shape, (parts.height, parts.width))
    if outside is not None:
        image[outside], labels[outside], mask[outside] = PADDING_COLOUR, 0, 0
    return Rendering(image, labels, (255 * mask + 0.5).astype(np.uint8))


def visible_box(parts: FrameParts, scene: Scene, focus: int, nodes: int = 48) -> FloatArray | None:
    """Box [4] of what is seen of an object in the frame, found on a grid over its surroundings; None if nothing is."""
    thing = next((thing for thing in scene.things if thing.label == focus), None)
    if thing is None:
        return None
    corners, size = thing.corners(), np.array([parts.width, parts.height], dtype=float)
    low, high = corners.min(axis=0).clip(0, size), corners.max(axis=0).clip(0, size)
    if (high - low < 1).any():
        return None
    step = (high - low) / nodes
    window = np.column_stack([np.diag(step), low])
    labels = np.zeros((nodes, nodes), np.uint8)
    for thing in scene.things:
        _paint(parts, thing, window, focus, None, labels, None)
    box = box_of(labels == focus)
    return None if box is None else np.concatenate([low + box[:2] * step, low + box[2:] * step])


def _level(linear: FloatArray) -> int:
    scale = math.sqrt(max(abs(float(np.linalg.det(linear))), 1e-12))
    return min(max(round(math.log2(scale)), 0), MAX_LEVEL)


def _background(parts: FrameParts, camera: FloatArray, window: FloatArray, shape: tuple[int, int]) -> UInt8Array:
    matrix = np.linalg.inv(camera) @ np.vstack([window, [0, 0, 1]])
    level = _level(matrix[:2, :2])
    reduced = np.diag([*parts.scale(level), 1.0]) @ matrix
    offset = reduced[:2, :2] @ np.full(2, 0.5) + reduced[:2, 2] - 0.5
    return np.array(
        cv2.warpAffine(
            parts.background(level),
            np.column_stack([reduced[:2, :2], offset]),
            (shape[1], shape[0]),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    )


def _paint(
    parts: FrameParts,
    thing: Thing,
    window: FloatArray,
    focus: int,
    image: UInt8Array | None,
    labels: UInt8Array,
    mask: NDArray[np.float32] | None,
) -> None:
    """Puts a thing over picture, ids and mask in place; without a picture, over the ids alone."""
    to_crop = np.linalg.inv(window[:, :2])
    corners = (thing.corners() - window[:, 2]) @ to_crop.T
    motion = to_crop @ np.array(thing.motion)
    area = _pixels(corners, float(np.abs(motion).max()) + 1, labels.shape)
    if area is None:
        return
    rows, columns = area
    shape = rows.stop - rows.start, columns.stop - columns.start
    nodes, counts = node_grid(shape)
    points = apply(window, nodes + np.array([columns.start, rows.start]))
    layer = thing.layer
    if layer is None:
        level = _level(np.linalg.inv(thing.forward)[:2, :2] @ window[:, :2])
        layer = parts.object(thing.label, level)
    maps = dense_map(layer.index(thing.source(points)), counts, shape)
    alpha = np.asarray(cv2.remap(layer.alpha, *maps, cv2.INTER_LINEAR))
    if image is None or mask is None:
        labels[rows, columns][alpha > 127] = thing.label
        return
    colours = cv2.remap(layer.rgb, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cover: NDArray[np.floating] = alpha.astype(np.float32)[..., None] / 255
    painted = np.asarray(colours * cover, np.float32)
    kernel = _line_kernel(motion)
    if kernel is not None:
        painted = np.asarray(cv2.filter2D(painted, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.float32)
        cover = np.asarray(cv2.filter2D(cover, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.float32)[..., None]
    image[rows, columns] = (painted + (1 - cover) * image[rows, columns] + 0.5).astype(np.uint8)
    labels[rows, columns][cover[..., 0] > 0.5] = thing.label
    mask[rows, columns] *= 1 - cover[..., 0]
    if thing.label == focus:
        mask[rows, columns] += cover[..., 0]


def _pixels(corners: FloatArray, margin: float, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    """Rows and columns of the pixels around the corners; None outside of the picture."""
    x0, y0 = np.floor(corners.min(axis=0) - margin)
    x1, y1 = np.ceil(corners.max(axis=0) + margin)
    if x1 <= 0 or y1 <= 0 or x0 >= shape[1] or y0 >= shape[0]:
        return None
    rows = slice(max(int(y0), 0), min(int(y1), shape[0]))
    return rows, slice(max(int(x0), 0), min(int(x1), shape[1]))


def _line_kernel(motion: FloatArray) -> NDArray[np.float32] | None:
    """Average along a path in pixels; None where it is too short to be seen."""
    length = float(np.hypot(*motion))
    if length < _MIN_BLUR:
        return None
    path: FloatArray = motion * min(1.0, _MAX_BLUR / length)
    radius = int(np.ceil(np.abs(path).max() / 2)) + 1
    places = np.linspace(-0.5, 0.5, 16)[:, None] * path + radius
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    near = np.floor(places).astype(int)
    part = places - near
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
        np.add.at(kernel, (near[:, 1] + dy, near[:, 0] + dx), weight)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _outside(window: FloatArray, shape: tuple[int, int], frame: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Pixels whose centres are outside of the frame; None when there are none."""
    xs, ys = np.arange(shape[1]) + 0.5, (np.arange(shape[0]) + 0.5)[:, None]
    result = np.zeros(shape, bool)
    for row, side in ((0, frame[1]), (1, frame[0])):
        ends = window[row, 0] * xs[[0, -1]] + window[row, 1] * ys[[0, -1]] + window[row, 2]
        if ends.min() < 0 or ends.max() > side:
            place = window[row, 0] * xs + window[row, 1] * ys + window[row, 2]
            result |= (place < 0) | (place > side)
    return result if result.any() else None
