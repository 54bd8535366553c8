"""Reading frames and label maps, and writing results: every write is atomic, every bad file becomes an InputError."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import uuid
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from stg_pyg.errors import InputError
from stg_pyg.pictures import deep_values, is_deep, orientation, to_eight_bits, upright, white_of

PathLike = str | os.PathLike[str]
UInt8Array = NDArray[np.uint8]
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # no others, as some are read by running a program
_DEEP = "more than 8 bits a channel"  # key of what is known of a picture
_LONGEST_NAME = 200  # bytes; file systems take 255, suffixes and temporary names included
_MAX_GREY_LEVELS = 32  # more of them, 255 included, is an anti-aliased black and white mask rather than object ids


def davis_palette() -> UInt8Array:
    """The PASCAL VOC colours of DAVIS, uint8 [256, 3]: bit 3k + c of the id is bit 7 - k of channel c."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for k in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * k + channel)) & 1) << (7 - k)).astype(np.uint8)
    return palette


def natural_sort_key(name: PathLike) -> list[tuple[int, int | str]]:
    """Sort key with numbers by value: ``frame2`` comes before ``frame10``."""
    parts = re.split(r"([0-9]+)", os.fspath(name))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]


def is_inside(name: str) -> bool:
    """Whether a name out of a file, such as ``car`` or ``cars/red``, is of a file below the folder it is joined to."""
    parts = re.split(r"[/\\]", name)
    if not {"", ".", ".."}.isdisjoint(parts) or "\0" in name or re.match("[A-Za-z]:", name):
        return False
    try:
        return all(len(os.fsencode(part)) <= _LONGEST_NAME for part in parts)
    except UnicodeEncodeError:
        return False


class PictureReader:
    """Reads the pictures of one video as uint8 [H, W, 3] RGB, upright; transparency is dropped.

    Those of more than 8 bits a channel are all brought to 8 by one scale, that of the brightest of them, so that a
    video neither turns dark nor flickers, see :func:`~stg_pyg.pictures.white_of`.

    Args:
        files: all pictures of the video.

    Raises:
        InputError: (when called) a file is missing, truncated or not a picture, or its white cannot be told.
    """

    def __init__(self, files: Iterable[PathLike]) -> None:
        self._files = list(files)

    def __call__(self, path: PathLike) -> UInt8Array:
        image = _open(path)
        if not image.info[_DEEP]:
            return np.array(_upright(image).convert("RGB"))
        return upright(to_eight_bits(deep_values(image, path), self.white or 255.0), orientation(image))

    @cached_property
    def white(self) -> float | None:
        """What becomes 255 in pictures of more than 8 bits; None without any. Decodes all of them the first time."""
        highest: list[float] = []
        floating = False
        for path in self._files:
            if header_is_deep(path):
                values = deep_values(_open(path), path)
                highest.append(float(values.max(initial=0)))
                floating |= values.dtype.kind == "f"
        return white_of(max(highest), floating, os.fspath(self._files[0])) if highest else None


def read_image(path: PathLike) -> UInt8Array:
    """A picture on its own as uint8 [H, W, 3] RGB, as :class:`PictureReader` reads those of a video.

    Raises:
        InputError: the file is missing, truncated or not a picture.
    """
    return PictureReader([path])(path)


def header_is_deep(path: PathLike) -> bool:
    """Whether a file is a picture of more than 8 bits a channel, by its header."""
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return is_deep(image)
    except Exception:  # reading it says what is wrong
        return False


def read_label_map(path: PathLike) -> UInt8Array:
    """Object ids uint8 [H, W] of a mask file, 0 is background.

    The EXIF orientation is applied. Indexed pictures give their indices, grey ones their values; a grey picture of
    nothing but 0 and 255 (DAVIS-2016) is one object with id 1. A colour picture is accepted when all its colours are of
    the DAVIS palette.

    Raises:
        InputError: the file is missing or unreadable, or is a picture whose object ids cannot be told.
    """
    image = _open(path)
    is_jpeg, image = image.format == "JPEG", _upright(image)
    if is_jpeg:
        raise InputError(f"{path}: is a JPEG, which blurs object ids; save the mask as an indexed or grey PNG")
    if image.mode == "P" and not _has_grey_palette(image):
        return np.array(image, dtype=np.uint8)
    if image.mode in ("RGB", "RGBA"):
        return _labels_of_colours(np.array(image.convert("RGB")), path)
    if image.mode == "1":
        return np.array(image, dtype=np.uint8)
    if image.mode not in ("P", "L", "LA", "I", "I;16", "I;16B", "I;16L"):
        raise InputError(f"{path}: has pixels of mode {image.mode}; save the mask as an indexed or grey PNG")
    return _labels_of_greys(np.asarray(image.getchannel(0) if image.mode == "LA" else image), path)


def write_label_map(path: PathLike, labels: Any) -> None:
    """Write object ids [H, W] (integers of 0 to 255, or bool) as an indexed PNG with the DAVIS palette.

    Raises:
        ValueError: ``labels`` is no map of such ids.
        InputError: the file cannot be written.
    """
    array = np.asarray(labels)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "bui":
        raise ValueError(f"label map has shape {array.shape} and type {array.dtype}: expected integers [H, W]")
    if array.min() < 0 or array.max() > 255:
        raise ValueError(f"object ids reach from {array.min()} to {array.max()}: a PNG holds 0 to 255")
    image = Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8))
    image.putpalette(davis_palette().tobytes())  # turns the grey picture into an indexed one
    write_atomic(path, lambda file: image.save(file, format="PNG"))


def write_image(path: PathLike, rgb: Any) -> None:
    """Write uint8 [H, W, 3] RGB; the suffix of ``path`` says whether as JPEG (quality 92) or PNG.

    Raises:
        ValueError: ``rgb`` is no such picture.
        InputError: the file cannot be written.
    """
    array = np.asarray(rgb)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0 or array.dtype != np.uint8:
        raise ValueError(f"picture has shape {array.shape} and type {array.dtype}: expected uint8 [H, W, 3]")
    image = Image.fromarray(np.ascontiguousarray(array))
    is_jpeg = Path(path).suffix.lower() in (".jpg", ".jpeg")
    options: dict[str, Any] = {"format": "JPEG", "quality": 92} if is_jpeg else {"format": "PNG"}
    write_atomic(path, lambda file: image.save(file, **options))


def write_json(path: PathLike, obj: Any) -> None:
    """Write ``obj`` as JSON; arrays, tensors and paths are converted, NaN and infinities become null.

    Raises:
        TypeError: something in ``obj`` has no JSON form.
        InputError: the file cannot be written.
    """
    write_text(path, json.dumps(_jsonable(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: PathLike, text: str) -> None:
    """Writes UTF-8 text under a temporary name, then renames; bytes of file names that are no text become ``\\udc..``.

    Raises:
        InputError: the file cannot be written.
    """
    write_atomic(path, lambda file: file.write(text.encode(errors="backslashreplace")))


def overlay(image: UInt8Array, labels: Any, alpha: float = 0.5) -> UInt8Array:
    """``image`` [H, W, 3] with the objects of ``labels`` [H, W] tinted in their DAVIS colours and outlined.

    Raises:
        ValueError: the sizes differ.
    """
    ids = np.asarray(labels).astype(np.uint8)
    if image.shape[:2] != ids.shape:
        raise ValueError(f"picture is {image.shape[:2]} but its label map {ids.shape}: they must be equal")
    colours = davis_palette()[ids]
    tinted = np.where(ids[..., None] > 0, (1 - alpha) * image + alpha * colours, image)
    result = np.round(tinted).astype(np.uint8)
    neighbourhood = np.ones((3, 3), np.uint8)
    inner_edge = (ids > 0) & (np.asarray(cv2.erode(ids, neighbourhood)) != np.asarray(cv2.dilate(ids, neighbourhood)))
    result[inner_edge] = colours[inner_edge]
    return result


def _open(path: PathLike) -> Image.Image:
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file; check the path")
    try:
        image = Image.open(path, formats=_FORMATS)
        deep = is_deep(image)
        image.load()
        image.info[_DEEP] = deep
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: is not a picture; give a PNG or JPEG file") from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read; check its permissions") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder; give a PNG or JPEG file") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; reduce it") from error
    except Exception as error:  # decoders of broken files raise errors of all kinds
        raise InputError(
            f"{path}: cannot be decoded ({error}); it may be cut short, copy or export it again"
        ) from error
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever is wrong with the note of a camera, the picture itself was decoded
        return image


def _has_grey_palette(image: Image.Image) -> bool:
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return len(palette) > 2 and bool((palette == np.arange(len(palette))[:, None]).all())


def _labels_of_greys(values: NDArray[Any], path: PathLike) -> UInt8Array:
    levels = np.unique(values)
    if levels[-1] in (255, 65535) and set(levels.tolist()) <= {0, int(levels[-1])}:
        return (values > 0).astype(np.uint8)
    if levels[0] < 0 or levels[-1] > 255:
        raise InputError(f"{path}: has values from {levels[0]} to {levels[-1]}; object ids must be 0 to 255")
    if levels[-1] == 255 and len(levels) > _MAX_GREY_LEVELS:
        raise InputError(
            f"{path}: has {len(levels)} grey levels, so it looks like a black and white mask with soft edges; "
            "threshold it to 0 and 255, or save object ids in an indexed PNG"
        )
    return values.astype(np.uint8)


def _labels_of_colours(rgb: UInt8Array, path: PathLike) -> UInt8Array:
    codes = _colour_codes(rgb)
    colours = np.unique(codes)
    palette = _colour_codes(davis_palette())
    order = np.argsort(palette)
    position = np.minimum(np.searchsorted(palette[order], colours), 255)
    known = palette[order][position] == colours
    if not known.all():
        raise InputError(
            f"{path}: is an RGB picture with {len(colours)} colours, {np.count_nonzero(~known)} of them not in the "
            "DAVIS palette, so its object ids cannot be told; save it as an indexed PNG, as a grey PNG with the "
            "object ids as values, or as a black and white grey PNG for one object"
        )
    return order[position].astype(np.uint8)[np.searchsorted(colours, codes)]


def _colour_codes(rgb: UInt8Array) -> NDArray[np.int64]:
    channels = rgb.astype(np.int64)
    return (channels[..., 0] << 16) | (channels[..., 1] << 8) | channels[..., 2]


def _jsonable(obj: Any) -> Any:
    if isinstance(obj, dict):
        return {str(key): _jsonable(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_jsonable(value) for value in obj]
    if isinstance(obj, set | frozenset):
        return sorted(_jsonable(value) for value in obj)
    if hasattr(obj, "tolist"):  # arrays, NumPy scalars and tensors
        return _jsonable(obj.tolist())
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return obj


def remove_leftovers(folder: PathLike) -> None:
    """Deletes what :func:`write_atomic` had half written into a folder when its process was killed."""
    for path in Path(folder).glob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name):
            path.unlink(missing_ok=True)


def write_atomic(path: PathLike, write: Callable[[IO[bytes]], Any]) -> None:
    """Write beside ``path`` and rename, so that a reader or an interrupted run never meets half a file."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
        os.replace(temporary, target)
    except OSError as error:
        remedy = "free space or choose" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "choose"
        raise InputError(f"{target}: cannot be written ({error.strerror or error}); {remedy} another folder") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
