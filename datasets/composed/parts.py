"""An object of one video on its way through another: where it goes, and how a frame of it is cut out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from datasets.base import UInt8Array, VideoSequence
from stg_pyg.errors import InputError

FloatArray = NDArray[np.float64]

_EVERY = 4  # frames between the masks that a path is measured on
_SMOOTHING = 6  # frames on either side
_ENTRY_FRAMES = 12


class Source:
    """Where the objects of a video are, all of them taken as one, measured on every fourth mask.

    Raises:
        InputError: on first use, if a frame has no annotation.
    """

    def __init__(self, video: VideoSequence) -> None:
        self.video = video

    def mask(self, t: int) -> NDArray[np.bool_]:
        labels = self.video.labels(t)
        if labels is None:
            raise InputError(
                f"frame {self.video.frame_names[t]} of {self.video.name} is not annotated; videos are composed of "
                "videos with masks of every frame"
            )
        return np.asarray(labels > 0)

    @cached_property
    def _measured(self) -> FloatArray:
        """[T, 6]: box, area in pixels, and the share of the mask's outline that lies on the border of the frame."""
        frames = sorted({*range(0, len(self.video), _EVERY), len(self.video) - 1})
        rows = np.array([_measure(self.mask(t)) for t in frames])
        seen = np.flatnonzero(rows[:, 4] > 0)
        if len(seen) == 0:
            return np.zeros((len(self.video), 6))
        every = np.arange(len(self.video))
        columns = [np.interp(every, np.array(frames)[seen], rows[seen, c]) for c in (0, 1, 2, 3)]
        columns += [np.interp(every, frames, rows[:, c]) for c in (4, 5)]
        return np.stack(columns, axis=1)

    @property
    def areas(self) -> FloatArray:
        """[T] pixels of the objects."""
        return np.asarray(self._measured[:, 4])

    @property
    def cut_off(self) -> float:
        """Mean share of the outline that the border of the frame cuts off."""
        return float(self._measured[:, 5].mean())

    @cached_property
    def centers(self) -> FloatArray:
        """[T, 2] smoothed centers (x, y) of the boxes."""
        centers = (self._measured[:, :2] + self._measured[:, 2:4]) / 2
        padded = np.pad(centers, ((_SMOOTHING, _SMOOTHING), (0, 0)), mode="reflect", reflect_type="odd")
        kernel = np.ones(2 * _SMOOTHING + 1) / (2 * _SMOOTHING + 1)
        return np.stack([np.convolve(padded[:, c], kernel, mode="valid") for c in (0, 1)], axis=1)

    @property
    def sizes(self) -> FloatArray:
        """[T, 2] width and height of the boxes."""
        return np.asarray(self._measured[:, 2:4] - self._measured[:, :2])


@dataclass(frozen=True)
class Actor:
    """A pasted object.

    Its video is played forwards and, where it ends, backwards. The object moves as it does there: times the scale,
    with the way damped if it is longer than the frame.
    """

    source: Source
    start: int
    """Frame of the source that is shown in frame ``first``."""
    first: int
    """Frame of the composed video that the object comes in."""
    scale: float
    flip: bool
    place: Sequence[float]
    """Center (x, y) in frame ``first``, in pixels."""
    damping: Sequence[float]
    """Share of the way, in x and y, that is left."""
    entry: Sequence[float] = (0.0, 0.0)
    """Way (x, y) from ``place`` to where it is in frame ``first``; it is gone after a dozen frames."""
    gain: Sequence[float] = (1.0, 1.0, 1.0)
    """Of the colours, RGB."""

    def frame(self, t: int) -> int:
        """Frame of the source that is shown in frame ``t``."""
        last = len(self.source.video) - 1
        return last - abs(last - (self.start + t - self.first) % (2 * last)) if last else 0

    def center(self, t: int) -> FloatArray:
        """Center of the object in frame ``t`` (x, y) in pixels."""
        mirror = np.array([-1.0 if self.flip else 1.0, 1.0])
        way = self.source.centers[self.frame(t)] - self.source.centers[self.start]
        left = (1 - min(1.0, max(0, t - self.first) / _ENTRY_FRAMES)) ** 2
        return np.array(self.place) + np.array(self.damping) * self.scale * mirror * way + left * np.array(self.entry)

    def box(self, t: int) -> FloatArray:
        """Box (x0, y0, x1, y1) in frame ``t``."""
        half = self.scale * self.source.sizes[self.frame(t)] / 2
        return np.concatenate([self.center(t) - half, self.center(t) + half])

    def matrix(self, t: int) -> FloatArray:
        """Map [2, 3] from the source's pixels to those of frame ``t``."""
        a = -self.scale if self.flip else self.scale
        linear = np.diag([a, self.scale])
        return np.concatenate([linear, (self.center(t) - linear @ self.source.centers[self.frame(t)])[:, None]], axis=1)

    def alpha(self, t: int, size: tuple[int, int]) -> UInt8Array:
        """Opacity 0 to 255 [H, W]: the mask, a pixel smaller and with soft edges."""
        if t < self.first:
            return np.zeros(size, np.uint8)
        mask = self.source.mask(self.frame(t)).astype(np.uint8) * 255
        eroded = np.asarray(cv2.erode(mask, np.ones((3, 3), np.uint8)), np.uint8)
        warped = self._warp(eroded, t, size, cv2.BORDER_CONSTANT)
        return np.asarray(cv2.GaussianBlur(warped, (0, 0), 0.8), np.uint8)

    def colours(self, t: int, size: tuple[int, int]) -> FloatArray:
        """The source's picture [H, W, 3] where the object is in frame ``t``, as bright as its new surroundings."""
        image = self.source.video.image(self.frame(t))
        warped = self._warp(image, t, size, cv2.BORDER_REPLICATE)
        return np.clip(warped * np.array(self.gain), 0, 255)

    def _warp(self, picture: UInt8Array, t: int, size: tuple[int, int], border: int) -> UInt8Array:
        if self.scale < 0.8:  # pixels that are merged must be averaged
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.4 / self.scale), np.uint8)
        # The center of a pixel is half a pixel from its corner.
        matrix = self.matrix(t)
        matrix[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5
        return np.asarray(cv2.warpAffine(picture, matrix, size[::-1], borderMode=border), np.uint8)


def _measure(mask: NDArray[np.bool_]) -> list[float]:
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    on_border = sum(int(np.count_nonzero(side)) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    return [x, y, x + width, y + height, int(np.count_nonzero(mask)), on_border / max(2 * (width + height), 1)]
