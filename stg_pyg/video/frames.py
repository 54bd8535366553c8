"""Frames of a video one after the other, from a folder of pictures or from a video file."""

from __future__ import annotations

import contextlib
import math
import re
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from stg_pyg.errors import InputError
from stg_pyg.utils.images import PictureReader, UInt8Array, natural_sort_key, read_image
from stg_pyg.utils.pictures import turned, upright_size

PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".gif")
_STACKS = ("TIFF", "GIF", "WEBP", "PNG")  # forms in which one file may hold several frames
_MOST_FRAMES_A_SECOND = 1000


class FrameSource(ABC):
    """Every ``every``-th frame of one video, never more than one of them in memory.

    Iterating yields (name, uint8 [H, W, 3] RGB) and may be repeated; :meth:`frames` begins further on.
    """

    path: Path
    name: str
    """Of the folder, or of the file without its suffix."""
    every: int
    size: tuple[int, int]
    """(H, W) in pixels."""
    fps: Fraction | None = None
    """Yielded frames a second; None where nobody knows."""
    note: str = ""
    """What the reader should know of how the frames are read, or nothing."""

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
        """Position among all frames, those left out too, of the frame of that name, also beyond the end of a video
        file; None where there is none."""

    @abstractmethod
    def count(self) -> int:
        """Exact number of all frames, those left out too."""

    @abstractmethod
    def frame_name(self, position: int) -> str:
        """Name of the frame at a position among all frames."""

    def _checked(self, frame: UInt8Array, what: str) -> UInt8Array:
        if frame.shape[:2] != self.size:
            sizes = f"{pixels(frame.shape[:2])} and the first one {pixels(self.size)}"
            raise InputError(f"{what} is {sizes}; make all frames one size")
        return frame


class PictureFolder(FrameSource):
    """A folder of pictures in natural order, named by their stems; their headers are compared before the work.

    Raises:
        InputError: there is no picture, something with the name of one is none, two have one stem, a size differs,
            a file holds several pictures, or (while iterating) one cannot be decoded.
    """

    def __init__(self, path: Path, every: int = 1):
        self.path, self.every = path, every
        self.name = path.resolve().name or "video"
        seen = sorted((f for f in path.iterdir() if f.name[0] != "."), key=lambda f: natural_sort_key(f.name))
        self._files = [f for f in seen if f.suffix.lower() in PICTURES]
        if not self._files:
            raise InputError(f"{path}: has no pictures; frames are files of {', '.join(s[1:] for s in PICTURES)}")
        self._positions: dict[str, int] = {}
        for position, file in enumerate(self._files):
            _check_file(file)
            other = self._files[self._positions.setdefault(file.stem, position)]
            if other is not file:
                raise InputError(f"{file}: has the name of {other.name}; keep one picture a frame in the folder")
        _refuse_unnumbered(self._files)
        self._read = PictureReader(self._files)
        self.size = _picture_size(self._files[0])
        for file in self._files:
            size = _picture_size(file)
            if size != self.size:
                first = f"the first one, {self._files[0].name}, {pixels(self.size)}"
                raise InputError(f"{file}: is {pixels(size)} and {first}; make all frames one size")
        self.note = self._notes([f for f in seen if f.suffix.lower() not in PICTURES and not f.is_dir()])

    def _notes(self, others: list[Path]) -> str:
        notes = []
        if self._read.white is not None:
            notes.append(f"pixels of more than 8 bits a channel, of which {self._read.white:g} is taken for white")
        if others:
            count = "1 file that is" if len(others) == 1 else f"{len(others)} files that are"
            notes.append(f"{count} no frame, {others[0].name}")
        return f"{self.path} has {', and '.join(notes)}" if notes else ""

    def frames(self, start: int = 0) -> Iterator[tuple[str, UInt8Array]]:
        for file in self._files[:: self.every][start:]:
            yield file.stem, self._checked(self._read(file), str(file))

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
    """A video file as FFmpeg decodes it, upright: every picture that can be decoded, however long it is shown, is a
    frame, and they are named 00000, 00001, ... in the order they are shown.

    Raises:
        InputError: there is no frame in the file, or (while iterating) the size changes.
    """

    def __init__(self, path: Path, every: int = 1):
        self.path, self.every = path, every
        self.name = path.stem
        self._counted: int | None = None
        self._stated, self._stated_exactly = 0, False
        self._damaged = self._left_out = 0
        self._spacings: Counter[int] = Counter()
        self._end: int | None = None
        first = next(self._decoded(), None)
        if first is None:
            raise InputError(f"{path}: holds no frame that can be decoded; convert it to MP4 or to a folder of PNG")
        self._matrix, self._to_rgb = _display_matrix(first), VideoReformatter()
        rgb = self._upright_rgb(first)
        self.size = rgb.shape[0], rgb.shape[1]

    def frames(self, start: int = 0) -> Iterator[tuple[str, UInt8Array]]:
        # Seeking is not exact in most formats, so what comes before is passed over.
        with contextlib.closing(self._decoded()) as decoded:
            for position, frame in enumerate(decoded):
                if position % self.every == 0 and position >= start * self.every:
                    name = self.frame_name(position)
                    yield name, self._checked(self._upright_rgb(frame), f"{self.path}: frame {name}")

    @property
    def num_frames(self) -> int | None:
        total = self._counted or self._stated
        return math.ceil(total / self.every) if total else None

    def losses(self) -> str:
        """How many frames the file lacks or has damaged, in a line; empty where there are none.

        Goes through the file the first time.
        """
        found, stated = self.count(), self._stated - self._left_out
        if self._stated_exactly and found < stated:
            return f"{self.path} says it has {stated} frames and {found} can be decoded; is it complete?"
        if self._damaged:
            return f"{self.path} is damaged in {self._damaged} of its parts, and {found} frames could be decoded"
        if self._stated_exactly:
            return ""
        if found >= 0.95 * stated - 1:  # which is an estimate
            stated = found + _room_between(self._spacings)
        if found == stated:
            return ""
        return f"{self.path} has {found} frames in the time of {stated}; are some lost, or shown for longer?"

    def position(self, name: str) -> int | None:
        if not (name.isascii() and name.isdecimal()) or self.frame_name(int(name)) != name:
            return None
        return int(name)

    def count(self) -> int:
        """Exact number of frames; goes through the file the first time."""
        if self._counted is None:
            for _ in self._decoded():
                pass
        return self._counted or 0

    def frame_name(self, position: int) -> str:
        return f"{position:05d}"

    def _decoded(self) -> Generator[av.VideoFrame, None, None]:
        """All frames; at the end it is known how many there are, and what of the file is damaged."""
        found = damaged = left_out = 0
        before, spacings = None, Counter[int]()
        # FFmpeg is given the open file, as it takes some names for addresses or patterns.
        with open(self.path, "rb") as file, self._container(file) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, av.VideoStream):
                raise InputError(f"{self.path}: holds no video, or is cut short; give a video or a folder of frames")
            # FFmpeg's own threads would be waited for when it is freed, also in a copy of the process, which has none.
            stream.codec_context.thread_count = 1
            self._read_header(container, stream)
            for packet in _packets(container, stream):
                try:
                    frames = stream.decode(packet)
                except av.FFmpegError:
                    damaged += 1
                    continue
                left_out += packet is not None and packet.is_discard
                for frame in frames:
                    found, damaged = found + 1, damaged + frame.is_corrupt
                    if before is not None and frame.pts is not None:
                        spacings[frame.pts - before] += 1
                    before = frame.pts
                    yield frame
        if before is not None and self._end is not None:
            spacings[self._end - before] += 1
        self._counted, self._damaged, self._left_out, self._spacings = found, damaged, left_out, spacings

    def _upright_rgb(self, frame: av.VideoFrame) -> UInt8Array:
        rgb = self._to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return turned(np.asarray(rgb, np.uint8), *self._matrix)

    def _container(self, file: IO[bytes]) -> av.container.InputContainer:
        try:
            return av.open(file, mode="r", metadata_errors="replace")
        except av.FFmpegError as error:
            message = "is not a video that FFmpeg can open; convert it to MP4 or to a folder of PNG"
            raise InputError(f"{self.path}: {message}") from error

    def _read_header(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        rate = stream.average_rate or stream.guessed_rate
        self.fps = rate / self.every if rate and 0 < rate <= _MOST_FRAMES_A_SECOND else None
        self._stated_exactly = stream.frames > 0
        seconds = stream.duration * stream.time_base if stream.duration and stream.time_base else None
        if seconds is None and container.duration is not None:
            seconds = Fraction(container.duration, av.time_base)
        self._stated = stream.frames or round((seconds or 0) * (rate or 0))
        self._end = _end_of_matroska(stream)


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
        if path.suffix.lower() in PICTURES and path.suffix.lower() != ".gif":
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


def _check_file(file: Path) -> None:
    if not file.is_file():
        what = "a folder" if file.is_dir() else "a broken link" if file.is_symlink() else "no file"
        raise InputError(f"{file}: has the name of a frame and is {what}; repair, rename or remove it")


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
    pages, size = 1, None
    try:
        with Image.open(file) as image:
            pages = getattr(image, "n_frames", 1) if image.format in _STACKS else 1
            size = upright_size(file, image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pass  # reading it says what is wrong with the file
    if pages > 1:
        raise InputError(f"{file}: holds {pages} pictures; save each as a file of its own, one a frame")
    if size is None:
        frame = read_image(file)
        size = frame.shape[0], frame.shape[1]
    return size


def _room_between(spacings: Counter[int]) -> int:
    """Frames that there is time for between others, where nearly all come at one rate; 0 elsewhere."""
    usual = spacings.most_common(1)[0][0] if spacings else 0
    long = {spacing: count for spacing, count in spacings.items() if spacing > 1.5 * usual}
    if usual <= 0 or sum(long.values()) > 0.1 * spacings.total():
        return 0
    return sum(count * (round(spacing / usual) - 1) for spacing, count in long.items())


def _end_of_matroska(stream: av.VideoStream) -> int | None:
    """When the last frame ends, in the time base of the stream, where Matroska or WebM says so."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""), re.ASCII)
    if found is None or not stream.time_base:
        return None
    hours, minutes, seconds = map(Fraction, found.groups())
    return round((3600 * hours + 60 * minutes + seconds) / stream.time_base)


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet | None]:
    """What the file holds of the stream; the last one is empty, for the frames that the decoder holds back."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError:
        yield None


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """How a frame wants to be turned and mirrored, for :func:`~stg_pyg.utils.pictures.turned`.

    Asked once a video, as it ties the frame and its memory to itself until garbage is collected.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    return a, b, c, d


def _is_text(start: bytes) -> bool:
    if b"\0" in start:
        return False
    try:
        start[:-4].decode()  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return True
