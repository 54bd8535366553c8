"""Training pictures of the detector: frames turned, scaled and cropped, with objects of other videos pasted in.

Pasting (Ghiasi et al., CVPR 2021) shows an object in many places, and several at a time, where videos show few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stg_pyg.lucid.samples import AnnotatedVideo, jitter_colours
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.ops.windows import PADDING_COLOUR

MIN_PIXELS = 24


@dataclass(frozen=True)
class DetectionConfig:
    """How pictures are drawn. Shares are probabilities."""

    size: int = 240
    """Short side of the pictures; the long one is at most 16/9 of it."""
    zoom: tuple[float, float] = (0.75, 1.7)
    """Range of the factor by which a frame is enlarged."""
    paste_share: float = 0.5
    max_pasted: int = 3
    under_share: float = 0.3
    """Share of the pasted objects that lie behind those of the frame."""
    rotation_share: float = 0.3
    max_rotation: float = 15.0


Picture = tuple[np.ndarray, np.ndarray]
"""uint8 [H, W, 3] and int32 [H, W], where every object has a number and the background 0."""


def draw_picture(
    rng: np.random.Generator, videos: Sequence[AnnotatedVideo], config: DetectionConfig, video: int
) -> Picture:
    """A picture made of a frame of the video at position ``video``; the other videos lend objects."""
    image, labels = _draw_frame(rng, videos[video])
    height, width = labels.shape
    scale = min(config.size / min(height, width), config.size * 16 / 9 / max(height, width))
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    matrix = _draw_view(rng, (height, width), size, config)
    image = _warp(image, matrix, size, PADDING_COLOUR)
    values = labels.astype(np.float32)  # of the types with 256 values and more, OpenCV warps only floats
    values = np.asarray(cv2.warpAffine(values, _of_pixel_centres(matrix), size[::-1], flags=cv2.INTER_NEAREST))
    labels = values.astype(np.int32)
    if rng.random() < config.paste_share:
        for _ in range(int(rng.integers(1, config.max_pasted + 1))):
            image, labels = _paste(rng, image, labels, videos[int(rng.integers(len(videos)))], config)
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return jitter_colours(rng, np.ascontiguousarray(image)), np.ascontiguousarray(labels)


def _draw_frame(rng: np.random.Generator, video: AnnotatedVideo) -> Picture:
    for t in rng.permutation(video.num_frames):
        labels = video.labels(int(t))
        if labels is not None:
            return video.image(int(t)), labels.astype(np.int32)
    raise ValueError("the video has no annotated frame to draw pictures from")


def _draw_view(
    rng: np.random.Generator, source: tuple[int, int], size: tuple[int, int], config: DetectionConfig
) -> np.ndarray:
    """2 x 3 matrix from the frame to the picture: zoomed, stretched, turned and moved."""
    scale = size[0] / source[0] * np.exp(rng.uniform(*np.log(config.zoom)))
    stretch = np.exp(rng.normal(0, 0.08))
    angle = np.deg2rad(rng.uniform(-1, 1) * config.max_rotation) if rng.random() < config.rotation_share else 0.0
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = scale * rotation @ np.diag([stretch, 1 / stretch])
    seen = np.array(source[::-1]) / 2
    room = np.abs(scale * np.array(source[::-1]) - np.array(size[::-1])) / 2  # to move without leaving the frame
    place = np.array(size[::-1]) / 2 + rng.uniform(-1, 1, 2) * room
    return np.column_stack([linear, place - linear @ seen])


def _warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], border: tuple[int, int, int]) -> np.ndarray:
    """The image under ``matrix`` in a picture of ``size`` (H, W), averaged before it is reduced by more than two."""
    matrix, scale = matrix.copy(), float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 0.45:
        height, width = image.shape[:2]
        small = (max(round(width * scale * 1.5), 1), max(round(height * scale * 1.5), 1))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        matrix[:, :2] = matrix[:, :2] @ np.diag([width / small[0], height / small[1]])
    return np.asarray(cv2.warpAffine(image, _of_pixel_centres(matrix), size[::-1], borderValue=border))


def _of_pixel_centres(matrix: np.ndarray) -> np.ndarray:
    """For OpenCV, whose pixel centres are at integers and not at halves."""
    matrix = matrix.copy()
    matrix[:, 2] += matrix[:, :2] @ np.full(2, 0.5) - 0.5
    return matrix


def _paste(
    rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, video: AnnotatedVideo, config: DetectionConfig
) -> Picture:
    """One object of a frame of ``video`` put anywhere, over or behind what is there."""
    thing, ids = _draw_frame(rng, video)
    if not ids.any():
        return image, labels
    mask = (ids == rng.choice(np.unique(ids[ids > 0]))).astype(np.uint8) * 255
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    extent = np.array([xs[-1] + 1 - xs[0], ys[-1] + 1 - ys[0]])
    size = (labels.shape[0], labels.shape[1])
    scale = rng.uniform(0.12, 0.75) * size[0] / np.sqrt(extent.prod())
    scale = min(scale, 1.5 * size[0] / extent[1], 1.5 * size[1] / extent[0])
    linear = np.diag([scale * rng.choice([-1, 1]), scale]) * np.exp(rng.normal(0, 0.08, (2, 1)))
    center = np.array([xs[0] + xs[-1] + 1, ys[0] + ys[-1] + 1]) / 2
    matrix = np.column_stack([linear, rng.uniform(0, 1, 2) * size[::-1] - linear @ center])
    thing, alpha = _warp(thing, matrix, size, (0, 0, 0)), _warp(mask, matrix, size, (0, 0, 0))
    thing = jitter_colours(rng, thing)
    if rng.random() < config.under_share:
        alpha = np.where(labels > 0, np.uint8(0), alpha)
    soft = cv2.GaussianBlur(alpha, (0, 0), float(rng.uniform(0.4, 1.2)))[..., None].astype(np.float32) / 255
    labels = np.where(alpha > 127, labels.max() + 1, labels).astype(np.int32)
    return (thing * soft + image * (1 - soft)).astype(np.uint8), labels


def targets_of(labels: Tensor) -> dict[str, Tensor]:
    """Boxes [N, 4], labels [N] of 1 and masks [N, H, W] of the objects of a label map that show enough pixels."""
    ids, pixels = torch.unique(labels[labels > 0], return_counts=True)
    masks = labels[None] == ids[pixels >= MIN_PIXELS][:, None, None]
    boxes = masks_to_boxes(masks)
    large = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= 3
    masks, boxes = masks[large], boxes[large]
    ones = torch.ones(len(boxes), dtype=torch.long, device=boxes.device)
    return {"boxes": boxes, "labels": ones, "masks": masks.to(torch.uint8)}


Batch = list[tuple[Tensor, Tensor]]
"""Pictures uint8 [3, H, W] and their label maps int32 [H, W]."""


class DetectionBatches(Dataset[Batch]):
    """Batch ``step`` of a training run, the same whenever and by whichever worker it is drawn: see
    :class:`~stg_pyg.learning.steps.LucidBatches`."""

    def __init__(
        self,
        videos: Sequence[AnnotatedVideo],
        config: DetectionConfig,
        batch_size: int,
        steps: tuple[int, int],
        seed: int,
    ):
        self.videos, self.config, self.batch_size, self.seed = list(videos), config, batch_size, seed
        self.first, self.last = steps

    def __len__(self) -> int:
        return max(self.last - self.first, 0)

    def __getitem__(self, position: int) -> Batch:
        if position >= len(self):
            raise IndexError(position)
        rng = np.random.default_rng([self.seed, self.first + position])
        batch = []
        for video in rng.integers(len(self.videos), size=self.batch_size):
            image, labels = draw_picture(rng, self.videos, self.config, int(video))
            batch.append((torch.from_numpy(image.transpose(2, 0, 1).copy()), torch.from_numpy(labels)))
        return batch
