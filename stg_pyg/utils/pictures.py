"""What pictures have beside 8-bit colours: a side that is up, and channels of more than 8 bits. What cannot be told is
an InputError."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stg_pyg.errors import InputError

_ORIENTATION_TAG = 0x0112
_TURNS = {2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1), 5: (0, 1, 1, 0)}
_TURNS |= {6: (0, 1, -1, 0), 7: (0, -1, -1, 0), 8: (0, -1, 1, 0)}
_DEEP = re.compile(r";(16[BLNS]?|32.*)$")  # of PIL's names of how pixels are stored, as in "RGB;16B" and "F;32F"
_MOST_BITS = 16
_LATE_NOTES = (b"Raw profile type exif", b"XML:com.adobe.xmp")


def turned(array: NDArray[Any], across: float, mixed: float, swapped: float, down: float) -> NDArray[Any]:
    """``array`` [H, W, ...] drawn through the matrix of a display, to the nearest quarter of a turn, mirrored or not.

    A point (x, y) from the upper left corner goes to (across x + swapped y, mixed x + down y), but for a shift.
    """
    if abs(mixed) > abs(across):
        array, across, down = array.swapaxes(0, 1), swapped, mixed
    array = array[:, ::-1] if across < 0 else array
    return np.ascontiguousarray(array[::-1] if down < 0 else array)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of 1 to 8; 1, which is upright, where a picture has none or a broken one."""
    try:
        found = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)  # PNG's own decodes the whole picture
    except Exception:  # whatever is wrong with the note of a camera, the picture itself was decoded
        return 1
    return found if found in _TURNS else 1


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The pixels [H, W, ...] of a file as its EXIF orientation wants them to be seen."""
    return array if orientation == 1 else turned(array, *_TURNS[orientation])


def upright_size(file: Path, image: Image.Image) -> tuple[int, int] | None:
    """(H, W) of the upright picture by what comes before its pixels in the file; None where a note comes after them."""
    if image.format == "PNG" and _has_late_notes(file):
        return None
    width, height = image.size
    return (width, height) if orientation(image) >= 5 else (height, width)


def is_deep(image: Image.Image) -> bool:
    """Whether a file holds more than 8 bits a channel, of a picture that is open but not decoded."""
    stored = [tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in getattr(image, "tile", ()) if tile[3]]
    return image.mode[0] in "IF" or any(isinstance(name, str) and bool(_DEEP.search(name)) for name in stored)


def deep_values(image: Image.Image, path: str | os.PathLike[str]) -> NDArray[Any]:
    """The values in the file, [H, W] or [H, W, 3] RGB, of a decoded picture of more than 8 bits a channel."""
    if image.mode[0] in "IF":
        values = np.asarray(image)
    else:  # PIL keeps the upper 8 bits of colours
        colours = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        if colours is None:
            raise InputError(f"{path}: has more than 8 bits a channel in an unusual form; save it as an 8-bit PNG")
        values = np.asarray(colours)[..., 2::-1] if colours.ndim == 3 else np.asarray(colours)
    if not np.isfinite(values).all() or values.min() < 0:
        raise InputError(f"{path}: has negative values or some that are not finite; save it as an 8-bit PNG")
    return values


def white_of(highest: float, floating: bool, what: str) -> float:
    """The value that is white in pictures with values of 0 to ``highest``.

    Of integers it is the largest of as many bits as ``highest`` has, at least 8: 4095 for 4080. Of floating point
    numbers it is 1 or 255.
    """
    if floating and (highest <= 1 or 16 <= highest <= 255):
        return 1.0 if highest <= 1 else 255.0
    bits = int(highest).bit_length()
    if floating or bits > _MOST_BITS:
        raise InputError(
            f"{what}: has values up to {highest:g}, so that it cannot be told which one is white; save 8 or 16-bit PNG"
        )
    return float(2 ** max(8, bits) - 1)


def to_eight_bits(values: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """``values`` of 0 to ``white`` as uint8 [H, W, 3]."""
    scaled = np.round(np.minimum(values.astype(np.float64) * (255 / white), 255)).astype(np.uint8)
    return scaled if scaled.ndim == 3 else np.repeat(scaled[..., None], 3, axis=2)


def _has_late_notes(file: Path) -> bool:
    """Whether a PNG tells its orientation after its pixels."""
    with open(file, "rb") as content:
        content.seek(8)
        pixels_seen = False
        while len(head := content.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            text = content.read(min(length, 24))
            if pixels_seen and (kind == b"eXIf" or text.startswith(_LATE_NOTES)):
                return True
            pixels_seen |= kind == b"IDAT"
            content.seek(length - len(text) + 4, os.SEEK_CUR)
    return False
