"""What the pixels of a mask file mean, decided in one place for everything that reads masks.

The first rule that fits counts:

1. A JPEG is refused, as it blurs object ids.
2. One colour everywhere under a transparency that varies: what is opaque is one object.
3. Colours, of an indexed picture too, that are all of the DAVIS palette are ids, whatever the indices say.
4. Black and white is one object, the white.
5. Greys whose levels between black and white lie on edges only (anti-aliased, resized) are one object, from half of
   their range on. Darkest and brightest need not be 0 and 255.
6. Greys of 0 to 255 are ids; in a run with ids, a black and white map is one of them (see
   :class:`stg_pyg.utils.label_maps.LabelMaps`).
7. The indices of an indexed picture are ids where index 0 is its black, or transparent, and colours fill areas, as
   those of photographs and of soft edges do not.
8. Everything else is refused in one line.

An object that is transparent is refused too. Void is no matter of files: 255 is an id like others until
a data set says that it is void.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stg_pyg.errors import InputError

PathLike = str | os.PathLike[str]
UInt8Array = NDArray[np.uint8]
MASK_SUFFIXES = (".png", ".bmp", ".gif", ".pgm", ".pbm", ".ppm", ".tif", ".tiff", ".webp", ".jpg", ".jpeg")
"""What a mask may be called; JPEG among them, so that one is refused and not overlooked."""
_DARK, _END_OF_BLACK, _BRIGHT = 16, 32, 128  # black of video and less; greys near black; what no soft mask stays below
_FEW = 4  # of so many indices each may be a tiny object
_MAX_LEVELS = 32  # more of them are ids only where most fill an area
_REMEDY = (
    "save it as an indexed PNG, as a grey PNG with the object ids as values, or as a black and white grey PNG for one "
    "object"
)


@dataclass(frozen=True)
class Mask:
    """A mask file as it was understood.

    Attributes:
        labels: object ids uint8 [H, W], 0 is background.
        white: whether the file is one grey object without an id of its own, which is 1 in ``labels``.
        soft: how a soft mask was made a sharp one, or nothing.
    """

    labels: UInt8Array
    white: bool = False
    soft: str = ""


def davis_palette() -> UInt8Array:
    """The PASCAL VOC colours of DAVIS, uint8 [256, 3]: bit 3k + c of the id is bit 7 - k of channel c."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for k in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * k + channel)) & 1) << (7 - k)).astype(np.uint8)
    return palette


def understand_mask(image: Image.Image, path: PathLike) -> Mask:
    """The objects of a decoded picture by the rules above."""
    if image.format == "JPEG":
        raise InputError(f"{path}: is a JPEG, which blurs object ids; save the mask as an indexed or grey PNG")
    alpha = _alpha(image)
    if alpha is None:
        return _of_opaque(image, path)
    colours = np.asarray(image.convert("RGB"))
    if (colours == colours[:1, :1]).all() and alpha.min() < alpha.max():
        return _of_alpha(alpha, path)
    mask = _of_opaque(image, path)
    if (mask.labels[alpha < (1 if mask.white else 128)] > 0).any():
        raise InputError(
            f"{path}: its colours show objects where it is transparent, so it is unclear which of the two tells them; "
            "save it without transparency"
        )
    return _of_alpha(np.where(mask.labels > 0, alpha, 0), path) if mask.white else mask


def _alpha(image: Image.Image) -> UInt8Array | None:
    """How opaque a picture is, uint8 [H, W]; None where it is so everywhere."""
    keyed = image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info
    if not keyed and image.mode not in ("LA", "PA", "RGBA"):
        return None
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return None if alpha.min() == 255 else alpha


def _of_opaque(image: Image.Image, path: PathLike) -> Mask:
    if image.mode in ("P", "PA"):
        return _of_indices(image, path)
    if image.mode in ("RGB", "RGBA"):
        return _of_colours(np.asarray(image.convert("RGB")), path)
    if image.mode == "1":
        return Mask(np.array(image, dtype=np.uint8), white=True)
    if image.mode not in ("L", "LA", "I", "I;16", "I;16B", "I;16L"):
        raise InputError(f"{path}: has pixels of mode {image.mode}; save the mask as an indexed or grey PNG")
    return _of_greys(np.asarray(image.getchannel(0) if image.mode == "LA" else image), path)


def _of_alpha(alpha: UInt8Array, path: PathLike) -> Mask:
    mask = _white_object(alpha) or _soft_object(alpha)
    if mask is None:
        raise InputError(f"{path}: its transparency is not that of one object with sharp edges; {_REMEDY}")
    return mask


def _of_indices(image: Image.Image, path: PathLike) -> Mask:
    indices = np.array(image.getchannel(0), dtype=np.uint8)
    entries = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(entries)] = entries
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    if not entries.any() or (palette[used] == davis_palette()[used]).all():
        return Mask(indices)
    if len(entries) > 2 and (entries == np.arange(len(entries))[:, None]).all():
        return _of_greys(indices, path)
    rgb = palette[indices]
    greys = (rgb == rgb[..., :1]).all()
    white = _white_object(rgb[..., 0]) if greys else None
    mask = _davis_objects(rgb) if len(np.unique(_codes(palette[None, used]))) == len(used) else None
    mask = mask or (white if used[-1] == 255 else None) or (_soft_object(rgb[..., 0]) if greys else None)
    if mask is not None:
        return mask
    black = [int(index) for index in used if not palette[index].any()]
    if (not palette[0].any() or _is_clear(image)) and not any(black):
        if _are_shades(indices, used):
            raise InputError(f"{path}: has {len(used)} colours that fill no areas, as edges and photographs; {_REMEDY}")
        return Mask(indices)
    if white is None:
        what = f"black is index {black[-1]}" if any(black) else "index 0 is not black"
        raise InputError(
            f"{path}: is an indexed picture in which {what}, so its background cannot be told, and whose colours are "
            f"not of the DAVIS palette; {_REMEDY}"
        )
    return white


def _are_shades(indices: UInt8Array, used: NDArray[Any]) -> bool:
    """Whether most of several colours, or most pixels, are in no area of one colour."""
    flat = _flat(indices)
    return len(used) > _FEW and (2 * len(_levels(indices[flat])) < len(used) or bool(flat.mean() < 0.5))


def _is_clear(image: Image.Image) -> bool:
    """Whether index 0 of an indexed picture is transparent."""
    clear = image.info.get("transparency")
    return clear == 0 or (isinstance(clear, bytes) and clear[:1] == b"\0")


def _of_colours(rgb: UInt8Array, path: PathLike) -> Mask:
    greys = (rgb == rgb[..., :1]).all()
    mask = _davis_objects(rgb) or ((_white_object(rgb[..., 0]) or _soft_object(rgb[..., 0])) if greys else None)
    if mask is None:
        colours = np.unique(_codes(rgb))
        foreign = np.count_nonzero(~np.isin(colours, _codes(davis_palette())))
        raise InputError(
            f"{path}: is an RGB picture with {len(colours)} colours, {foreign} of them not in the DAVIS palette, so "
            f"its object ids cannot be told; {_REMEDY}"
        )
    return mask


def _davis_objects(rgb: UInt8Array) -> Mask | None:
    """The ids of a picture whose colours are all of the DAVIS palette."""
    codes, palette = _codes(rgb), _codes(davis_palette())
    colours = np.unique(codes)
    order = np.argsort(palette)
    nearest = order[np.minimum(np.searchsorted(palette[order], colours), 255)]
    if (palette[nearest] != colours).any():
        return None
    return Mask(nearest.astype(np.uint8)[np.searchsorted(colours, codes)])


def _codes(rgb: UInt8Array) -> NDArray[np.int64]:
    channels = rgb.astype(np.int64)
    return (channels[..., 0] << 16) | (channels[..., 1] << 8) | channels[..., 2]


def _of_greys(values: NDArray[Any], path: PathLike) -> Mask:
    mask = _white_object(values)
    if mask is not None:
        return mask
    levels = _levels(values)
    low, high = int(levels[0]), int(levels[-1])
    if 0 <= low < _DARK and high <= 255:
        filled = np.isin(levels[1:-1], _levels(values[_flat(values)]))
        few = len(levels) <= _MAX_LEVELS or 2 * np.count_nonzero(filled) > len(levels)
        if few and (high < _BRIGHT or (filled.all() and (low == 0 or filled.size > 0))):
            return Mask(values.astype(np.uint8))
        mask = None if high < _BRIGHT else _soft_object(values)
        if mask is not None:
            return mask
        if few and len(levels) > 1 and levels[-2] < _END_OF_BLACK:
            return Mask(values.astype(np.uint8))  # few ids, a tiny object among them, and 255
    elif (mask := _soft_object(values)) is not None:
        return mask
    if low < 0 or high > 255:
        raise InputError(f"{path}: has values from {low} to {high}; object ids must be 0 to 255")
    what = "none of them dark" if low >= _DARK else "so it looks like a black and white mask with soft edges"
    remedy = "threshold it to 0 and 255, or save object ids in an indexed PNG"
    raise InputError(f"{path}: has {len(levels)} grey levels, {what}; {remedy}")


def _white_object(values: NDArray[Any]) -> Mask | None:
    """The object of a black and white picture."""
    levels = _levels(values)
    if levels[-1] in (255, 65535) and set(levels.tolist()) <= {0, int(levels[-1])}:
        return Mask((values > 0).astype(np.uint8), white=True)
    return None


def _soft_object(values: NDArray[Any]) -> Mask | None:
    """The object of a picture that is dark or bright, and of other levels along edges only."""
    low, high = int(values.min()), int(values.max())
    full = 255 if high <= 255 else 65535
    if not (0 <= low * 8 <= full < 2 * high <= 2 * full):
        return None
    end = (high - low) // 8  # of noise and of the tails of a blur
    levels = _levels(values)
    between = (values > low + end) & (values < high - end)
    edges = ((levels > low + end) & (levels < high)).any() and not (_flat(values) & between).any()
    if not (edges or (low > 0 and len(levels) == 2)):
        return None
    few = min(values.size // 2, 4 * int(np.count_nonzero(values >= high - end)))
    if int(np.count_nonzero(between)) > few:
        return None
    middle = (low + high) / 2
    note = (
        f"has {len(levels)} grey levels from {low} to {high}; it is taken for one object, where it is over {middle:g}"
    )
    return Mask((values > middle).astype(np.uint8), white=True, soft=note)


def _levels(values: NDArray[Any]) -> NDArray[Any]:
    """The values that occur, ascending."""
    if values.dtype != np.uint8:
        return np.unique(values)
    return np.flatnonzero(cv2.calcHist([values.reshape(1, -1)], [0], None, [256], [0, 256]))


def _flat(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where the 3 x 3 pixels around are equal: objects have such areas, and the levels of edges do not."""
    square, wide = np.ones((3, 3), np.uint8), values.astype(np.float32)
    return np.asarray(cv2.erode(wide, square) == cv2.dilate(wide, square))
