"""Lucid data dreaming (Khoreva et al., IJCV 2019): plausible pairs of frames with masks from one annotated frame.

The objects are cut out and the background inpainted. For the previous frame, the camera and every object move by a
random affine map, each object deforms by a thin-plate spline, and the order in depth is drawn; the current frame
follows by a further, smaller motion and deformation. Something may pass in front, an object may leave the frame, and
light and sharpness change. NumPy and OpenCV only, so that workers may be forked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from stg_pyg.lucid.layers import FrameParts, UInt8Array
from stg_pyg.lucid.motion import Path, draw_light, draw_path, draw_splines, move_camera, occluder, put_in_front
from stg_pyg.lucid.render import Rendering, Scene, Thing, render, visible_box
from stg_pyg.lucid.splines import FloatArray

_OCCLUDER_SHARE = 0.2
_CROSSING_SHARE = 0.2
_LEAVING_SHARE = 0.08
_TOGETHER_SHARE = 0.5
_MOTION_BLUR_SHARE = 0.25
_BLUR_SHARE = 0.12


class DreamPair(NamedTuple):
    """Two frames of a dream with object ids, images uint8 [H, W, 3] and labels uint8 [H, W]."""

    previous: UInt8Array
    previous_labels: UInt8Array
    current: UInt8Array
    labels: UInt8Array


class Dream(NamedTuple):
    """What is dreamt, before it is painted, and the object that it is about."""

    previous: Scene
    current: Scene
    focus: int


class Dreamer:
    """Dreams of one annotated frame; what they share is made once, when first needed.

    Args:
        image: uint8 [H, W, 3].
        labels: uint8 [H, W] object ids, 0 is background.

    Raises:
        ValueError: the shapes or types are others.
    """

    def __init__(self, image: UInt8Array, labels: UInt8Array):
        self.parts = FrameParts(image, labels)

    def pair(self, rng: np.random.Generator) -> DreamPair:
        """Two whole frames."""
        dream = self.dream(rng)
        window, shape = np.eye(2, 3), (self.parts.height, self.parts.width)
        previous, current = self.render(dream.previous, window, shape), self.render(dream.current, window, shape)
        return DreamPair(previous.image, previous.labels, current.image, current.labels)

    def render(self, scene: Scene, window: FloatArray, shape: tuple[int, int], focus: int = 0) -> Rendering:
        """One instant through ``window`` (2 x 3, crop to frame) as a picture of ``shape`` (height, width)."""
        return render(self.parts, scene, window, shape, focus)

    def box(self, scene: Scene, focus: int) -> FloatArray | None:
        """Box [4] of what is seen of an object in the frame, to a fiftieth of its size; None if nothing is."""
        return visible_box(self.parts, scene, focus)

    def dream(self, rng: np.random.Generator, focus: int | None = None) -> Dream:
        """Two instants; what happens, happens to the object ``focus`` (drawn if None)."""
        parts, ids = self.parts, list(self.parts.boxes)
        if focus is None:
            focus = int(rng.choice(ids)) if ids else 0
        cameras = move_camera(rng, parts.width, parts.height)
        things: tuple[list[Thing], list[Thing]] = ([], [])
        if ids:
            paths = self._paths(rng, focus, cameras)
            order = [obj for obj in rng.permutation(ids).tolist() if obj in paths]
            if len(order) > 1 and rng.random() < _CROSSING_SHARE:
                other = int(rng.choice([obj for obj in order if obj != focus]))
                paths[other] = put_in_front(rng, paths[other], paths[focus])
                order = [obj for obj in order if obj != other] + [other]
            for obj in order:
                self._add(rng, things, obj, paths[obj])
            if rng.random() < _OCCLUDER_SHARE:
                self._add_occluder(rng, things, paths[focus])
        scenes = [
            Scene(camera, tuple(part), draw_light(rng), float(rng.uniform(0.4, 1.2) * (rng.random() < _BLUR_SHARE)))
            for camera, part in zip(cameras, things, strict=True)
        ]
        return Dream(scenes[0], scenes[1], focus)

    def _paths(self, rng: np.random.Generator, focus: int, cameras: tuple[FloatArray, FloatArray]) -> dict[int, Path]:
        """Where each object goes; they move as one half of the time, as what touches often does."""
        parts, boxes = self.parts, self.parts.boxes
        frame, leaves = (parts.width, parts.height), rng.random() < _LEAVING_SHARE
        paths = {focus: draw_path(rng, boxes[focus], frame, cameras, leaves=leaves)}
        together = len(boxes) > 1 and rng.random() < _TOGETHER_SHARE
        for obj, box in boxes.items():
            if obj != focus:
                leader = paths[focus] if together else None
                paths[obj] = draw_path(rng, box, frame, cameras, leader=leader)
        return paths

    def _add(self, rng: np.random.Generator, things: tuple[list[Thing], list[Thing]], obj: int, path: Path) -> None:
        box, blurred = self.parts.boxes[obj], rng.random() < _MOTION_BLUR_SHARE
        motion = path.motion() if blurred else (0.0, 0.0)
        splines = draw_splines(rng)
        for scene, forward, (spline, reach) in zip(things, (path.previous, path.current), splines, strict=True):
            scene.append(Thing(obj, box, forward, spline, reach, motion))

    def _add_occluder(self, rng: np.random.Generator, things: tuple[list[Thing], list[Thing]], target: Path) -> None:
        layer, path = occluder(rng, self.parts, target)
        splines = draw_splines(rng)
        for scene, forward, (spline, reach) in zip(things, (path.previous, path.current), splines, strict=True):
            scene.append(Thing(0, path.box, forward, spline, reach, (0.0, 0.0), layer))


class DreamCache:
    """Dreamers of the annotated frames used last, at most ``size`` of them."""

    def __init__(self, size: int = 24):
        self.size = size
        self._items: OrderedDict[Hashable, Dreamer] = OrderedDict()

    def get(self, key: Hashable, image: UInt8Array, labels: UInt8Array) -> Dreamer:
        """The dreamer of a frame known as ``key``."""
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key]
        self._items[key] = Dreamer(image, labels)
        while len(self._items) > self.size:
            self._items.popitem(last=False)
        return self._items[key]
