"""Strips of frames at the moments that matter, as Figures 4-5 of the paper show them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stg_pyg.io import UInt8Array, overlay

CELL = 320
"""Width of one frame in pixels."""
GAP, LINE = 4, 22
Cell = tuple[UInt8Array, UInt8Array, UInt8Array | None, str]
"""Frame [H, W, 3], its result [H, W], its annotation and the caption."""


def draw_strip(name: str, cells: Sequence[Cell]) -> bytes:
    """The frames of a sequence side by side with the result, and with the annotation below it where there is one.

    Args:
        name: of the sequence.
        cells: in the order of time.

    Returns:
        A JPEG.
    """
    rows = ["result"] + ["annotation"] * any(truth is not None for _, _, truth, _ in cells)
    height = round(CELL * cells[0][0].shape[0] / cells[0][0].shape[1])
    width = len(cells) * (CELL + GAP) - GAP
    strip = Image.new("RGB", (width, LINE + len(rows) * (height + GAP) + LINE), "white")
    draw = ImageDraw.Draw(strip)
    draw.text((2, 3), f"{name}: {' above, '.join(rows)}{' below' * (len(rows) > 1)}", fill="black", font=_font())
    for column, (image, result, truth, caption) in enumerate(cells):
        x = column * (CELL + GAP)
        for row, labels in enumerate((result, truth)[: len(rows)]):
            picture = image if labels is None else overlay(image, labels)
            small = cv2.resize(picture, (CELL, height), interpolation=cv2.INTER_AREA)
            strip.paste(Image.fromarray(np.asarray(small, np.uint8)), (x, LINE + row * (height + GAP)))
        draw.text((x + 2, LINE + len(rows) * (height + GAP)), caption, fill="black", font=_font())
    file = io.BytesIO()
    strip.save(file, format="JPEG", quality=88)
    return file.getvalue()


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 14)
