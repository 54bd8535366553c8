"""Frames of a video one after the other, from a folder of pictures or from a video file."""

from __future__ import annotations

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from stg_pyg.errors import InputError
from stg_pyg.io import UInt8Array, natural_sort_key, read_image

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_ORIENTATION_TAG = 0x0112
_MOST_FRAMES_A_SECOND = 1000.0


class FrameSource(ABC):
    """Every ``every``-th frame of one video, never more than one of them in memory.

    Iterating yields (name, uint8 [H, W, 3] RGB) and may be repeated; :meth:`frames` begins further on.

    Attributes:
        path: the file or folder.
        name: of the video: of the folder, or of the file without its suffix.
        every: frames 0, every, 2 every, ... are yielded.
        size: (H, W) of the frames in pixels.
        fps: frames a second of the yielded frames; None where nobody knows.
    """

    path: Path
    name: str
    every: int
    size: tuple[int, int]
    fps: float | None = None

    def __iter__(self) -> Iterator[tuple[str, UInt8Array]]:
        return self.frames()

    @abstractmethod
    def frames(self, start: int = 0) -> Iterator[tuple[str, UInt8Array]]:
        """What iterating yields, without the first ``start`` frames of it."""

    @property
    @abstractmethod
    def num_frames(self) -> int | None:
        """How many frames will be yielded: exact for folders, an estimate or None for video files."""

    @abstractmethod
    def position(self, name: str) -> int | None:
        """Position among all frames, those left out too, of the frame of that name; None where there is none.

        A name beyond the end of a video file has a position too, see :meth:`count`.
        """

    @abstractmethod
    def count(self) -> int:
        """Exact number of all frames, those left out too."""

    @abstractmethod
    def frame_name(self, position: int) -> str:
        """Name of the frame at a position among all frames."""

    def _checked(self, frame: UInt8Array, what: str) -> UInt8Array:
        if frame.shape[:2] != self.size:
            raise InputError(
                f"{what} is {pixels(frame.shape[:2])} and the first one {pixels(self.size)}; make all frames one size"
            )
        return frame


class PictureFolder(FrameSource):
    """A folder of pictures in natural order, named by their stems.

    The sizes of all pictures are compared at once, from their headers, so that a stray one shows up before the work.

    Raises:
        InputError: there is no picture, two have one stem, a size differs, or (while iterating) one cannot be decoded.
    """

    def __init__(self, path: Path, every: int = 1):
        self.path, self.every = path, every
        self.name = path.resolve().name or "video"
        files = [f for f in path.iterdir() if f.suffix.lower() in PICTURES and not f.name.startswith(".")]
        self._files = sorted((f for f in files if f.is_file()), key=lambda f: natural_sort_key(f.name))
        if not self._files:
            raise InputError(f"{path}: has no pictures; frames are files of {', '.join(s[1:] for s in PICTURES)}")
        self._positions: dict[str, int] = {}
        for position, file in enumerate(self._files):
            other = self._files[self._positions.setdefault(file.stem, position)]
            if other is not file:
                raise InputError(f"{file}: has the name of {other.name}; keep one picture a frame in the folder")
        _refuse_unnumbered(self._files)
        self.size = _picture_size(self._files[0])
        for file in self._files:
            size = _picture_size(file)
            if size != self.size:
                first = f"the first one, {self._files[0].name}, {pixels(self.size)}"
                raise InputError(f"{file}: is {pixels(size)} and {first}; make all frames one size")

    def frames(self, start: int = 0) -> Iterator[tuple[str, UInt8Array]]:
        for file in self._files[:: self.every][start:]:
            yield file.stem, self._checked(read_image(file), str(file))

    @property
    def num_frames(self) -> int:
        return math.ceil(len(self._files) / self.every)

    def position(self, name: str) -> int | None:
        return self._positions.get(name)

    def count(self) -> int:
        return len(self._files)

    def frame_name(self, position: int) -> str:
        return self._files[position].stem


class VideoFile(FrameSource):
    """A video file as OpenCV decodes it, upright, with frames named 00000, 00001, ... in the order of the file.

    Raises:
        InputError: OpenCV finds no frame in the file, or (while iterating) the size changes.
    """

    def __init__(self, path: Path, every: int = 1):
        self.path, self.every = path, every
        self.name = path.stem
        capture = self._open()
        try:
            found, first = capture.read()
            if not found:
                raise InputError(f"{path}: holds no frame that can be decoded; convert it to MP4 or to a folder of PNG")
            self.size = first.shape[0], first.shape[1]
            rate, stated = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        finally:
            capture.release()
        if math.isfinite(rate) and 0 < rate <= _MOST_FRAMES_A_SECOND:
            self.fps = rate / every
        self._stated = int(stated) if math.isfinite(stated) and stated > 0 else None
        self._counted: int | None = None

    def frames(self, start: int = 0) -> Iterator[tuple[str, UInt8Array]]:
        capture = self._open()
        try:
            position = 0
            while capture.grab():
                # Seeking is not exact in most formats, so what comes before is passed over.
                if position % self.every == 0 and position >= start * self.every:
                    found, frame = capture.retrieve()
                    if not found:
                        break
                    name = self.frame_name(position)
                    yield name, self._checked(_as_rgb(frame), f"{self.path}: frame {name}")
                position += 1
            self._counted = position
        finally:
            capture.release()

    @property
    def num_frames(self) -> int | None:
        total = self._counted or self._stated
        return None if total is None else math.ceil(total / self.every)

    @property
    def stated_frames(self) -> int | None:
        """Number of all frames that the file claims to hold, an estimate in most formats."""
        return self._stated

    def position(self, name: str) -> int | None:
        if not (name.isascii() and name.isdecimal()) or self.frame_name(int(name)) != name:
            return None
        return int(name)

    def count(self) -> int:
        """Exact number of frames; goes through the file the first time."""
        if self._counted is None:
            capture, position = self._open(), 0
            while capture.grab():
                position += 1
            capture.release()
            self._counted = position
        return self._counted

    def frame_name(self, position: int) -> str:
        return f"{position:05d}"

    def _open(self) -> cv2.VideoCapture:
        # FFmpeg complains about files on its own, beside the one line of ours.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise InputError(
                f"{self.path}: is not a video that OpenCV can open; convert it to MP4 or to a folder of PNG"
            )
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        return capture


def open_source(path: Path, every: int = 1) -> FrameSource:
    """The frames of a folder of pictures or of a video file.

    Raises:
        InputError: there is nothing at ``path``, or no video in it.
    """
    try:
        if path.is_dir():
            return PictureFolder(path, every)
        if not path.is_file():
            raise InputError(f"{path}: no such file or folder; give a video file or a folder of frames")
        if path.suffix.lower() in PICTURES:
            raise InputError(f"{path}: is one picture; give the folder that holds all frames, or a video file")
        # FFmpeg draws text files as a video of letters.
        with open(path, "rb") as file:
            if _is_text(file.read(4096)):
                raise InputError(f"{path}: is not a video; give a video file or a folder of frames")
    except PermissionError as error:
        raise InputError(f"{path}: may not be read; check its permissions") from error
    return VideoFile(path, every)


def pixels(size: tuple[int, ...]) -> str:
    """A size (H, W) as people write it, width first."""
    return f"{size[1]} x {size[0]}"


def _refuse_unnumbered(files: list[Path]) -> None:
    """Complains of a picture without a number among numbered ones, such as a mask; ``a`` may come before ``a1``."""
    numbered = [file.stem for file in files if re.search("[0-9]", file.stem)]
    if 2 * len(numbered) <= len(files):
        return
    for file in files:
        if file.stem not in numbered and not any(name.startswith(file.stem) for name in numbered):
            raise InputError(
                f"{file}: has no number, unlike the frames beside it ({numbered[0]}); if it is no frame, keep it in "
                "another folder, or else give it a number"
            )


def _picture_size(file: Path) -> tuple[int, int]:
    """(H, W) of the upright picture, from its header where that can be read."""
    try:
        with Image.open(file) as image:
            width, height = image.size
            exif = Image.Image.getexif(image)  # that of PNG files decodes the whole picture
            return (width, height) if exif.get(_ORIENTATION_TAG, 1) >= 5 else (height, width)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        frame = read_image(file)  # says what is wrong with the file
        return frame.shape[0], frame.shape[1]


def _as_rgb(frame: np.ndarray) -> UInt8Array:
    code = cv2.COLOR_GRAY2RGB if frame.ndim == 2 or frame.shape[2] == 1 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(frame, code), np.uint8)


def _is_text(start: bytes) -> bool:
    if b"\0" in start:
        return False
    try:
        start[:-4].decode()  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return True
