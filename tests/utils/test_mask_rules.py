"""What the pixels of mask files mean: an object and a second one, as many tools would save them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from stg_pyg.errors import InputError
from stg_pyg.utils.images import davis_palette, read_label_map, read_mask
from stg_pyg.utils.label_maps import LabelMaps

ONE = np.zeros((24, 32), np.uint8)
ONE[6:16, 8:20] = 1
TWO = ONE.copy()
TWO[17:22, 22:30] = 2
WHITE = ONE * np.uint8(255)


def save(path: Path, picture: np.ndarray | Image.Image, **options: object) -> Path:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(path, **options)
    return path


def indexed(indices: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([value for colour in colours for value in colour])
    return image


def layers(*channels: np.ndarray | int) -> np.ndarray:
    return np.stack([np.full_like(ONE, c) if isinstance(c, int) else c for c in channels], axis=-1)


def soft(scale: int = 1, low: int = 0, high: int = 255, shift: float = 0.5) -> np.ndarray:
    """A rectangle of 10 x 12 pixels whose edges lie between pixels, and so are anti-aliased, or which was enlarged."""
    small = np.zeros((24 // scale, 32 // scale), np.float32)
    small[6 // scale : 16 // scale, 8 // scale : 20 // scale] = 1
    if scale == 1:
        matrix = np.array([[1, 0, shift], [0, 1, shift / 2]], np.float32)
        values = cv2.warpAffine(small, matrix, (32, 24))
    else:
        values = cv2.resize(small, (32, 24), interpolation=cv2.INTER_LINEAR)
    return np.round(low + values * (high - low)).astype(np.uint8)


def shades() -> tuple[np.ndarray, ...]:
    """Indices of a soft red object, black the first of its colours."""
    values, indices = np.unique(cv2.GaussianBlur(WHITE, (0, 0), 0.7), return_inverse=True)
    return indices.reshape(ONE.shape), *((int(v), 0, 0) for v in values)


PHOTO = np.random.default_rng(0).integers(0, 256, (*ONE.shape, 3), dtype=np.uint8)
RED, GREEN, BLACK, PURE_RED = (128, 0, 0), (0, 128, 0), (0, 0, 0), (255, 0, 0)
TURNED = np.array([2, 1, 0], np.uint8)[TWO]
"""Index 2 is the background, 1 and 0 are the objects."""
VOID = ONE.copy()
VOID[2:4, 2:4], VOID[20:] = 7, 255


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (layers(0, 0, 0, WHITE), ONE),
        (layers(255, 255, 255, WHITE), ONE),
        (layers(255, WHITE), ONE),
        (layers(0, soft(shift=0)), ONE),
        (layers(WHITE, WHITE, WHITE, WHITE), ONE),
        (layers(WHITE, WHITE, WHITE, 255), ONE),
        (layers(WHITE, WHITE, WHITE), ONE),
        (np.concatenate([davis_palette()[TWO], WHITE[..., None] | np.uint8(255) * (TWO > 0)[..., None]], 2), TWO),
        (indexed(TURNED, GREEN, RED, BLACK), TWO),
        (indexed(TWO, BLACK, GREEN, RED), np.array([0, 2, 1])[TWO]),
        (indexed(TWO, BLACK, PURE_RED, (0, 255, 0)), TWO),
        (indexed(TWO, BLACK, (80, 80, 80), (255, 255, 255)), TWO),
        (indexed(1 - ONE, (255, 255, 255), BLACK), ONE),
        (indexed(ONE * 255, *[BLACK] * 255, (255, 255, 255)), ONE),
        (indexed(TWO, BLACK, BLACK, BLACK), TWO),
        (indexed(TWO, BLACK, RED, RED), TWO),
        (np.array([0, 85, 255], np.uint8)[TWO], np.array([0, 85, 255])[TWO]),
        (np.array([0, 1, 255], np.uint8)[TWO], np.array([0, 1, 255])[TWO]),
        (VOID, VOID),  # a tiny object beside the void
        (TWO, TWO),
        (TWO.astype(np.uint16), TWO),
        (Image.fromarray(WHITE).convert("1"), ONE),
        (ONE.astype(np.uint16) * 65535, ONE),
        (np.full_like(ONE, 255), np.ones_like(ONE)),
        (indexed(WHITE, *[(i, i, i) for i in range(256)]), ONE),
        (davis_palette()[VOID], VOID),
    ],
)
def test_objects_that_can_be_told(tmp_path, picture, expected):
    np.testing.assert_array_equal(read_label_map(save(tmp_path / "a.png", picture)), expected)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (indexed(TURNED, (0, 255, 0), PURE_RED, BLACK), "black is index 2, so its background cannot be told"),
        (indexed(ONE, BLACK, BLACK, RED), "black is index 1"),
        (indexed(TURNED, (0, 255, 0), PURE_RED, (255, 255, 255)), "index 0 is not black"),
        (Image.fromarray(PHOTO).convert("P"), "colours that fill no areas"),
        (indexed(*shades()), "colours that fill no areas"),
        (layers(TWO * np.uint8(100), 0, 0), "RGB picture with 3 colours, 2 of them not"),
        (layers(255 - WHITE, 255 - WHITE, 255 - WHITE, WHITE), "its colours show objects where it is transparent"),
        (np.array([100, 180, 255], np.uint8)[TWO], "none of them dark"),
        (
            layers(0, 0, 0, np.uint8(8) * np.tile(np.arange(32, dtype=np.uint8), (24, 1))),
            "its transparency is not that",
        ),
        (np.random.default_rng(0).integers(0, 200, ONE.shape, dtype=np.uint8), "grey levels"),
        (np.arange(256, dtype=np.uint8).reshape(16, 16), "256 grey levels.*threshold"),
        (TWO.astype(np.uint16) * 150, "from 0 to 300"),
        (PHOTO, r"is an RGB picture with \d+ colours.*indexed PNG"),
        (np.where(TWO == 2, np.uint8(120), soft()), "grey levels, so it looks like a black and white mask with soft"),
    ],
)
def test_objects_that_cannot_be_told(tmp_path, picture, words):
    with pytest.raises(InputError, match=words) as caught:
        read_mask(save(tmp_path / "a.png", picture))
    assert str(caught.value).startswith(f"{tmp_path / 'a.png'}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["grey", "rgb", "indexed", "16 bits"])
@pytest.mark.parametrize(
    "values",
    [
        *[soft(), soft(2), soft(4), soft(high=254), soft(2, high=235), soft(2, low=16, high=235)],
        *[np.where(ONE > 0, np.uint8(235), np.uint8(16)), cv2.GaussianBlur(WHITE, (0, 0), 1)],
    ],
)
def test_soft_masks_are_one_object(tmp_path, values, form):
    levels, indices = np.unique(values, return_inverse=True)
    picture = {
        "grey": values,
        "rgb": layers(values, values, values),
        "indexed": indexed(indices.reshape(values.shape), *[(v, v, v) for v in levels.tolist()]),
        "16 bits": values.astype(np.uint16) * 257,
    }[form]
    mask = read_mask(save(tmp_path / "a.png", picture))
    low, high = int(values.min()), int(values.max())
    np.testing.assert_array_equal(mask.labels, values > (low + high) / 2)
    assert mask.white and "taken for one object" in mask.soft
    with pytest.raises(InputError, match=r"a\.png: has \d+ grey levels .*soft edges; threshold it"):
        read_label_map(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["bmp", "tif", "gif", "webp", "ppm"])
def test_other_formats(tmp_path, suffix):
    with pytest.raises(InputError, match="is a JPEG"):
        read_label_map(save(tmp_path / "a.jpg", WHITE))
    path = save(tmp_path / f"a.{suffix}", WHITE, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(read_label_map(path), ONE)


def test_black_and_white_among_ids(tmp_path):
    pictures = {"ids": np.array([0, 85, 255], np.uint8)[TWO], "one": ONE, "two": TWO, "white": WHITE, "black": 0 * ONE}
    ids, one, two, white, black = (save(tmp_path / f"{name}.png", p) for name, p in pictures.items())

    def read(*others: Path) -> tuple[list[int], str]:
        maps = LabelMaps([white, black, *others])
        assert not maps.read(black).any()
        return np.unique(maps.read(white)).tolist(), maps.notes.get(white, "")

    assert read() == ([0, 1], "")
    assert read(one)[0] == [0, 1]
    assert read(two, ids) == ([0, 255], f"{white}: is black and white; white is object 255, as in {ids}")
    with pytest.raises(InputError, match=r"white\.png: is black and white, and .*two\.png holds ids"):
        read(two)
