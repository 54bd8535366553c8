"""Whatever bytes a picture, a mask or a file of a command holds, its reader gives what it holds or one line."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from strategies import anything, damaged, few, nearly, parses, some, to_json

from experiments.common import checkpoints
from experiments.runs.store import Records
from experiments.segment.given.masks import GivenMasks
from experiments.segment.resume import SavedRun, Stand
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.utils.images import read_image, read_label_map, write_image, write_label_map
from stg_pyg.video.frames import open_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parsers")


# Pictures and label maps.


def picture(kind: str) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    options: dict[str, Any] = {}
    if kind == "palette":
        image = Image.fromarray(rng.integers(0, 4, (12, 16), dtype=np.uint8))
        image.putpalette(bytes(range(256)) * 3)
    elif kind == "sixteen bits":
        image = Image.fromarray(rng.integers(0, 300, (12, 16), dtype=np.uint16))
    elif kind == "turned":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format={"jpeg": "JPEG", "turned": "WEBP", "bitmap": "BMP"}.get(kind, "PNG"), **options)
    return buffer.getvalue()


PICTURES = [picture(kind) for kind in ("jpeg", "turned", "colours", "palette", "sixteen bits", "bitmap")]
BROKEN_CAMERA_NOTE = PICTURES[1].replace(b"MM\0*", b"MM\0\xff")


@some
@given(st.sampled_from(PICTURES).flatmap(damaged) | st.binary(max_size=40))
@example(BROKEN_CAMERA_NOTE)
@example(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
def test_pictures_and_label_maps(folder, content):
    (folder / "x.png").write_bytes(content)
    image, labels = parses(read_image, folder / "x.png"), parses(read_label_map, folder / "x.png")
    assert image is None or (image.ndim, image.shape[2], image.dtype) == (3, 3, np.uint8)
    assert labels is None or (labels.ndim, labels.dtype) == (2, np.uint8)


def test_a_broken_camera_note_does_not_spoil_the_picture(folder):
    assert PICTURES[1] != BROKEN_CAMERA_NOTE
    for content, shape in ((PICTURES[1], (16, 12, 3)), (BROKEN_CAMERA_NOTE, (12, 16, 3))):
        (folder / "note.webp").write_bytes(content)
        assert read_image(folder / "note.webp").shape == shape


@few
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_label_maps_round_trip(folder, height, width, data):
    count = height * width
    ids = data.draw(st.lists(st.integers(0, 255), min_size=count, max_size=count))
    labels = np.array(ids, np.uint8).reshape(height, width)
    write_label_map(folder / "round.png", labels)
    np.testing.assert_array_equal(read_label_map(folder / "round.png"), labels)


@few
@given(st.sampled_from(PICTURES[2:5]).flatmap(damaged), st.sampled_from(["0.png", "1.png", "object.png"]))
def test_given_masks(tmp_path_factory, content, name):
    frames, masks = tmp_path_factory.mktemp("frames"), tmp_path_factory.mktemp("masks")
    for t in range(2):
        write_image(frames / f"{t}.png", np.zeros((12, 16, 3), np.uint8))
    (masks / name).write_bytes(content)
    given_masks = parses(GivenMasks, masks, open_source(frames))
    if given_masks is not None:
        assert all(1 <= i <= 255 for i in given_masks.object_ids)
        assert all(given_masks.at(frame).any() for frame in given_masks.frames)


# What commands write themselves.

STATE = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}


@few
@given(st.data())
def test_checkpoints(folder, data):
    path, net = folder / "graph.pt", torch.nn.Linear(3, 2)
    checkpoints.save(path, {"kind": "graph", "clip": 3, "graph": STATE})
    path.write_bytes(data.draw(damaged(path.read_bytes()) | st.binary(max_size=40)))
    content = parses(checkpoints.load, path, "graph")
    if content is not None:
        parses(lambda: checkpoints.load_weights(net, content["graph"], path))


@few
@given(st.sampled_from(["preset", "config", "model", "kind", "format"]), anything, st.booleans())
def test_checkpoints_of_something_else(folder, name, value, missing):
    path = folder / "checkpoint.pt"
    content = {"kind": "model", "preset": "synthetic-small", "config": {}, "model": STATE, name: value}
    if missing:
        del content[name]
    checkpoints.save(path, content)
    with pytest.raises(InputError) as error:
        checkpoints.load_model(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@some
@given(nearly(STGConfig.small().to_dict()))
def test_configurations(values):
    config = parses(STGConfig.from_dict, values) if isinstance(values, dict) else None
    assert config is None or STGConfig.from_dict(config.to_dict()) == config


@few
@given(st.data())
def test_the_state_of_a_killed_run(tmp_path_factory, data):
    saved = SavedRun(tmp_path_factory.mktemp("run"), {"video": "a"})
    saved.save_stand(Stand(position=3, scores={1: [0.5, None]}))
    path = saved.folder / "stream.pt"
    path.write_bytes(data.draw(damaged(path.read_bytes()) | st.binary(max_size=40)))
    assert isinstance(saved.load_stand(), Stand), "it counts as none where it cannot be read"


@some
@given(
    st.binary(max_size=40) | anything.map(to_json) | nearly({"settings": {"a": 1}, "result": {"b": [1]}}).map(to_json)
)
def test_records_of_finished_videos(folder, content):
    (folder / "car.json").write_bytes(content)
    found = Records(folder, {"a": 1}).load("car")
    assert found is None or isinstance(found, dict)
