"""Masks drawn over the frames of a video, as a video."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from types import TracebackType
from typing import IO

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from stg_pyg.errors import InputError
from stg_pyg.utils.images import UInt8Array, overlay

DEFAULT_FPS = Fraction(10)
CODECS = {"libx264": {"crf": "18", "preset": "veryfast"}, "libvpx-vp9": {"crf": "24", "b": "0", "deadline": "realtime"}}
"""Those that browsers play, the first that there is being taken, with a quality at which no loss is seen."""
_FINEST_RATE = 65535  # denominator


def overlay_codec() -> str:
    """The codec that overlays are written in.

    Raises:
        InputError: PyAV was built without any.
    """
    for codec in CODECS:
        try:
            return av.Codec(codec, "w").name
        except ValueError:  # not built in
            continue
    raise InputError(f"--overlay: PyAV was built without {' and '.join(CODECS)}; install its wheel, or go without it")


class OverlayVideo:
    """A context manager around an MP4 of frames with their masks, which is complete when it is left.

    Args:
        file: that the MP4 is written into.
        fps: frames a second; None: 10.

    Raises:
        av.FFmpegError, OSError: it cannot be encoded or written.
    """

    def __init__(self, file: IO[bytes], fps: Fraction | None):
        self._fps = Fraction(fps or 0).limit_denominator(_FINEST_RATE) or DEFAULT_FPS
        self._container = av.open(file, mode="w", format="mp4")
        self._stream: av.VideoStream | None = None

    def add(self, frame: UInt8Array, labels: UInt8Array) -> None:
        """The next frame [H, W, 3] RGB and its object ids [H, W]."""
        drawn = overlay(frame, labels)
        # Colours are stored at half the size, so sides are made even.
        height, width = drawn.shape[:2]
        drawn = np.asarray(cv2.copyMakeBorder(drawn, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), np.uint8)
        if self._stream is None:
            self._stream = self._begin(*drawn.shape[:2])
        picture = av.VideoFrame.from_ndarray(drawn, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
        )
        self._container.mux(self._stream.encode(picture))

    def _begin(self, height: int, width: int) -> av.VideoStream:
        codec = overlay_codec()
        stream = self._container.add_stream(codec, rate=self._fps, options=CODECS[codec])
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU709, ColorRange.MPEG
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        return stream

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with contextlib.suppress(Exception):  # the first error counts
                self._container.close()
            return
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
