"""Which frame a mask belongs to, by its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stg_pyg.errors import InputError
from stg_pyg.video.frames import FrameSource


def frames_of_masks(files: Sequence[Path], source: FrameSource) -> dict[Path, int]:
    """Positions of the frames that masks are named after; empty where their names have nothing to do with frames.

    A mask is of the frame of its very name, or else of the frame whose number it carries with other padding, a prefix
    or a suffix: ``000005.png`` or ``00005_mask.png`` of frame ``00005``. Objects are numbered too, so this holds for
    numbers that are written like those of frames (as many digits, or zeros in front up to four and more), and for
    others where they have the first frame's among them and leave gaps: ``obj1.png``, ``obj2.png`` is an object each.

    Raises:
        InputError: some names are of frames and others are not, two are of one frame, or numbers may mean either.
    """
    named = {file: position for file in files if (position := source.position(file.stem)) is not None}
    if len(named) == len(files):
        return _distinct(named, source)
    rest = [file for file in files if file not in named]
    first = source.frame_name(0)
    written = {file: _number(file.stem, first) for file in rest}
    like_frames = [file for file in rest if _is_like(written[file], first)]
    if not named and not any(written.values()):
        return {}
    positions = _positions_by_number(source)
    found = {file: positions[int(n)] for file, n in written.items() if n and int(n) in positions}
    if not named and not like_frames:
        numbers = sorted(int(written[file]) for file in found)
        plain = numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
        has_first = 0 in found.values()
        if len(found) < len(rest) or (numbers[0] == 1 and plain and not has_first):
            return {}
        if not has_first or (plain and len(numbers) > 1):
            raise InputError(
                f"{rest[0]}: may be number {numbers[0]} of the frames of {source.path} or of the objects; name label "
                f"maps as frames ({first}.png), and masks of one object each without numbers"
            )
        like_frames = rest
    for file in rest:
        if file not in like_frames or file not in found:
            raise _stranger(file, source)
    return _distinct(named | found, source)


def position_in_name(name: str, source: FrameSource) -> int | None:
    """Position of the frame whose name or number, written like that of a frame, is in ``name``."""
    position = source.position(name)
    number = _number(name, source.frame_name(0))
    if position is None and _is_like(number, source.frame_name(0)):
        position = _positions_by_number(source).get(int(number))
    return position if position is None or position < source.count() else None


def _distinct(found: dict[Path, int], source: FrameSource) -> dict[Path, int]:
    by_frame: dict[int, Path] = {}
    for file, position in found.items():
        # Any number names a frame of a video file, also beyond its end.
        if position > 0 and position >= source.count():
            raise _stranger(file, source)
        other = by_frame.setdefault(position, file)
        if other is not file:
            raise InputError(
                f"{file}: is of frame {source.frame_name(position)} as {other.name} is; keep one label map a frame"
            )
    return found


def _stranger(file: Path, source: FrameSource) -> InputError:
    return InputError(
        f"{file}: no frame of {source.path} is named {file.stem}, though other masks have names of frames "
        f"({source.frame_name(0)} is the first); rename or remove it"
    )


def _number(name: str, frame: str) -> str:
    """The digits in ``name`` that are written like those of ``frame``, or else the last ones; empty without any."""
    digits = re.findall(r"[0-9]+", name)
    like = [number for number in digits if _is_like(number, frame)]
    return like[0] if len(like) == 1 else digits[-1] if digits else ""


def _is_like(number: str, frame: str) -> bool:
    width = len((re.findall(r"[0-9]+", frame) or [""])[-1])
    return len(number) == width >= 3 or (len(number) >= 4 and number.startswith("0"))


def _positions_by_number(source: FrameSource) -> dict[int, int]:
    """Positions by the last number in the names of frames; empty where two frames have one number, or one has none."""
    numbers = [re.findall(r"[0-9]+", source.frame_name(position))[-1:] for position in range(source.count())]
    positions = {int(number[0]): position for position, number in enumerate(numbers) if number}
    return positions if len(positions) == len(numbers) else {}
