"""Videos with several objects, composed of real videos: objects of some are pasted over another one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.base import UInt8Array, VideoDataset, VideoSequence
from datasets.composed.parts import Actor, Source
from stg_pyg.errors import InputError

MIN_VISIBLE = 200
"""Pixels that each object shows where it first appears, in frames of 854 x 480 pixels."""
_ATTEMPTS = 16
_LENGTHS = (0.14, 0.34)  # root of an object's area over that of the frame's
_SCALES = (0.25, 1.3)  # beyond them an object gets blurred or loses its parts
_WHOLE = 0.12  # objects that the border cuts off more than this are pasted only if there are no others
_OVERLAP = 0.4  # share of the frames in which boxes should overlap
_ENTRY_INSIDE = 0.6  # share of the width that is inside when an object comes in
_BRIGHTNESS = 0.35  # share of the difference in colour that is made up for


class ComposedSequence(VideoSequence):
    """One video whose own object, id 1, is joined by others, ids 2, 3, ..., each in front of all before.

    Nothing is read before the first frame, mask or object is asked for. The video at ``index`` of ``base`` stays whole;
    with the others there are ``count`` objects, of which the last one may come ``late``.
    """

    def __init__(self, name: str, base: Sequence[Source], index: int, count: int, late: bool, seed: list[int]) -> None:
        self.name = name
        self._ground = base[index]
        self._others = [source for i, source in enumerate(base) if i != index]
        self._count, self._late, self._seed = count, late, seed
        self.frame_names = list(self._ground.video.frame_names)
        self._last_alphas: tuple[int, list[UInt8Array]] | None = None

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frames of the video that stays whole."""
        return self._ground.video.size

    def image(self, t: int) -> UInt8Array:
        t = range(self.num_frames)[t]
        image = self._ground.video.image(t).astype(np.float64)
        for actor, alpha in zip(self.actors, self._alphas(t), strict=True):
            if alpha.any():
                share = alpha[..., None] / 255.0
                image = share * actor.colours(t, self.size) + (1 - share) * image
        return np.round(image).astype(np.uint8)

    def labels(self, t: int) -> UInt8Array:
        t = range(self.num_frames)[t]
        return self._merge(self._ground.mask(t), self._alphas(t))

    def annotated(self, t: int) -> bool:
        return True

    @property
    def files(self) -> list[Path]:
        return [path for source in (self._ground, *self._others) for path in source.video.files]

    @cached_property
    def first_frame_of(self) -> dict[int, int]:
        """0, but for the object that comes later."""
        return {1: 0, **{obj_id: actor.first for obj_id, actor in enumerate(self.actors, start=2)}}

    @cached_property
    def actors(self) -> list[Actor]:
        """The pasted objects, from the back to the front."""
        rng = np.random.default_rng(self._seed)
        attempts = [self._draw(rng, self._choose(rng)) for _ in range(_ATTEMPTS)]
        best = max(attempts, key=lambda attempt: attempt[0])[1]
        while best and self._visible_share(best) == 0:
            best = best[:-1]
        return [self._match(actor) for actor in best]

    def _alphas(self, t: int) -> list[UInt8Array]:
        if self._last_alphas is None or self._last_alphas[0] != t:
            self._last_alphas = t, [actor.alpha(t, self.size) for actor in self.actors]
        return self._last_alphas[1]

    @staticmethod
    def _merge(own: NDArray[np.bool_], alphas: list[UInt8Array]) -> UInt8Array:
        labels = own.astype(np.uint8)
        for obj_id, alpha in enumerate(alphas, start=2):
            labels[alpha >= 128] = obj_id
        return labels

    @property
    def _min_visible(self) -> float:
        return max(20.0, MIN_VISIBLE * self.size[0] * self.size[1] / (854 * 480))

    def _choose(self, rng: np.random.Generator) -> list[Source]:
        """Whose objects are pasted: different ones if there are enough, whole ones if there are any."""
        order = [self._others[i] for i in rng.permutation(len(self._others))]
        seen = [source for source in order if source.areas.max() > 0]
        seen.sort(key=lambda source: source.cut_off > _WHOLE)
        return [seen[i % len(seen)] for i in range(self._count - 1)] if seen else []

    def _draw(self, rng: np.random.Generator, sources: list[Source]) -> tuple[float, list[Actor]]:
        """Random ways of the objects, and how good they are."""
        actors: list[Actor] = []
        for number, source in enumerate(sources):
            actors.append(self._draw_actor(rng, source, self._late and number == len(sources) - 1))
        if not actors:
            return 0.0, actors
        return min(0.0, self._visible_share(actors) - 0.6) - abs(self._overlapping(actors) - _OVERLAP) / 4, actors

    def _draw_actor(self, rng: np.random.Generator, source: Source, late: bool) -> Actor:
        (height, width), frames = self.size, np.flatnonzero(source.areas >= 0.5 * np.median(source.areas))
        start = int(rng.choice(frames[: max(1, len(frames) // 2)]))
        first = int(self.num_frames * rng.uniform(0.25, 0.5)) if late else 0
        length = np.exp(rng.uniform(*np.log(_LENGTHS))) * np.sqrt(height * width)
        scale = float(np.clip(length / np.sqrt(max(source.areas[start], 1.0)), *_SCALES))
        scale = min(scale, *(0.9 * np.array([width, height]) / np.maximum(source.sizes[start], 1)))
        way = scale * np.ptp(source.centers, axis=0)
        dampings = np.minimum(1.0, 0.7 * np.array([width, height]) / np.maximum(way, 1e-6))
        flip = bool(rng.random() < 0.5)
        # Such a place that the way of the center stays inside, with half of the object.
        mirror = np.array([-1.0 if flip else 1.0, 1.0])
        path = dampings * scale * mirror * (source.centers - source.centers[start])
        room = 0.35 * scale * source.sizes[start]
        lowest, highest = room - path.min(axis=0), np.array([width, height]) - room - path.max(axis=0)
        middle = (lowest + highest) / 2
        draws = rng.uniform(np.minimum(lowest, middle), np.maximum(highest, middle), (2, 2))
        place = float(draws[0, 0]), float(draws[:, 1].max())  # rather low than in the sky
        entry = 0.0
        if late:  # from the nearer side, where some of it is inside already
            at_side = (2 * _ENTRY_INSIDE - 1) * (scale * source.sizes[start][0] / 2)
            entry = (at_side if place[0] < width / 2 else width - at_side) - place[0]
        return Actor(source, start, first, scale, flip, place, dampings.tolist(), (entry, 0.0))

    def _visible_share(self, actors: list[Actor]) -> float:
        """The least share that is left of an object where it first appears; 0 when it has too few pixels."""
        shares = []
        for obj_id, first in enumerate([0, *(actor.first for actor in actors)], start=1):
            own, alphas = self._ground.mask(first), [actor.alpha(first, self.size) for actor in actors]
            whole = own if obj_id == 1 else alphas[obj_id - 2] >= 128
            pixels = np.count_nonzero(self._merge(own, alphas) == obj_id)
            shares.append(pixels / np.count_nonzero(whole) if pixels >= self._min_visible else 0.0)
        return float(min(shares))

    def _overlapping(self, actors: list[Actor]) -> float:
        """Share of the frames in which the boxes of two objects overlap, the video's own among them."""
        meet = []
        for t in range(0, self.num_frames, 4):
            center, size = self._ground.centers[t], self._ground.sizes[t]
            boxes = [np.concatenate([center - size / 2, center + size / 2])]
            boxes += [actor.box(t) for actor in actors if t >= actor.first]
            pairs = itertools.combinations(boxes, 2)
            meet.append(any((np.minimum(a[2:], b[2:]) > np.maximum(a[:2], b[:2])).all() for a, b in pairs))
        return sum(meet) / len(meet)

    def _match(self, actor: Actor) -> Actor:
        """The actor with colours that are nearer to those of the video that it is pasted on."""
        image, mask = actor.source.video.image(actor.start), actor.source.mask(actor.start)
        own = image[mask].mean(axis=0) + 1
        around = self._ground.video.image(actor.first).reshape(-1, 3).mean(axis=0) + 1
        bright = (around.mean() / own.mean()) ** _BRIGHTNESS
        tint = (around / around.mean() * image.mean() / (image.reshape(-1, 3).mean(axis=0) + 1e-6)) ** _BRIGHTNESS
        return dataclasses.replace(actor, gain=np.clip(bright * tint, 0.6, 1.6).tolist())


class ComposedVideos(VideoDataset):
    """Real videos with several objects, masks included, made of videos with masks of every frame.

    Each video of ``base`` in turn keeps its frames and its object, id 1 (several count as one), and objects of others
    are pasted over it in a fixed order of depth: with soft edges and colours a little nearer to their new surroundings,
    each on the way that it takes in its own video, at its own speed. Masks are what is visible; objects may be hidden
    for a while. Each object shows at least 200 pixels in the first frame (of 854 x 480 pixels, in proportion in others,
    and 20 at least), but in every fourth video one comes in later. An object for which there is no such place is left
    out. A video depends on ``base``, its index and ``seed`` alone.

    Args:
        base: videos of one data set.
        num_videos: how many to make.
        objects: fewest and most objects a video, that of the video itself among them.
        seed: a non-negative integer.
        split: the name of ``base``'s split.

    Raises:
        InputError: there are fewer than two videos, or none shows an object in its first frame.
        ValueError: another argument is out of range.
    """

    def __init__(
        self,
        base: Sequence[VideoSequence],
        num_videos: int,
        objects: tuple[int, int] = (2, 4),
        seed: int = 0,
        split: str = "train",
    ) -> None:
        if num_videos < 1 or seed < 0 or not 1 <= objects[0] <= objects[1] <= 255:
            raise ValueError("num_videos must be positive, seed not negative, and objects from 1 to 255 in order")
        if len(base) < 2:
            raise InputError(f"videos are composed of at least two, and split {split} has {len(base)}")
        sources = [Source(video) for video in base]
        sequences: list[ComposedSequence] = []
        order = np.random.default_rng([seed]).permutation(len(base))
        grounds = [int(i) for i in order if _starts_visible(base[i])]
        if not grounds:
            raise InputError(f"no video of split {split} shows an object in its first frame; choose another split")
        for index in range(num_videos):
            count = int(np.random.default_rng([seed, index, 1]).integers(objects[0], objects[1] + 1))
            ground = grounds[index % len(grounds)]
            name = f"{index:03d}-{base[ground].name}"
            sequences.append(ComposedSequence(name, sources, ground, count, index % 4 == 1, [seed, index, 2]))
        super().__init__("composed", split, sequences)


def _starts_visible(video: VideoSequence) -> bool:
    labels = video.labels(0)
    return labels is not None and bool(np.count_nonzero(labels) >= 2 * MIN_VISIBLE * labels.size / (854 * 480))
