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

from stg_pyg.lucid.layers import FrameParts, Layer, UInt8Array
from stg_pyg.lucid.motion import Path, draw_light, draw_path, draw_splines, move_camera, occluder, put_in_front
from stg_pyg.lucid.render import Rendering, Scene, Thing, render, visible_box
from stg_pyg.lucid.splines import FloatArray

_OCCLUDER_SHARE = 0.2
_CROSSING_SHARE = 0.2
_LEAVING_SHARE = 0.08
_TOGETHER_SHARE = 0.5
_MOTION_BLUR_SHARE = 0.25
_BLUR_SHARE = 0.12


class Dream(NamedTuple):
    """What is dreamt, before it is painted, and the object that it is about."""

    previous: Scene
    current: Scene
    focus: int


class Dreamer(FrameParts):
    """Dreams of one annotated frame; what they share is made once, when first needed."""

    def render(self, scene: Scene, window: FloatArray, shape: tuple[int, ...], focus: int = 0) -> Rendering:
        """One instant through ``window`` (2 x 3, crop to frame) as a picture of ``shape`` (height, width)."""
        return render(self, scene, window, (shape[0], shape[1]), focus)

    def box(self, scene: Scene, focus: int) -> FloatArray | None:
        """Box [4] of what is seen of an object in the frame, to a fiftieth of its size; None if nothing is."""
        return visible_box(self, scene, focus)

    def dream(self, rng: np.random.Generator, focus: int | None = None) -> Dream:
        """Two instants; what happens, happens to the object ``focus`` (drawn if None)."""
        ids = list(self.boxes)
        if focus is None:
            focus = int(rng.choice(ids)) if ids else 0
        cameras = move_camera(rng, self.width, self.height)
        things: tuple[list[Thing], list[Thing]] = ([], [])
        if ids:
            paths = self._paths(rng, focus, cameras)
            order = [obj for obj in rng.permutation(ids).tolist() if obj in paths]
            if len(order) > 1 and rng.random() < _CROSSING_SHARE:
                other = int(rng.choice([obj for obj in order if obj != focus]))
                paths[other] = put_in_front(rng, paths[other], paths[focus])
                order = [obj for obj in order if obj != other] + [other]
            for obj in order:
                blurred = rng.random() < _MOTION_BLUR_SHARE
                _add(rng, things, paths[obj], obj, paths[obj].motion() if blurred else (0.0, 0.0))
            if rng.random() < _OCCLUDER_SHARE:
                layer, path = occluder(rng, self, paths[focus])
                _add(rng, things, path, layer=layer)
        scenes = [
            Scene(camera, tuple(part), draw_light(rng), float(rng.uniform(0.4, 1.2) * (rng.random() < _BLUR_SHARE)))
            for camera, part in zip(cameras, things, strict=True)
        ]
        return Dream(scenes[0], scenes[1], focus)

    def _paths(self, rng: np.random.Generator, focus: int, cameras: tuple[FloatArray, FloatArray]) -> dict[int, Path]:
        """Where each object goes; they move as one half of the time, as what touches often does."""
        frame, leaves = (self.width, self.height), rng.random() < _LEAVING_SHARE
        paths = {focus: draw_path(rng, self.boxes[focus], frame, cameras, leaves=leaves)}
        leader = paths[focus] if len(self.boxes) > 1 and rng.random() < _TOGETHER_SHARE else None
        for obj, box in self.boxes.items():
            if obj != focus:
                paths[obj] = draw_path(rng, box, frame, cameras, leader=leader)
        return paths


def _add(
    rng: np.random.Generator,
    things: tuple[list[Thing], list[Thing]],
    path: Path,
    label: int = 0,
    motion: tuple[float, float] = (0.0, 0.0),
    layer: Layer | None = None,
) -> None:
    """Something on its path, in front of all before, in both scenes."""
    for scene, forward, (spline, reach) in zip(things, (path.previous, path.current), draw_splines(rng), strict=True):
        scene.append(Thing(label, path.box, forward, spline, reach, motion, layer))


class DreamCache:
    """Dreamers of the annotated frames used last, at most ``size`` of them."""

    def __init__(self, size: int = 24):
        self.size = size
        self._items: OrderedDict[Hashable, Dreamer] = OrderedDict()

    def get(self, key: Hashable, image: UInt8Array, labels: UInt8Array) -> Dreamer:
        """The dreamer of a frame known as ``key``."""
        if key not in self._items:
            self._items[key] = Dreamer(image, labels)
            if len(self._items) > self.size:
                self._items.popitem(last=False)
        self._items.move_to_end(key)
        return self._items[key]
