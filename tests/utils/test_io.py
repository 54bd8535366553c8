import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stg_pyg.errors import InputError
from stg_pyg.utils import images as io


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.zeros((12, 16), np.uint8)
    labels[2:6, 2:8], labels[5:11, 9:15] = 1, 3
    return labels


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def test_palette_is_the_one_of_davis():
    palette = io.davis_palette()
    assert palette.shape == (256, 3) and palette.dtype == np.uint8
    expected = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        8: (64, 0, 0),
        21: (128, 64, 128),
        255: (224, 224, 192),
    }
    assert {i: tuple(palette[i].tolist()) for i in expected} == expected
    assert len(np.unique(palette, axis=0)) == 256


def test_natural_sort_key():
    names = ["f10", "f2", "f1b", "f1", "10", "9", "a"]
    assert sorted(names, key=io.natural_sort_key) == ["9", "10", "a", "f1", "f1b", "f2", "f10"]


def test_label_map_round_trip(tmp_path, labels):
    path = tmp_path / "new" / "folder" / "00000.png"
    labels[0, 0] = 255
    io.write_label_map(path, labels)
    np.testing.assert_array_equal(io.read_label_map(path), labels)
    image = Image.open(path)
    assert image.mode == "P" and image.size == (16, 12)
    np.testing.assert_array_equal(np.array(image.getpalette()).reshape(-1, 3), io.davis_palette())
    assert [p.name for p in path.parent.iterdir()] == ["00000.png"]


@pytest.mark.parametrize("kind", [np.int64, np.int32, bool])
def test_label_map_of_other_types(tmp_path, labels, kind):
    io.write_label_map(tmp_path / "a.png", labels.astype(kind))
    np.testing.assert_array_equal(io.read_label_map(tmp_path / "a.png"), labels.astype(kind).astype(np.uint8))
    io.write_label_map(tmp_path / "a.png", torch.from_numpy(labels.astype(kind)))
    np.testing.assert_array_equal(io.read_label_map(tmp_path / "a.png"), labels.astype(kind).astype(np.uint8))


@pytest.mark.parametrize(
    "bad", [np.full((2, 2), 256), np.full((2, 2), -1), np.zeros((2, 2, 1), np.uint8), np.ones((2, 2))]
)
def test_label_map_that_no_png_holds(tmp_path, bad):
    with pytest.raises(ValueError):
        io.write_label_map(tmp_path / "a.png", bad)
    assert not list(tmp_path.iterdir())


def test_grey_and_binary_masks(tmp_path, labels):
    np.testing.assert_array_equal(io.read_label_map(save(tmp_path / "ids.png", labels)), labels)
    object_one = (labels > 0).astype(np.uint8)
    for mode in ("L", "1", "LA"):
        path = save(tmp_path / f"{mode}.png", 255 * object_one, mode)
        np.testing.assert_array_equal(io.read_label_map(path), object_one)
    full = save(tmp_path / "full.png", np.full((3, 3), 255, np.uint8))
    np.testing.assert_array_equal(io.read_label_map(full), np.ones((3, 3)))
    empty = save(tmp_path / "empty.png", np.zeros((3, 3), np.uint8))
    np.testing.assert_array_equal(io.read_label_map(empty), np.zeros((3, 3)))
    void = np.where(labels == 3, 255, labels).astype(np.uint8)  # 255 beside ids stays an id
    np.testing.assert_array_equal(io.read_label_map(save(tmp_path / "void.png", void)), void)
    wide = save(tmp_path / "wide.png", labels.astype(np.uint16))
    np.testing.assert_array_equal(io.read_label_map(wide), labels)
    np.testing.assert_array_equal(
        io.read_label_map(save(tmp_path / "b.png", object_one.astype(np.uint16) * 65535)), object_one
    )


def test_palettes_of_other_tools(tmp_path, labels):
    few = Image.fromarray(labels)
    few.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    few.save(tmp_path / "few.png", bits=2)
    np.testing.assert_array_equal(io.read_label_map(tmp_path / "few.png"), labels)
    grey = Image.fromarray((255 * (labels > 0)).astype(np.uint8))
    grey.putpalette([v for i in range(256) for v in (i, i, i)])
    grey.save(tmp_path / "grey.png")
    np.testing.assert_array_equal(io.read_label_map(tmp_path / "grey.png"), labels > 0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_rgb_masks(tmp_path, labels, mode):
    labels[0, :3] = 255, 254, 77
    path = save(tmp_path / "davis.png", io.davis_palette()[labels], mode)
    np.testing.assert_array_equal(io.read_label_map(path), labels)
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    noise[0] = 0
    path = save(tmp_path / "photo.png", noise, mode)
    with pytest.raises(InputError, match=r"photo\.png: is an RGB picture with \d+ colours.*indexed PNG") as error:
        io.read_label_map(path)
    assert "\n" not in str(error.value)
    white = save(tmp_path / "white.png", np.repeat(255 * (labels > 0).astype(np.uint8)[..., None], 3, 2), mode)
    np.testing.assert_array_equal(io.read_label_map(white), labels > 0)


def test_masks_whose_ids_cannot_be_told(tmp_path, labels):
    ramp = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
    with pytest.raises(InputError, match=r"256 grey levels.*threshold"):
        io.read_label_map(save(tmp_path / "soft.png", ramp))
    with pytest.raises(InputError, match="is a JPEG"):
        io.read_label_map(save(tmp_path / "mask.jpg", labels))
    with pytest.raises(InputError, match="from 0 to 300"):
        io.read_label_map(save(tmp_path / "large.png", labels.astype(np.uint16) * 100))


@pytest.mark.parametrize("read", [io.read_image, io.read_label_map])
def test_files_that_cannot_be_read(tmp_path, labels, read):
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        read(tmp_path / "gone.png")
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(InputError, match=r"text\.png: is not a picture"):
        read(tmp_path / "text.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=r"empty\.png: is not a picture"):
        read(tmp_path / "empty.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    whole = save(tmp_path / "whole.png", noise).read_bytes()
    for length in (40, 60, len(whole) // 2):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.png: .*(cut short|not a picture)"):
            read(tmp_path / "cut.png")
    (tmp_path / "broken.png").write_bytes(whole[:300] + bytes(200) + whole[500:])
    with pytest.raises(InputError, match=r"broken\.png"):
        read(tmp_path / "broken.png")


def test_images_of_all_kinds(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    io.write_image(tmp_path / "a.png", rgb)
    np.testing.assert_array_equal(io.read_image(tmp_path / "a.png"), rgb)
    np.testing.assert_array_equal(io.read_image(save(tmp_path / "b.png", rgb, "RGBA")), rgb)
    grey = save(tmp_path / "c.png", rgb[..., 0])
    np.testing.assert_array_equal(io.read_image(grey), np.repeat(rgb[..., :1], 3, 2))
    deep = save(tmp_path / "d.png", rgb[..., 0].astype(np.uint16) * 257)
    np.testing.assert_array_equal(io.read_image(deep), np.repeat(rgb[..., :1], 3, 2))
    io.write_image(tmp_path / "e.jpg", np.full((16, 16, 3), (200, 20, 20), np.uint8))
    assert Image.open(tmp_path / "e.jpg").format == "JPEG"
    assert abs(io.read_image(tmp_path / "e.jpg").astype(int) - (200, 20, 20)).max() < 5
    with pytest.raises(ValueError, match="uint8"):
        io.write_image(tmp_path / "f.png", rgb / 255)


def test_camera_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 9, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert io.read_image(tmp_path / "a.jpg").shape == (9, 4, 3)


def test_json(tmp_path):
    obj = {
        1: np.float32(0.5),
        "a": [np.arange(2), torch.tensor(3.0)],
        "p": Path("x"),
        "n": float("nan"),
        "é": (True, None),
    }
    io.write_json(tmp_path / "m.json", obj)
    expected = {"1": 0.5, "a": [[0, 1], 3.0], "p": "x", "n": None, "é": [True, None]}
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8")) == expected
    with pytest.raises(TypeError):
        io.write_json(tmp_path / "m.json", {"f": print})
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8")) == expected


def test_json_with_names_of_files_that_are_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    io.write_json(tmp_path / "m.json", {"é": Path(name)})
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8")) == {"é": name}


def test_failed_writes_keep_the_old_file(tmp_path, monkeypatch, labels):
    path = tmp_path / "a.png"
    io.write_label_map(path, labels)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.os, "replace", fail)
    with pytest.raises(InputError, match=r"a\.png: cannot be written \(No space left"):
        io.write_label_map(path, labels * 0)
    monkeypatch.undo()
    np.testing.assert_array_equal(io.read_label_map(path), labels)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(InputError, match="cannot be written"):
        io.write_json(path / "below_a_file.json", {})


def test_overlay(labels):
    image = np.full((12, 16, 3), 100, np.uint8)
    result = io.overlay(image, labels, alpha=0.5)
    assert result.dtype == np.uint8
    assert (image == 100).all()
    np.testing.assert_array_equal(result[0, 0], [100, 100, 100])
    np.testing.assert_array_equal(result[8, 12], [114, 114, 50])
    np.testing.assert_array_equal(result[5, 9], io.davis_palette()[3])
    np.testing.assert_array_equal(io.overlay(image, labels * 0), image)
    with pytest.raises(ValueError, match="equal"):
        io.overlay(image, labels[1:])
