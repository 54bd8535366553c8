"""Random motion, deformation, light and occluders of dreams. Affine maps are [3, 3] in pixels of the frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from stg_pyg.lucid.layers import FrameParts, Layer, UInt8Array
from stg_pyg.lucid.splines import FloatArray, ThinPlateSpline, apply, center_of

_CONTROL_POINTS = 4
_DEFORMATION, _FURTHER_DEFORMATION = 0.045, 0.012
"""Standard deviation of the control points' displacement in sides of the object's box: at first, and between frames."""
_OCCLUDER_SIDE = 96


@dataclass(frozen=True)
class Path:
    """Where something goes: affine maps of the annotated frame to both frames of the dream."""

    box: FloatArray
    previous: FloatArray
    current: FloatArray

    def motion(self) -> tuple[float, float]:
        """Displacement of the centre between the two in pixels."""
        start, end = (apply(matrix, center_of(self.box)) for matrix in (self.previous, self.current))
        return float(end[0] - start[0]), float(end[1] - start[1])


def move_camera(rng: np.random.Generator, width: int, height: int) -> tuple[FloatArray, FloatArray]:
    """Maps of the background to the previous and the current frame."""
    center, size = np.array([width / 2, height / 2]), np.array([width, height])
    first = _affine(rng, center, rng.normal(0, 0.03, 2) * size, 2.5, 0.05, 0.0, 0.03)
    further = _affine(rng, center, rng.normal(0, 0.01, 2) * size, 0.6, 0.01, 0.0)
    return first, further @ first


def draw_path(
    rng: np.random.Generator,
    box: FloatArray,
    frame: tuple[int, int],
    cameras: tuple[FloatArray, FloatArray],
    *,
    leader: Path | None = None,
    leaves: bool = False,
) -> Path:
    """The path of an object on its own or with another one, through the frame or out of it."""
    center, size = center_of(box), np.maximum(box[2:] - box[:2], 4)
    strength = 1.0 if leader is None else 0.15
    shift = np.clip(rng.normal(0, 0.25 * strength, 2), -0.8, 0.8) * size
    own = _affine(rng, center, shift, 9 * strength, 0.13 * strength, 0.06 * strength)
    previous: FloatArray = (cameras[0] if leader is None else leader.previous) @ own
    speed = 0.06 * strength * np.exp(rng.normal(0, 0.6))
    if leaves:
        previous = _shifted(previous, _way_out(rng, box, frame, apply(previous, center)))
    step = _affine(
        rng, apply(previous, center), rng.normal(0, speed, 2) * size, 3 * strength, 0.04 * strength, 0.02 * strength
    )
    further = cameras[1] @ np.linalg.inv(cameras[0])
    if leader is not None:
        further = leader.current @ np.linalg.inv(leader.previous)
    current = further @ step @ previous
    return Path(box, _keep_cut_sides_outside(previous, box, frame), _keep_cut_sides_outside(current, box, frame))


def put_in_front(rng: np.random.Generator, path: Path, target: Path) -> Path:
    """The path moved so that it crosses that of another object."""
    size = target.box[2:] - target.box[:2]
    goal = apply(target.previous, center_of(target.box)) + rng.normal(0, 0.35, 2) * size
    shift = goal - apply(path.previous, center_of(path.box))
    return replace(path, previous=_shifted(path.previous, shift), current=_shifted(path.current, shift))


def draw_splines(rng: np.random.Generator) -> tuple[tuple[ThinPlateSpline, float], tuple[ThinPlateSpline, float]]:
    """Displacements over a box, in its sides, for the previous and the current frame, each with its bound."""
    side = np.linspace(-0.55, 0.55, _CONTROL_POINTS)
    points = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    first = rng.normal(0, _DEFORMATION, points.shape)
    second = first + rng.normal(0, _FURTHER_DEFORMATION, points.shape)
    before, after = ((ThinPlateSpline(points, values), 1.3 * float(np.abs(values).max())) for values in (first, second))
    return before, after


def draw_light(rng: np.random.Generator) -> UInt8Array | None:
    """A table [256, 3] of random gain, gamma and contrast; half of the time none."""
    if rng.random() < 0.5:
        return None
    x = np.linspace(0, 1, 256)[:, None]
    gain = np.exp(rng.normal(0, 0.07) + rng.normal(0, 0.03, 3))
    gamma, contrast = np.exp(rng.normal(0, 0.12)), np.exp(rng.normal(0, 0.08))
    return np.clip(255 * ((x**gamma - 0.5) * contrast + 0.5) * gain + 0.5, 0, 255).astype(np.uint8)


def occluder(rng: np.random.Generator, parts: FrameParts, target: Path) -> tuple[Layer, Path]:
    """A blob or a post with the texture of some of the background, passing in front of an object."""
    frame = np.array([parts.width, parts.height], dtype=float)
    size = (target.box[2:] - target.box[:2]) * rng.uniform(0.3, 0.9, 2)
    post = rng.random() < 0.3
    if post:
        size = (target.box[2:] - target.box[:2]) * (rng.uniform(0.1, 0.3), 2.0)
    size = np.clip(size, 4, frame)
    low = rng.uniform([0, 0], frame - size + 1e-3)
    box = np.concatenate([low, low + size])
    layer = _textured(rng, parts, box, post)
    place = apply(target.previous, center_of(target.box)) + rng.normal(0, 0.35, 2) * (target.box[2:] - target.box[:2])
    previous = _shifted(_affine(rng, center_of(box), np.zeros(2), 6 if post else 40, 0.1, 0.0), place - center_of(box))
    further = rng.normal(0, 0.06, 2) * (target.box[2:] - target.box[:2]) * np.exp(rng.normal(0, 0.6))
    return layer, Path(box, previous, _shifted(previous, further))


def _textured(rng: np.random.Generator, parts: FrameParts, box: FloatArray, post: bool) -> Layer:
    level = int(np.clip(np.ceil(np.log2(max(box[2:] - box[:2]) / _OCCLUDER_SIDE)), 0, 4))
    scale, picture = parts.scale(level), parts.background(level)
    x0, y0 = (int(low * s) for low, s in zip(box[:2], scale, strict=True))
    x1, y1 = (int(np.ceil(high * s)) for high, s in zip(box[2:], scale, strict=True))
    gain = np.exp(rng.normal(0, 0.25) + rng.normal(0, 0.1, 3))
    rgb = np.clip(picture[y0:y1, x0:x1] * gain, 0, 255).astype(np.uint8)
    height, width = rgb.shape[:2]
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = rng.normal(0, 0.1, (2, 4)) / np.arange(1, 5) ** 0.5
    turns = np.arange(2, 6)[:, None] * angles
    radius = np.clip(0.4 * (1 + waves[0] @ np.cos(turns) + waves[1] @ np.sin(turns)), 0.1, 0.49)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None] + 0.5
    if post:
        points = np.array([[0.1, 0.0], [0.9, 0.0], [0.9, 1.0], [0.1, 1.0]])
    alpha = np.zeros((height, width), np.uint8)
    fixed = np.round((points * (width, height) - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(alpha, [fixed], 255, cv2.LINE_AA, shift=4)
    padded = np.asarray(cv2.copyMakeBorder(rgb, 2, 2, 2, 2, cv2.BORDER_REPLICATE), np.uint8)
    alpha = np.asarray(cv2.copyMakeBorder(alpha, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=0), np.uint8)
    return Layer(padded, alpha, scale, (x0 - 2, y0 - 2))


def _affine(
    rng: np.random.Generator,
    center: FloatArray,
    shift: FloatArray,
    degrees: float,
    scale: float,
    aspect: float,
    zoom: float = 0.0,
) -> FloatArray:
    """A random turn, scale and aspect about a centre, with the given deviations, and a shift."""
    angle = np.deg2rad(rng.normal(0, degrees))
    factor = np.exp(zoom + rng.normal(0, scale) + np.array([1, -1]) * rng.normal(0, aspect))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = turn * factor
    matrix[:2, 2] = center + shift - matrix[:2, :2] @ center
    return matrix


def _shifted(matrix: FloatArray, shift: FloatArray) -> FloatArray:
    result = matrix.copy()
    result[:2, 2] += shift
    return result


def _way_out(rng: np.random.Generator, box: FloatArray, frame: tuple[int, int], center: FloatArray) -> FloatArray:
    """A shift that brings the centre near one of the frame's sides, the lower one left out, or past it."""
    size = box[2:] - box[:2]
    side = int(rng.integers(3))
    beyond = rng.uniform(-0.3, 0.55)
    if side == 2:
        return np.array([0.0, -center[1] - beyond * size[1]])
    goal = -beyond * size[0] if side == 0 else frame[0] + beyond * size[0]
    return np.array([goal - center[0], 0.0])


def _keep_cut_sides_outside(matrix: FloatArray, box: FloatArray, frame: tuple[int, int]) -> FloatArray:
    """The map shifted so that a side at which the frame cuts the object off does not come into sight."""
    corners = apply(matrix, np.array([[box[i], box[j]] for i in (0, 2) for j in (1, 3)]))
    result = matrix.copy()
    for axis in (0, 1):
        slack = 0.06 * (box[2 + axis] - box[axis])
        low_cut, high_cut = box[axis] < 2, box[2 + axis] > frame[axis] - 2
        low = corners[:2, 0] if axis == 0 else corners[0::2, 1]
        high = corners[2:, 0] if axis == 0 else corners[1::2, 1]
        if low_cut and not high_cut:
            result[axis, 2] -= max(low.max() + slack, 0)
        elif high_cut and not low_cut:
            result[axis, 2] += max(frame[axis] - high.min() + slack, 0)
    return result
