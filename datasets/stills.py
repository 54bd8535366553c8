"""Single pictures with masks of objects, as videos of one frame, to train on before videos and beside them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from datasets.base import UInt8Array, VideoDataset, VideoSequence
from datasets.files import check_complete, check_root, find_files
from stg_pyg.errors import InputError
from stg_pyg.utils.images import read_image
from stg_pyg.utils.pictures import upright_size

VOID = 255
"""Value of the pixels of which nothing is known."""
_BORDER = 8
"""Void pixels at most so far from a known one, as along the outline of an object, are taken for what is nearest."""


class Still(VideoSequence):
    """One picture and the mask of its objects."""

    def __init__(self, image: Path, mask: Path) -> None:
        self.name, self.frame_names = image.stem, [image.stem]
        self._image, self._mask = image, mask

    def image(self, t: int) -> UInt8Array:
        return read_image(self._image)

    def labels(self, t: int) -> UInt8Array:
        values = _read_values(self._mask)
        height, width = self.size
        if values.shape != (height, width):
            raise InputError(
                f"{self._mask}: is {values.shape[1]} x {values.shape[0]} pixels and its picture {width} x {height}; "
                "make them the same size"
            )
        if set(np.unique(values)) <= {0, VOID}:
            return (values == VOID).astype(np.uint8)
        return without_void(values)

    @cached_property
    def size(self) -> tuple[int, int]:
        try:
            with Image.open(self._image) as image:
                known = upright_size(self._image, image)
        except OSError as error:
            raise InputError(f"{self._image}: not a readable picture; copy it again or take it out") from error
        return super().size if known is None else known

    @property
    def files(self) -> list[Path]:
        return [self._image, self._mask]


class Stills(VideoDataset):
    """Pictures and masks of objects, read lazily from::

        root/images/<name>.jpg or .png
        root/masks/<name>.png

    The values of a mask, one grey or indexed channel, are ids: 0 is background and 255 unknown, or white in a mask that
    is black and white only.

    Raises:
        InputError: the folder has no pictures, or a mask is missing.
    """

    def __init__(self, root: Path) -> None:
        images, masks = root / "images", root / "masks"
        check_root(root, "picture", [images, masks], "images/<name>.jpg and masks/<name>.png with ids of objects")
        pictures, mask_of = find_files(images), {path.stem: path for path in masks.glob("[!.]*.png")}
        remedy = "add the masks, or take their pictures out"
        check_complete(masks, "mask", [picture.stem for picture in pictures], mask_of, remedy)
        super().__init__("stills", "all", [Still(picture, mask_of[picture.stem]) for picture in pictures])


def without_void(values: UInt8Array) -> UInt8Array:
    """Ids [H, W] whose void pixels have the nearest known id, or are background where none is near."""
    void = values == VOID
    if not void.any():
        return values
    far, (rows, columns) = ndimage.distance_transform_edt(void, return_indices=True)
    return np.where(far <= _BORDER, values[rows, columns], 0).astype(np.uint8)


def _read_values(path: Path) -> UInt8Array:
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except OSError as error:
        raise InputError(f"{path}: not a readable mask; copy it again or take it out") from error
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    if values.ndim != 2 or values.dtype != np.uint8:
        raise InputError(f"{path}: has no single channel of 8 bits; save it as grey or indexed PNG, the values are ids")
    return values
