"""Masks drawn over the frames of a video, as a video."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from stg_pyg.errors import InputError
from stg_pyg.io import UInt8Array, overlay

DEFAULT_FPS = 10.0


class OverlayVideo:
    """A context manager around an MP4 that appears under its name when it is complete.

    Args:
        path: of the MP4.
        fps: frames a second; None: 10.

    Raises:
        InputError: it cannot be written.
    """

    def __init__(self, path: Path, fps: float | None):
        # FFmpeg complains on its own, beside the one line of ours, unless it is told before it is first used.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self.path = path
        self._fps = fps if fps and math.isfinite(fps) else DEFAULT_FPS
        self._temporary = path.with_name(f".{path.stem}.tmp.mp4")  # what a killed run left is written over
        self._writer: cv2.VideoWriter | None = None
        self._count = 0

    def add(self, frame: UInt8Array, labels: UInt8Array) -> None:
        """The next frame [H, W, 3] RGB and its object ids [H, W]."""
        drawn = cv2.cvtColor(overlay(frame, labels), cv2.COLOR_RGB2BGR)
        # The format has even sides only, and the writer cuts what is odd.
        height, width = drawn.shape[:2]
        drawn = cv2.copyMakeBorder(drawn, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._temporary), code, self._fps, (drawn.shape[1], drawn.shape[0]))
            if not self._writer.isOpened():
                raise self._failed("this OpenCV cannot write MP4 there")
        self._writer.write(np.ascontiguousarray(drawn))
        self._count += 1

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        written = self._writer is not None
        if self._writer is not None:
            self._writer.release()
        try:
            if kind is None and written:
                if not self._is_whole():
                    raise self._failed("not all was written, the disk may be full")
                os.replace(self._temporary, self.path)
        except OSError as failure:
            raise self._failed(failure.strerror or str(failure)) from failure
        finally:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    def _is_whole(self) -> bool:
        """Whether the file holds all frames; the writer itself keeps errors to itself."""
        capture = cv2.VideoCapture(str(self._temporary))
        try:
            return capture.isOpened() and round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == self._count
        finally:
            capture.release()

    def _failed(self, reason: str) -> InputError:
        return InputError(f"{self.path}: cannot be written ({reason}); free space, or go without --overlay")
