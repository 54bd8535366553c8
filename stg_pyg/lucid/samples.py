"""Training crops of the segmentation network, dreamt from annotated frames.

A sample is a crop of a frame, the mask of one object in it, and a rough mask Q such as propagation would deliver. Q
is the mask of a previous frame, warped by optical flow between the two crops, or the object's own mask, deformed;
either is then degraded the way real ones are. Both frames are of the video, or both are dreamt from one annotated frame
(lucid data dreaming, :mod:`stg_pyg.lucid.dreamer`). NumPy and OpenCV only, so that workers may be forked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from stg_pyg.errors import InputError
from stg_pyg.lucid.degrade import deform, draw_shift, misplace, warp_by_flow
from stg_pyg.lucid.dreamer import DreamCache, Dreamer
from stg_pyg.lucid.layers import box_of, object_ids
from stg_pyg.lucid.splines import center_of
from stg_pyg.ops.windows import cut


class AnnotatedVideo(Protocol):
    """What the sampler needs of a video; the sequences of ``datasets`` are of this kind."""

    @property
    def num_frames(self) -> int: ...

    def image(self, t: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        ...

    def labels(self, t: int) -> np.ndarray | None:
        """uint8 [H, W] object ids, or nothing where the frame is not annotated."""
        ...


class Sample(NamedTuple):
    """One training crop, all uint8."""

    image: np.ndarray
    """[S, S, 3]."""
    q: np.ndarray
    """[S, S], 0 to 255."""
    target: np.ndarray
    """[S, S], 0 or 255."""
    obj: int = 0
    """Id of the object in its video."""


@dataclass(frozen=True)
class LucidConfig:
    """How samples are drawn. Shares are probabilities."""

    size: int = 128
    margin: float = 0.25
    max_gap: int = 7
    flow_share: float = 0.65
    blank_share: float = 0.14
    box_share: float = 0.06
    misplaced_share: float = 0.06
    absent_share: float = 0.08
    background_share: float = 0.15
    distractor_share: float = 0.15
    max_rotation: float = 20.0
    dream_share: float = 0.0
    """Samples whose two frames are dreamt from one; their Q always comes from flow."""
    views: int = 1
    """Samples in a row that a batch has of an object, drawn one by one, so that features can be compared."""
    still_share: float = 0.5
    """Samples of videos of a single frame, where there are others too."""


def draw_sample(
    rng: np.random.Generator,
    videos: list[AnnotatedVideo],
    config: LucidConfig,
    video: int,
    dreamers: DreamCache | None = None,
    obj: int | None = None,
) -> Sample:
    """A sample of the video at position ``video``, of its object ``obj`` or of any; the other videos lend backgrounds
    and distractors.

    ``dreamers`` keeps what dreams of the same frame share, for one list of videos; samples do not depend on it.
    """
    t, other, obj = _draw_frames(rng, videos[video], config, obj)
    if config.dream_share > 0 and rng.random() < config.dream_share:
        image, labels = videos[video].image(t), _labels(videos[video], t)
        dreamer = Dreamer(image, labels) if dreamers is None else dreamers.get((video, t), image, labels)
        crop, q, target = _dreamt_crops(rng, dreamer, obj, config)
    else:
        crop, q, target = _real_crops(rng, videos[video], (t, other, obj), config)
    q = degrade(rng, q, target, config)
    if rng.random() < config.background_share:
        crop = _swap_background(rng, crop, target, videos)
    if rng.random() < config.distractor_share:
        crop, target = _paste_distractor(rng, crop, target, videos, config)
    if rng.random() < 0.5:
        crop, q, target = crop[:, ::-1], q[:, ::-1], target[:, ::-1]
    crop = jitter_colours(rng, np.ascontiguousarray(crop))
    return Sample(crop, np.ascontiguousarray(q), np.ascontiguousarray(target), obj)


def _real_crops(
    rng: np.random.Generator, source: AnnotatedVideo, chosen: tuple[int, int | None, int], config: LucidConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop, Q and target of a frame of the video."""
    t, other, obj = chosen
    image, mask = source.image(t), _mask(source, t, obj)
    absent = rng.random() < config.absent_share or not mask.any()
    window = _draw_window(rng, mask, config, absent)
    crop, target = cut(image, window, config.size), cut(mask, window, config.size, mask=True)
    if other is not None and not absent and rng.random() < config.flow_share:
        previous = cut(source.image(other), window, config.size)
        q = warp_by_flow(crop, previous, cut(_mask(source, other, obj), window, config.size, mask=True))
    else:
        q = target
        if absent:
            q = misplace(rng, cut(mask, _draw_window(rng, mask, config, False), config.size, mask=True))
        q = deform(rng, q, strength=1.0)
    return crop, q, target


def _dreamt_crops(
    rng: np.random.Generator, dreamer: Dreamer, obj: int, config: LucidConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crop, Q and target of a dreamt frame; the crop is where the object is or, if it has gone, where it was."""
    dream = dreamer.dream(rng, obj)
    frame, shape = (dreamer.width, dreamer.height), (config.size, config.size)
    box, before = dreamer.box(dream.current, obj), dreamer.box(dream.previous, obj)
    place = before if box is None else box
    absent = rng.random() < config.absent_share or place is None
    window = _window_around(rng, place, frame, config, absent)
    current = dreamer.render(dream.current, window, shape, obj)
    if absent:
        elsewhere = _window_around(rng, place, frame, config, False)
        mask = dreamer.render(dream.current, elsewhere, shape, obj).mask
        return current.image, deform(rng, misplace(rng, mask), strength=1.0), current.mask
    previous = dreamer.render(dream.previous, window, shape, obj)
    return current.image, warp_by_flow(current.image, previous.image, previous.mask), current.mask


def _labels(video: AnnotatedVideo, t: int) -> np.ndarray:
    labels = video.labels(t)
    assert labels is not None
    return labels


def _mask(video: AnnotatedVideo, t: int, obj: int) -> np.ndarray:
    return np.where(_labels(video, t) == obj, np.uint8(255), np.uint8(0))


def _draw_frames(
    rng: np.random.Generator, video: AnnotatedVideo, config: LucidConfig, wanted: int | None = None
) -> tuple[int, int | None, int]:
    """A frame, a second one up to ``max_gap`` away on either side if there is one, and an object of the first, if
    possible the one ``wanted``."""
    for _ in range(20):
        t = int(rng.integers(video.num_frames))
        labels = video.labels(t)
        if labels is None or not labels.any() or (wanted is not None and not (labels == wanted).any()):
            continue
        obj = int(rng.choice(object_ids(labels))) if wanted is None else wanted
        near = [t + d for d in range(-config.max_gap, config.max_gap + 1) if d and 0 <= t + d < video.num_frames]
        near = [s for s in near if _is_annotated(video, s)]
        return t, int(rng.choice(near)) if near else None, obj
    annotated = [t for t in range(video.num_frames) if (labels := video.labels(t)) is not None and labels.any()]
    if not annotated:
        name = getattr(video, "name", "the video")
        raise InputError(f"{name}: has no annotated object to draw samples from; take it off the list of the split")
    labels = _labels(video, annotated[0])
    return annotated[0], None, int(labels[labels > 0][0])


def _is_annotated(video: AnnotatedVideo, t: int) -> bool:
    """Whether a frame has a mask; videos that know it need not decode it."""
    known = getattr(video, "annotated", None)
    return video.labels(t) is not None if known is None else known(t)


def _draw_window(rng: np.random.Generator, mask: np.ndarray, config: LucidConfig, absent: bool) -> np.ndarray:
    """2 x 3 matrix from crop to frame coordinates: the jittered, rotated window around the object."""
    return _window_around(rng, box_of(mask), mask.shape[::-1], config, absent)


def _window_around(
    rng: np.random.Generator, box: np.ndarray | None, frame: tuple[int, ...], config: LucidConfig, absent: bool
) -> np.ndarray:
    """The window around a box (x0, y0, x1, y1), or anywhere in a frame of that width and height."""
    width, height = frame
    if box is None:
        center, size = np.array([width / 2, height / 2]), np.array([width / 3, height / 3])
    else:
        center, size = center_of(box), box[2:] - box[:2]
    if absent:
        center = rng.uniform([0, 0], [width, height])
    size = np.maximum(size * (1 + 2 * config.margin), 24)
    size = np.maximum(size, 0.5 * size[::-1])
    center = center + rng.normal(0, 0.08, 2) * size
    size = size * np.exp(rng.uniform(-0.2, 0.45)) * np.exp(rng.uniform(-0.12, 0.12, 2))
    angle = np.deg2rad(rng.uniform(-config.max_rotation, config.max_rotation)) if rng.random() < 0.5 else 0.0
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotation * (size / config.size)
    offset = center - linear @ np.full(2, config.size / 2)
    return np.column_stack([linear, offset])


def degrade(rng: np.random.Generator, q: np.ndarray, target: np.ndarray, config: LucidConfig) -> np.ndarray:
    """Q as it fails in practice: blank, a box, misplaced, or with wrong patches, holes and a wrong border."""
    draw = rng.random()
    if draw < config.blank_share:
        return np.zeros_like(q)
    draw -= config.blank_share
    box = box_of(target)
    if draw < config.box_share and box is not None:
        x0, y0, x1, y1 = np.clip(box + rng.normal(0, 0.05 * len(q), 4), 0, len(q)).astype(int)
        q = np.zeros_like(q)
        q[y0:y1, x0:x1] = 255
        return q
    draw -= config.box_share
    if draw < config.misplaced_share:
        return misplace(rng, deform(rng, q, strength=2.0))
    if rng.random() < 0.3:
        q = deform(rng, q, strength=0.7)
    if rng.random() < 0.35:
        q = np.array(q, order="C")
        for _ in range(int(rng.integers(1, 4))):
            center = rng.integers(0, len(q), 2).tolist()
            axes = np.maximum(rng.uniform(0.03, 0.18, 2) * len(q), 1).astype(int).tolist()
            value = 255 if rng.random() < 0.5 else 0
            cv2.ellipse(q, center, axes, float(rng.uniform(0, 180)), 0, 360, value, -1)
    if rng.random() < 0.4:
        kernel = np.ones((int(rng.integers(2, 6)),) * 2, np.uint8)
        q = np.asarray(cv2.dilate(q, kernel) if rng.random() < 0.5 else cv2.erode(q, kernel))
    return q


def jitter_colours(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Random gain of every channel, saturation, contrast, brightness, and now and then blur or noise."""
    x: np.ndarray = image.astype(np.float32)
    if rng.random() < 0.8:
        grey = x.mean(axis=2, keepdims=True)
        x = grey + (x - grey) * np.float32(np.exp(rng.normal(0, 0.25)))
        gain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.06, 3)).astype(np.float32)
        x = (x - 128) * np.float32(np.exp(rng.normal(0, 0.15))) * gain + 128 + np.float32(rng.normal(0, 12))
    if rng.random() < 0.15:
        x = cv2.GaussianBlur(x, (0, 0), float(rng.uniform(0.4, 1.5)))
    if rng.random() < 0.15:
        x = x + rng.normal(0, rng.uniform(1, 7), x.shape).astype(np.float32)
    return np.clip(x, 0, 255).astype(np.uint8)


def _swap_background(
    rng: np.random.Generator, crop: np.ndarray, target: np.ndarray, videos: list[AnnotatedVideo]
) -> np.ndarray:
    """The object in front of a part of a frame of some video."""
    video, size = videos[int(rng.integers(len(videos)))], len(crop)
    frame = video.image(int(rng.integers(video.num_frames)))
    height, width = frame.shape[:2]
    side = rng.uniform(0.25, 0.9) * min(height, width)
    x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
    background = cut(frame, np.array([[side / size, 0, x], [0, side / size, y]]), size)
    alpha = cv2.GaussianBlur(target, (0, 0), 0.8)[..., None].astype(np.float32) / 255
    return (crop * alpha + background * (1 - alpha)).astype(np.uint8)


def _paste_distractor(
    rng: np.random.Generator, crop: np.ndarray, target: np.ndarray, videos: list[AnnotatedVideo], config: LucidConfig
) -> tuple[np.ndarray, np.ndarray]:
    """An object of some video over or under this one, not part of the target."""
    video = videos[int(rng.integers(len(videos)))]
    t, _, obj = _draw_frames(rng, video, config)
    mask = _mask(video, t, obj)
    window = _draw_window(rng, mask, config, absent=False)
    thing, alpha = cut(video.image(t), window, config.size), cut(mask, window, config.size, mask=True)
    matrix = draw_shift(rng, config.size, 0.3, 0.8)
    thing, alpha = (np.asarray(cv2.warpAffine(x, matrix, (config.size, config.size))) for x in (thing, alpha))
    if rng.random() < 0.5:
        alpha = np.where(target > 127, np.uint8(0), alpha)
    soft = alpha[..., None].astype(np.float32) / 255
    target = np.where(alpha > 127, np.uint8(0), target)
    return (thing * soft + crop * (1 - soft)).astype(np.uint8), target
