"""Textures, shapes and paths of the synthetic videos: pure functions of a random generator."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.base import UInt8Array

FloatArray = NDArray[np.float32]
_ANGLES = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_SUBPIXEL_BITS = 4
_LIMB = np.array([[0, 0.5, 0.16, 0.2, 0.2, 0], [2 * np.pi, 1.1, 0.32, 0.9, 0.6, 2 * np.pi]])
"""Least and greatest values of the fields of a limb."""


def noise(rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 4) -> FloatArray:
    """Multi-octave noise [H, W] of about zero mean and unit deviation; the coarsest cells are ``cell`` pixels wide."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        step = max(cell / 2**octave, 1.0)
        grid = rng.standard_normal((int(height / step) + 2, int(width / step) + 2)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    return np.asarray((total - total.mean()) / (total.std() + 1e-6), dtype=np.float32)


def palette(rng: np.random.Generator, hue: float) -> FloatArray:
    """Three related RGB colours [3, 3] in [0, 255] around ``hue`` in [0, 1)."""
    saturation, value = rng.uniform(0.35, 0.95), rng.uniform(0.35, 0.85)
    colours = []
    for v in (-0.22, 0.0, 0.22):
        turned, pale = (hue + rng.normal(0, 0.035)) % 1, np.clip(saturation + rng.normal(0, 0.15), 0.1, 1)
        colours.append(colorsys.hsv_to_rgb(turned, pale, np.clip(value + v, 0.1, 1)))
    return np.array(colours, np.float32) * 255


def texture(rng: np.random.Generator, height: int, width: int, colours: FloatArray, scale: float) -> UInt8Array:
    """A coloured texture [H, W, 3] of noise, stripes, checks or spots with features of about ``scale`` pixels."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), scale * rng.uniform(0.5, 1.1)
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    warp = noise(rng, height, width, 3 * scale, 2) * rng.uniform(0, 0.35) * period
    kind = rng.choice(4, p=[0.4, 0.25, 0.15, 0.2])
    if kind == 0:
        pattern = noise(rng, height, width, 1.5 * scale) * 0.45
    elif kind == 1:
        pattern = np.sin(2 * np.pi * (u + warp) / period)
    elif kind == 2:
        pattern = np.sign(np.sin(np.pi * (u + warp) / period) * np.sin(np.pi * (v + warp) / period)) * 0.8
    else:
        pattern = np.tanh(3 * (noise(rng, height, width, scale, 2) - 0.3))
    pattern = np.clip(pattern + 0.12 * noise(rng, height, width, scale / 2), -1, 1)[..., None]
    low, middle, high = colours
    mixed = middle + np.where(pattern < 0, -pattern * (low - middle), pattern * (high - middle))
    return np.clip(mixed, 0, 255).astype(np.uint8)


@dataclass
class Limb:
    """A capsule that swings about a point of the body; lengths in units of the body's radius."""

    angle: float
    length: float
    width: float
    swing: float
    speed: float
    phase: float

    def points(self, t: int) -> NDArray[np.float64]:
        direction = self.angle + self.swing * np.sin(self.speed * t + self.phase)
        half = np.linspace(-np.pi / 2, np.pi / 2, 7)
        a, ends = np.concatenate([half, half + np.pi]), np.repeat([self.length, 0.0], 7)
        capsule = np.stack([ends + self.width * np.cos(a), self.width * np.sin(a)], 1)
        rotation = np.array([[np.cos(direction), np.sin(direction)], [-np.sin(direction), np.cos(direction)]])
        return capsule @ rotation + 0.7 * np.array([np.cos(self.angle), np.sin(self.angle)])


@dataclass
class Shape:
    """A star-shaped body of radius about 1 with travelling Fourier harmonics, an oscillating aspect, and limbs."""

    base: NDArray[np.float64]  # [48] radii at rest
    orders: NDArray[np.int64]
    amplitudes: NDArray[np.float64]
    phases: NDArray[np.float64]
    speeds: NDArray[np.float64]
    stretch: tuple[float, float, float]  # amplitude, speed, phase of the aspect
    limbs: list[Limb] = field(default_factory=list)

    def polygons(self, t: int) -> list[NDArray[np.float64]]:
        """Outlines [P, 2] of the body and its limbs at time ``t``, in units of the radius."""
        waves = np.cos(np.outer(_ANGLES, self.orders) + self.phases + self.speeds * t) @ self.amplitudes
        radii = np.maximum(self.base * (1 + waves), 0.15)
        body = radii[:, None] * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
        amplitude, speed, phase = self.stretch
        aspect = np.exp(amplitude * np.sin(speed * t + phase))
        return [p * (aspect, 1 / aspect) for p in (body, *(limb.points(t) for limb in self.limbs))]


def random_shape(rng: np.random.Generator) -> Shape:
    """A blob, an ellipse or a polygon, deforming; blobs and ellipses may have one to three swinging limbs."""
    kind = rng.choice(["blob", "ellipse", "polygon"], p=[0.5, 0.25, 0.25])
    orders = np.arange(2, 6)
    size = {"blob": 0.22, "ellipse": 0.05, "polygon": 0.06}[kind]
    if kind == "ellipse":
        ratio = rng.uniform(1.0, 1.9)
        base = 1 / np.hypot(np.cos(_ANGLES) / ratio**0.5, np.sin(_ANGLES) * ratio**0.5)
    elif kind == "polygon":
        base = _polygon_radii(rng, int(rng.integers(3, 7)))
    else:
        base = np.ones_like(_ANGLES)
    num_limbs = int(rng.integers(1, 4)) if kind != "polygon" and rng.random() < 0.55 else 0
    return Shape(
        base=base,
        orders=orders,
        amplitudes=rng.normal(0, size, 4) / np.sqrt(orders - 1),
        phases=rng.uniform(0, 2 * np.pi, 4),
        speeds=rng.uniform(-0.35, 0.35, 4),
        stretch=(rng.uniform(0, 0.22), rng.uniform(0.1, 0.5), rng.uniform(0, 2 * np.pi)),
        limbs=[Limb(*rng.uniform(*_LIMB)) for _ in range(num_limbs)],
    )


def random_bar(rng: np.random.Generator) -> Shape:
    """A stiff occluder: a long bar or a compact patch."""
    ratio = rng.uniform(3, 7) if rng.random() < 0.6 else rng.uniform(1, 1.6)
    c, s = np.abs(np.cos(_ANGLES)), np.abs(np.sin(_ANGLES))
    base = np.minimum(ratio / np.maximum(s, 1e-6), 1 / np.maximum(c, 1e-6))
    zeros = np.zeros(1)
    return Shape(base, np.array([2]), rng.normal(0, 0.05, 1), zeros, zeros, (0.0, 0.0, 0.0))


def random_path(
    rng: np.random.Generator,
    num_frames: int,
    start: NDArray[np.float64],
    velocity: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Centres [T, 2] that move with changing acceleration and bounce off the box ``low`` .. ``high``."""
    top_speed = max(1.5 * float(np.linalg.norm(velocity)), 0.025 * float(np.linalg.norm(high - low)))
    position, velocity, push = start.astype(float), velocity.astype(float), np.zeros(2)
    path = np.empty((num_frames, 2))
    for t in range(num_frames):
        path[t] = position
        push = 0.8 * push + rng.normal(0, 0.06 * top_speed, 2)
        velocity = velocity + push
        velocity *= min(1.0, top_speed / (float(np.linalg.norm(velocity)) + 1e-9))
        position = position + velocity
        outside = (position < low) | (position > high)
        inward = np.where(position < low, np.abs(velocity), -np.abs(velocity))
        velocity, push = np.where(outside, inward, velocity), np.where(outside, 0.0, push)
        position = np.clip(position, low, high)
    return path


def draw_mask(polygons: list[NDArray[np.float64]], height: int, width: int) -> tuple[UInt8Array, tuple[slice, slice]]:
    """Soft mask in 0 .. 255 of the union of polygons [P, 2] (x, y), cut to the window of the frame that it touches."""
    points = np.concatenate(polygons)
    left, top = np.maximum(np.floor(points.min(axis=0)).astype(int) - 2, 0)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 3, (width, height))
    if right <= left or bottom <= top:
        return np.zeros((0, 0), np.uint8), (slice(0, 0), slice(0, 0))
    mask = np.zeros((bottom - top, right - left), np.uint8)
    for polygon in polygons:
        fixed = np.round((polygon - (left, top)) * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return mask, (slice(top, bottom), slice(left, right))


def _polygon_radii(rng: np.random.Generator, num_corners: int) -> NDArray[np.float64]:
    corners = np.sort((np.arange(num_corners) + rng.uniform(-0.25, 0.25, num_corners)) * 2 * np.pi / num_corners)
    lengths = rng.uniform(0.8, 1.35, num_corners)
    points = lengths[:, None] * np.stack([np.cos(corners), np.sin(corners)], axis=1)
    edges = np.roll(points, -1, axis=0) - points
    rays = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    # Where ray a meets edge e: a r = p + e s; the radius is the nearest hit with 0 <= s <= 1.
    cross = rays[:, None, 0] * edges[None, :, 1] - rays[:, None, 1] * edges[None, :, 0]
    cross = np.where(np.abs(cross) < 1e-9, 1e-9, cross)
    r = (points[:, 0] * edges[:, 1] - points[:, 1] * edges[:, 0])[None] / cross
    s = (points[None, :, 0] * rays[:, None, 1] - points[None, :, 1] * rays[:, None, 0]) / cross
    radii = np.where((r > 0) & (s >= -1e-6) & (s <= 1 + 1e-6), r, np.inf).min(axis=1)
    return np.where(np.isfinite(radii), radii, 0.5)
