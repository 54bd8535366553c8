"""What a synthetic video shows, and how a frame of it is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.base import UInt8Array
from datasets.synthetic.parts import (
    FloatArray,
    Shape,
    draw_mask,
    noise,
    palette,
    random_bar,
    random_path,
    random_shape,
    texture,
)

_MIN_AREA = 40 / 96**2  # visible in frame 0, in squared units of length


@dataclass
class Actor:
    """One thing that moves: a labelled object, or an unlabelled distractor or occluder (label 0)."""

    label: int
    shape: Shape
    radius: float  # pixels
    centers: NDArray[np.float64]  # [T, 2] (x, y) in pixels of the frame
    angles: NDArray[np.float64]  # [T] radians
    scales: NDArray[np.float64]  # [T]
    texture: UInt8Array | None = None  # [P, P, 3], the body's center in the middle

    def matrix(self, t: int) -> NDArray[np.float64]:
        """Affine map [2, 3] of shape coordinates, in units of the radius, to pixels."""
        c, s = np.cos(self.angles[t]), np.sin(self.angles[t])
        linear = self.radius * self.scales[t] * np.array([[c, -s], [s, c]])
        return np.concatenate([linear, self.centers[t][:, None]], axis=1)

    def mask(self, t: int, height: int, width: int) -> tuple[UInt8Array, tuple[slice, slice]]:
        matrix = self.matrix(t)
        return draw_mask([p @ matrix[:, :2].T + matrix[:, 2] for p in self.shape.polygons(t)], height, width)

    def colours(self, t: int, window: tuple[slice, slice]) -> UInt8Array:
        """The texture as seen through ``window`` of the frame."""
        assert self.texture is not None
        matrix, middle = self.matrix(t) / [self.radius, self.radius, 1], len(self.texture) / 2
        matrix[:, 2] -= matrix[:, :2] @ (middle, middle) + (window[1].start, window[0].start)
        size = (window[1].stop - window[1].start, window[0].stop - window[0].start)
        return np.asarray(cv2.warpAffine(self.texture, matrix, size, borderMode=cv2.BORDER_REFLECT), np.uint8)


@dataclass
class Scene:
    """Everything that is drawn in one video, from the back to the front."""

    background: UInt8Array  # larger than the frame
    camera: NDArray[np.float64]  # [T, 2, 3] frame -> background
    actors: list[Actor]
    gains: NDArray[np.float64]  # [T, 3] per colour channel
    shade: FloatArray  # [H, W, 1]
    blur: float
    grain: float


class SceneMaker:
    """Draws the scene of one video; lengths scale with the frame."""

    def __init__(self, rng: np.random.Generator, num_frames: int, height: int, width: int, max_objects: int) -> None:
        self.rng = rng
        self.num_frames, self.height, self.width = num_frames, height, width
        self.unit = min(height, width * 0.6)
        self.num_objects = int(rng.integers(1, max_objects + 1))

    def make(self) -> Scene:
        rng, t = self.rng, np.arange(self.num_frames)
        hue = rng.random()
        camera = self._camera(t)
        actors = self._cast(camera)
        wave = rng.uniform(0, 0.22) * np.sin(rng.uniform(0.05, 0.35) * t + rng.uniform(0, 6.3))
        margin = int(0.5 * self.unit)
        canvas = (self.height + 2 * margin, self.width + 2 * margin)
        background = self._background(canvas, hue)
        self._dress(actors, hue, background)
        camera[:, :, 2] += margin
        return Scene(
            background=background,
            camera=camera,
            actors=actors,
            gains=(1 + wave)[:, None] * rng.uniform(0.93, 1.07, 3),
            shade=1 + rng.uniform(0, 0.12) * noise(rng, self.height, self.width, self.width, 1)[..., None],
            blur=rng.uniform(0.3, 0.8) if rng.random() < 0.6 else 0.0,
            grain=rng.uniform(1, 6),
        )

    def _camera(self, t: NDArray[np.int64]) -> NDArray[np.float64]:
        rng = self.rng
        drift = np.outer(t, rng.normal(0, 0.006, 2) * self.unit)
        sway = [
            0.06 * self.unit * rng.random() * np.sin(rng.uniform(0.08, 0.4) * t + rng.uniform(0, 6.3)) for _ in "xy"
        ]
        zoom = np.exp(rng.uniform(0, 0.05) * np.sin(rng.uniform(0.05, 0.25) * t + rng.uniform(0, 6.3)))
        tilt = rng.uniform(0, 0.05) * np.sin(rng.uniform(0.05, 0.3) * t + rng.uniform(0, 6.3))
        turn = np.stack([np.cos(tilt), -np.sin(tilt), np.sin(tilt), np.cos(tilt)], 1).reshape(-1, 2, 2)
        linear = zoom[:, None, None] * turn
        middle = np.array([self.width, self.height]) / 2
        offset = middle - linear @ middle + drift + np.stack(sway, axis=1)
        return np.concatenate([linear, offset[..., None]], axis=2)

    def _background(self, canvas: tuple[int, int], hue: float) -> UInt8Array:
        rng = self.rng
        near = texture(rng, *canvas, palette(rng, hue), self.unit * rng.uniform(0.12, 0.4))
        far = texture(rng, *canvas, palette(rng, hue + rng.normal(0, 0.06)), self.unit * rng.uniform(0.12, 0.4))
        border = noise(rng, *canvas, self.unit, 3)
        weight = np.clip(0.5 + 3 * border, 0, 1)[..., None]
        return (weight * near + (1 - weight) * far).astype(np.uint8)

    def _cast(self, camera: NDArray[np.float64]) -> list[Actor]:
        """Actors from the back to the front, drawn again until every object is visible in frame 0."""
        for attempt in range(200):
            if attempt % 25 == 24:
                self.num_objects = max(1, self.num_objects - 1)
            objects = self._objects()
            extras = self._distractors(objects) if attempt < 100 else []
            middle = objects + extras
            self.rng.shuffle(middle)  # type: ignore[arg-type]
            actors = middle + (self._occluders(objects, camera) if attempt < 100 else [])
            if self._all_visible(actors):
                return actors
        raise RuntimeError("no arrangement shows all objects")  # one object in the frame alone is always visible

    def _all_visible(self, actors: list[Actor]) -> bool:
        labels, alone = np.zeros((self.height, self.width), np.uint8), {0: 0}
        for actor in actors:
            mask, window = actor.mask(0, self.height, self.width)
            labels[window][mask > 127] = actor.label
            alone[actor.label] = int(np.count_nonzero(mask > 127))
        areas, enough = np.bincount(labels.ravel(), minlength=self.num_objects + 1), _MIN_AREA * self.unit**2
        return all(areas[label] >= max(enough, 0.6 * area) for label, area in alone.items() if label)

    def _objects(self) -> list[Actor]:
        rng, frame = self.rng, np.array([self.width, self.height], float)
        radii = self.unit * rng.uniform(0.12, 0.21, self.num_objects) * (1.1 if self.num_objects < 3 else 0.9)
        starts = [
            np.minimum(0.9 * r, frame / 3) + rng.random(2) * np.maximum(frame - 1.8 * r, frame / 3) for r in radii
        ]
        velocities = [self._velocity() for _ in radii]
        if self.num_objects > 1 and rng.random() < 0.6:  # two that meet
            a, b = rng.choice(self.num_objects, 2, replace=False)
            apart = starts[b] - starts[a]
            velocities[a] = apart / rng.uniform(9, 18)
            velocities[b] = velocities[b] * 0.4
        actors = []
        for label, (radius, start, velocity) in enumerate(zip(radii, starts, velocities, strict=True), 1):
            reach = np.full(2, 0.7 * radius)
            if rng.random() < 0.15:  # leaves through the nearest side and bounces back out there
                distances = np.concatenate([start, frame - start])
                side = int(np.argmin(distances))
                outward = np.zeros(2)
                outward[side % 2] = -1.0 if side < 2 else 1.0
                speed = (distances[side] + 1.6 * radius) / rng.uniform(7, 12)
                velocity, reach = outward * speed + 0.3 * velocity, np.full(2, -1.6 * radius)
            path = random_path(rng, self.num_frames, start, velocity, reach, frame - reach)
            actors.append(self._actor(label, random_shape(rng), radius, path))
        return actors

    def _distractors(self, objects: list[Actor]) -> list[Actor]:
        rng, frame = self.rng, np.array([self.width, self.height], float)
        actors = []
        for _ in range(int(rng.integers(1, 3)) if rng.random() < 0.45 else 0):
            radius = float(rng.choice([a.radius for a in objects]) * rng.uniform(0.7, 1.1))
            path = random_path(rng, self.num_frames, rng.random(2) * frame, self._velocity(), 0 * frame, frame)
            actors.append(self._actor(0, random_shape(rng), radius, path))
        return actors

    def _occluders(self, objects: list[Actor], camera: NDArray[np.float64]) -> list[Actor]:
        """Bars and patches that stand still in the scene, in the way of an object."""
        rng = self.rng
        actors = []
        for _ in range(int(rng.integers(1, 3)) if rng.random() < 0.55 else 0):
            victim = objects[int(rng.integers(len(objects)))]
            meeting = int(rng.integers(self.num_frames // 4, max(self.num_frames // 4 + 1, 3 * self.num_frames // 4)))
            place = camera[meeting] @ (*victim.centers[meeting], 1)
            path = np.stack([np.linalg.solve(c[:, :2], place - c[:, 2]) for c in camera])
            actor = self._actor(0, random_bar(rng), victim.radius * rng.uniform(0.45, 0.9), path)
            actor.angles[:], actor.scales[:] = rng.normal(0, 0.5), 1.0
            actors.append(actor)
        return actors

    def _velocity(self) -> NDArray[np.float64]:
        angle, speed = self.rng.uniform(0, 2 * np.pi), self.unit * self.rng.uniform(0.004, 0.035)
        return speed * np.array([np.cos(angle), 0.7 * np.sin(angle)])

    def _actor(self, label: int, shape: Shape, radius: float, path: NDArray[np.float64]) -> Actor:
        rng, t = self.rng, np.arange(self.num_frames)
        turn = rng.uniform(0, 0.5) * np.sin(rng.uniform(0.05, 0.3) * t) + rng.normal(0, 0.03) * t
        scale = np.exp(rng.uniform(0, 0.3) * np.sin(rng.uniform(0.05, 0.25) * t))
        return Actor(label, shape, float(radius), path, rng.uniform(0, 2 * np.pi) + turn, scale)

    def _dress(self, actors: list[Actor], hue: float, background: UInt8Array) -> None:
        """Give every actor a texture: objects stand out most of the time, distractors look like an object."""
        rng, looks = self.rng, []
        for actor in [a for a in actors if a.label]:
            apart = rng.uniform(0.18, 0.82) if rng.random() < 0.88 else rng.normal(0, 0.04)
            colours = palette(rng, (hue + apart) % 1)
            looks.append(colours)
            actor.texture = self._skin(actor.radius, colours)
        for actor in [a for a in actors if a.label == 0]:
            side = int(4 * actor.radius) + 8
            if len(actor.shape.orders) == 1:  # an occluder
                side = min(4 * side, *background.shape[:2])
                top, left = (int(rng.integers(0, n - side + 1)) for n in background.shape[:2])
                actor.texture = background[top : top + side, left : left + side].copy()
            else:
                actor.texture = self._skin(actor.radius, looks[int(rng.integers(len(looks)))])

    def _skin(self, radius: float, colours: FloatArray) -> UInt8Array:
        side = int(4 * radius) + 8
        flat = texture(self.rng, side, side, colours, radius * self.rng.uniform(0.5, 1.0))
        y, x = (np.mgrid[:side, :side] - side / 2) / radius
        light = self.rng.uniform(0, 2 * np.pi)
        shading = 1 - 0.1 * (x * x + y * y) + 0.18 * (x * np.cos(light) + y * np.sin(light))
        return np.clip(flat * np.clip(shading, 0.55, 1.3)[..., None], 0, 255).astype(np.uint8)


def render_frame(
    scene: Scene, t: int, rng: np.random.Generator, height: int, width: int
) -> tuple[UInt8Array, UInt8Array]:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    frame = cv2.warpAffine(
        scene.background, scene.camera[t], (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT
    )
    picture = np.asarray(frame, np.float32)
    labels = np.zeros((height, width), np.uint8)
    for actor in scene.actors:
        mask, window = actor.mask(t, height, width)
        if mask.size:
            alpha = mask[..., None].astype(np.float32) / 255
            picture[window] += alpha * (actor.colours(t, window) - picture[window])
            labels[window][mask > 127] = actor.label
    picture *= scene.shade * scene.gains[t].astype(np.float32)
    if scene.blur:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), scene.blur))
    picture += np.float32(scene.grain) * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8), labels
