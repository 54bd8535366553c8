"""Orientation of pictures, and pictures of more than 8 bits a channel."""

import struct

import cv2
import numpy as np
import pytest
from picture_cases import exif_of, with_a_late_note
from PIL import Image

from stg_pyg.errors import InputError
from stg_pyg.utils.images import PictureReader, read_image, read_label_map
from stg_pyg.utils.pictures import upright_size, white_of

GREY = np.arange(20, dtype=np.uint16).reshape(4, 5)
CORNERS = np.array([[1, 2, 0], [3, 0, 4]], np.uint8)
SEEN = {
    1: [[1, 2, 0], [3, 0, 4]],
    2: [[0, 2, 1], [4, 0, 3]],
    3: [[4, 0, 3], [0, 2, 1]],
    4: [[3, 0, 4], [1, 2, 0]],
    5: [[1, 3], [2, 0], [0, 4]],
    6: [[3, 1], [0, 2], [4, 0]],
    7: [[4, 0], [0, 2], [3, 1]],
    8: [[0, 4], [2, 0], [1, 3]],
}
"""CORNERS by EXIF orientation: 6 is what a phone writes whose picture is to be turned clockwise."""


@pytest.mark.parametrize("orientation", SEEN)
def test_frames_and_masks_are_turned_alike(tmp_path, orientation):
    Image.fromarray(CORNERS).save(tmp_path / "a.png", exif=exif_of(orientation))
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png"), SEEN[orientation])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], SEEN[orientation])
    Image.fromarray(CORNERS * np.uint16(15000)).save(tmp_path / "deep.png", exif=exif_of(orientation))
    deep = read_image(tmp_path / "deep.png")[..., 0]
    np.testing.assert_array_equal(deep > 0, np.array(SEEN[orientation]) > 0)
    assert deep.argmax() == np.argmax(SEEN[orientation])


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_notes_behind_the_pixels_of_a_png(tmp_path, orientation):
    path = tmp_path / "late.png"
    Image.fromarray(CORNERS).save(path)
    with Image.open(path) as image:
        assert upright_size(path, image) == (2, 3)
    with_a_late_note(path, orientation)
    np.testing.assert_array_equal(read_label_map(path), SEEN[orientation])
    with Image.open(path) as image:
        assert upright_size(path, image) is None, "that takes the whole picture"


@pytest.mark.parametrize(
    ("highest", "floating", "white"),
    [
        *[(0, False, 255), (255, False, 255), (256, False, 511), (4080, False, 4095), (65535, False, 65535)],
        *[(0.0, True, 1), (1.0, True, 1), (16.0, True, 255), (255.0, True, 255)],
        *[(1 << 16, False, None), (1.02, True, None), (15.0, True, None), (300.0, True, None)],
    ],
)
def test_white(highest, floating, white):
    if white is not None:
        assert white_of(highest, floating, "x.png") == white
        return
    with pytest.raises(InputError, match=r"x\.png: has values up to .* which one is white; save"):
        white_of(highest, floating, "x.png")


def test_one_scale_a_video(tmp_path):
    """Frames whose brightest pixel is above and below 255 get the scale of the brightest of all."""
    files = [tmp_path / f"{t}.png" for t in range(3)]
    for file, shift in zip(files, (4000, 0, 236), strict=True):
        Image.fromarray((GREY + shift).astype(np.uint16)).save(file)
    read = PictureReader(files)
    assert read.white == 4095
    for file, shift in zip(files, (4000, 0, 236), strict=True):
        expected = np.round((GREY.astype(float) + shift) * 255 / 4095)
        np.testing.assert_array_equal(read(file), np.repeat(expected[..., None], 3, axis=2))
    assert PictureReader(files[1:2]).white == 255


def test_colours_of_twelve_bits_and_floating_point(tmp_path):
    """PIL would give the upper 8 bits of 16, which are nearly black."""
    rgb = np.random.default_rng(0).integers(0, 4096, (6, 7, 3), dtype=np.uint16)
    rgb[0, 0] = 4095
    for path in (tmp_path / "a.png", tmp_path / "a.tif"):
        cv2.imwrite(str(path), rgb[..., ::-1])
        np.testing.assert_array_equal(read_image(path), np.round(rgb * (255 / 4095)))
    values = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(read_image(path)[..., 1], np.round(values * 255))
    for wrong in (-0.1, np.nan, np.inf):
        Image.fromarray(np.where(values == 1, np.float32(wrong), values)).save(path)
        with pytest.raises(InputError, match=r"a\.tif: has negative values or some that are not finite"):
            read_image(path)


def test_packed_colours_of_a_bitmap_are_no_deep_ones(tmp_path):
    """A BMP of 5 bits a channel, whose pixels PIL names after their 16 bits."""
    pixels = np.array([[0x7C00, 0x03E0], [0x001F, 0x7FFF]], "<u2")
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 62, 0, 0, 54, 40, 2, -2, 1, 16, 0, 8, 0, 0, 0, 0)
    (tmp_path / "a.bmp").write_bytes(header + pixels.tobytes())
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]]
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp"), expected)
