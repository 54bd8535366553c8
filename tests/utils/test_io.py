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


def test_the_palette_of_davis_and_the_order_of_names():
    names = ["f10", "f2", "f1b", "f1", "10", "9", "a"]
    assert sorted(names, key=io.natural_sort_key) == ["9", "10", "a", "f1", "f1b", "f2", "f10"]
    expected = {0: (0, 0, 0), 1: (128, 0, 0), 3: (128, 128, 0), 8: (64, 0, 0), 21: (128, 64, 128), 255: (224, 224, 192)}
    assert {i: tuple(io.davis_palette()[i].tolist()) for i in expected} == expected
    assert len(np.unique(io.davis_palette(), axis=0)) == 256


@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool, torch.tensor])
def test_label_map_round_trip(tmp_path, labels, kind):
    path = tmp_path / "new" / "folder" / "00000.png"
    labels = labels.astype(bool) if kind is bool else labels
    io.write_label_map(path, kind(labels) if kind is torch.tensor else labels.astype(kind))
    np.testing.assert_array_equal(io.read_label_map(path), labels)
    image = Image.open(path)
    assert image.mode == "P" and image.size == (16, 12)
    np.testing.assert_array_equal(np.array(image.getpalette()).reshape(-1, 3), io.davis_palette())
    assert [p.name for p in path.parent.iterdir()] == ["00000.png"]


@pytest.mark.parametrize("bad", [np.full((2, 2), 256), np.full((2, 2), -1), np.zeros((2, 2, 1), int), np.ones((2, 2))])
def test_label_map_that_no_png_holds(tmp_path, bad):
    with pytest.raises(ValueError):
        io.write_label_map(tmp_path / "a.png", bad)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("read", [io.read_image, io.read_label_map])
def test_files_that_cannot_be_read(tmp_path, read):
    whole = save(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    content = whole.read_bytes()
    broken = "(cut short|not a picture)"
    for held, message in (
        (None, "no such file"),
        (b"hello", "is not a picture"),
        (b"", "is not a picture"),
        (content[:40], broken),
        (content[: len(content) // 2], broken),
        (content[:300] + bytes(200) + content[500:], broken),
    ):
        if held is not None:
            (tmp_path / "a.png").write_bytes(held)
        with pytest.raises(InputError, match=rf"a\.png: .*{message}"):
            read(tmp_path / "a.png")
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)


def test_images_of_all_kinds(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    io.write_image(tmp_path / "a.png", rgb)
    np.testing.assert_array_equal(io.read_image(tmp_path / "a.png"), rgb)
    np.testing.assert_array_equal(io.read_image(save(tmp_path / "b.png", rgb, "RGBA")), rgb)
    for grey in (rgb[..., 0], rgb[..., 0].astype(np.uint16) * 257):
        np.testing.assert_array_equal(io.read_image(save(tmp_path / "c.png", grey)), np.repeat(rgb[..., :1], 3, 2))
    io.write_image(tmp_path / "e.jpg", np.full((16, 16, 3), (200, 20, 20), np.uint8))
    assert Image.open(tmp_path / "e.jpg").format == "JPEG"
    assert abs(io.read_image(tmp_path / "e.jpg").astype(int) - (200, 20, 20)).max() < 5
    with pytest.raises(ValueError, match="uint8"):
        io.write_image(tmp_path / "f.png", rgb / 255)


def test_json(tmp_path):
    odd = os.fsdecode(b"caf\xe9")  # a name of a file that is no text
    obj = {1: np.float32(0.5), "a": [np.arange(2), torch.tensor(3.0)], "p": Path(odd), "n": np.nan, "é": (True, None)}
    expected = {"1": 0.5, "a": [[0, 1], 3.0], "p": odd, "n": None, "é": [True, None]}
    io.write_json(tmp_path / "m.json", obj)
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8")) == expected
    with pytest.raises(TypeError):
        io.write_json(tmp_path / "m.json", {"f": print})
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8")) == expected


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
    assert result.dtype == np.uint8 and (image == 100).all()
    np.testing.assert_array_equal(result[0, 0], [100, 100, 100])
    np.testing.assert_array_equal(result[8, 12], [114, 114, 50])
    np.testing.assert_array_equal(result[5, 9], io.davis_palette()[3])
    np.testing.assert_array_equal(io.overlay(image, labels * 0), image)
    with pytest.raises(ValueError, match="equal"):
        io.overlay(image, labels[1:])
