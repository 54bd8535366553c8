"""Odd pictures."""

import struct
import zlib
from pathlib import Path

from PIL import Image


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def with_a_late_note(path: Path, orientation: int) -> None:
    """Moves the EXIF chunk of a PNG behind its pixels."""
    content = path.read_bytes()
    body = exif_of(orientation).tobytes()
    body = body.removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    end = content.rindex(b"IEND") - 4
    path.write_bytes(content[:end] + chunk + content[end:])
