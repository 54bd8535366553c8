# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
import json

import numpy as np
import pytest
import strategies
import torch
from commands import command, error_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segment_cases import (
    COUNT,
    FIRST,
    FRAMES,
    HEIGHT,
    VIDEO,
    WIDTH,
    checkpoint,
    clip,
    complaint,
    film,
    first,
    labels_in,
    run,
)
from torch import nn

from experiments.common import checkpoints
from experiments.segment import run as segment_run
from experiments.segment.given.shapes import read_boxes, read_points
from stg_pyg.errors import InputError
from stg_pyg.learning import lesson as online
from stg_pyg.nn.backbones.segmentation import SegmentationOutput
from stg_pyg.utils.images import write_label_map

PLACES = st.floats(-900_000, 900_000)
SIDES = st.floats(1, 900)
PROPERTY = settings(strategies.some, suppress_health_check=[HealthCheck.function_scoped_fixture])


class CopyQ(nn.Module):
    """A segmentation network that believes in the rough mask, and in that of a middling size the most."""

    def __init__(self, width=0):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images, q):
        logits = 20 * (q - 0.5) + self.weight
        return SegmentationOutput(logits, torch.zeros(len(q)))


@pytest.fixture
def copying(monkeypatch):
    """The network of the checkpoint replaced by one that repeats Q."""
    load = checkpoints.load_model

    def loaded(path):
        model, preset = load(path)
        model.segmentation = CopyQ()
        return model, preset

    monkeypatch.setattr(checkpoints, "load_model", loaded)


@pytest.fixture
def shaped(run, monkeypatch, tmp_path, clip, checkpoint):
    """Runs the command with shapes in the place of masks."""

    def call(*arguments: object, out: str = "out", status: int = 0):
        where = ("--checkpoint", checkpoint, "--device", "cpu", "--out", tmp_path / out)
        assert command(monkeypatch, "segment", clip, *where, *arguments) == status
        return tmp_path / out / "clip"

    return call


def test_boxes_become_masks(shaped, copying, capsys, tmp_path):
    (tmp_path / "boxes.json").write_text('{"7": [4, 6, 24, 30], "2": [30.0, 8.0, 60.0, 44.0]}')
    labels = labels_in(shaped("--boxes", tmp_path / "boxes.json"))[FRAMES[0]]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[6:30, 4:24], expected[8:44, 30:60] = 7, 2
    assert (labels != expected).mean() < 0.03 and set(np.unique(labels)) == {0, 2, 7}
    assert not labels[expected == 0].any(), "nothing outside of the boxes"
    printed = capsys.readouterr().out
    assert "2 objects (2, 7) given in frame 00000" in printed
    assert "made from boxes; a mask that somebody drew does better" in printed


def test_boxes_and_points_at_another_size(shaped, copying, capsys, tmp_path):
    (tmp_path / "boxes.txt").write_text("# id x0 y0 x1 y1\n1, 4, 6, 24, 30\n\n")
    (tmp_path / "points.txt").write_text("5 45 25\n5 47.5 27\n")
    shapes = ("--boxes", tmp_path / "boxes.txt", "--points", tmp_path / "points.txt")
    found = labels_in(shaped(*shapes, "--max-size", 40))
    assert {1, 5} <= set(np.unique(found[FRAMES[0]])) and found[FRAMES[0]][25, 45] == 5
    assert list(found) == FRAMES and "made from boxes and points" in capsys.readouterr().out


def test_the_network_learns_from_the_mask_that_it_made(shaped, copying, monkeypatch, tmp_path):
    seen = {}

    def learning(net, images, labels, *_, **__):
        seen.update(labels=labels)
        return net

    monkeypatch.setattr(online, "learn_online", learning)
    (tmp_path / "boxes.json").write_text('{"7": [4, 6, 24, 30]}')
    labels = labels_in(shaped("--boxes", tmp_path / "boxes.json", "--online"))[FRAMES[0]]
    np.testing.assert_array_equal(seen["labels"], [labels])


def test_shapes_are_refused(shaped, capsys, monkeypatch, tmp_path, clip, first):
    boxes, points = tmp_path / "boxes.json", tmp_path / "points.json"
    boxes.write_text('{"1": [4, 6, 24, 30]}')
    points.write_text('{"1": [40, 20]}')

    def line(*arguments):
        shaped(*arguments, out="refused", status=2)
        assert not (tmp_path / "refused").exists()
        return error_line(capsys)

    assert "give --masks, --boxes or --points" in line()
    assert "--masks excludes --boxes" in line("--masks", first, "--boxes", boxes)
    assert "object 1 has a box in" in line("--boxes", boxes, "--points", points)
    assert str(tmp_path / "none.json") in line("--boxes", tmp_path / "none.json")
    boxes.write_text(f'{{"3": [{WIDTH}, 6, {WIDTH + 9}, 30]}}')
    assert "object 3 lies outside of the frame, which is 64 x 48 pixels" in line("--boxes", boxes)
    points.write_text('{"3": [[4, 4], [4, -3]]}')
    assert "object 3 lies outside" in line("--points", points)
    points.write_text('{"3": [[4, 4]]}')
    arguments = (clip, "--points", points, "--device", "cpu", "--out", tmp_path / "refused", "--checkpoint", "none")
    assert command(monkeypatch, "segment", *arguments) == 2
    assert "--points: needs a trained network" in error_line(capsys)


def test_shapes_where_nothing_is_found(shaped, copying, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(CopyQ, "forward", lambda self, x, q: SegmentationOutput(q * 0 - 9, q.mean(dim=(1, 2))))
    (tmp_path / "boxes.json").write_text('{"7": [4, 6, 24, 30]}')
    shaped("--boxes", tmp_path / "boxes.json", status=2)
    assert "nothing is found there of object 7; draw its mask" in error_line(capsys)


def test_forms(tmp_path):
    path = tmp_path / "shapes"
    path.write_text('\ufeff {"2": [1, 2, 3.5, 4], "11": [0, 0, 9, 9]}')
    assert read_boxes(path) == {2: [1, 2, 3.5, 4], 11: [0, 0, 9, 9]}
    path.write_text("2 1 2 3.5 4\r\n11,0,0,9,9 # behind the fence\n")
    assert read_boxes(path) == {2: [1, 2, 3.5, 4], 11: [0, 0, 9, 9]}
    path.write_text('{"2": [[1, 2], [3, 4]], "4": [5, 6]}')
    assert read_points(path) == {2: [[1, 2], [3, 4]], 4: [[5, 6]]}
    path.write_text("2 1 2\n4 5 6\n2 3 4\n")
    assert read_points(path) == {2: [[1, 2], [3, 4]], 4: [[5, 6]]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing",
        "{}",
        "[[1, 2, 3, 4]]",
        '{"1": [1, 2, 3]}',
        '{"1": [1, 2, 3, 4], "1": [5, 6, 7, 8]}',
        '{"1": [1, 2, 3, null]}',
        '{"1": [1, 2, 3, "4"]}',
        '{"1": [1, 2, 3, true]}',
        '{"1": [1, 2, 3, NaN]}',
        '{"1": [1, 2, 3, 1e999]}',
        '{"1": [1, 2, 3, ' + "9" * 400 + "]}",
        '{"1": [3, 2, 1, 4]}',
        '{"1": [1, 2, 1, 4]}',
        '{"0": [1, 2, 3, 4]}',
        '{"256": [1, 2, 3, 4]}',
        '{"dog": [1, 2, 3, 4]}',
        '{"1": {"x": 1}}',
        '{"1": [1, 2, 3, 4]',
        "1 2 3 4",
        "1 2 3 4 5\n1 2 3 4 5",
        "1 2 3 four 5",
        "1 2 3 nan 5",
        "-1 2 3 4 5",
        "[" * 100_000,
    ],
)
def test_broken_boxes(tmp_path, text):
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_boxes(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and "x0 y0 x1 y1" in message and len(message) < 600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"1": []}',
        '{"1": 5}',
        '{"1": [[1, 2], 3]}',
        '{"1": [1, 2], "1": [3, 4]}',
        '{"1": [[1]]}',
        "1 2",
        "\0",
    ],
)
def test_broken_points(tmp_path, text):
    path = tmp_path / "points.txt"
    path.write_text(text)
    with pytest.raises(InputError, match="id x y"):
        read_points(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_boxes(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_boxes(tmp_path)
    (tmp_path / "boxes.json").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="is no text"):
        read_boxes(tmp_path / "boxes.json")


@PROPERTY
@given(content=st.binary(max_size=60) | st.text(alphabet='{}[]":,.0123456789eE-+ \n#', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, content):
    path = tmp_path / "any"
    path.write_bytes(content)
    for read in (read_boxes, read_points):
        try:
            shapes = read(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert shapes and all(1 <= obj_id <= 255 for obj_id in shapes)
            flat = np.array([n for shape in shapes.values() for n in np.ravel(shape)])
            assert np.isfinite(flat).all()


@PROPERTY
@given(st.dictionaries(st.integers(1, 255), st.tuples(PLACES, PLACES, SIDES, SIDES), min_size=1))
def test_what_is_written_is_read(tmp_path, shapes):
    boxes = {i: [x, y, x + w, y + h] for i, (x, y, w, h) in shapes.items()}
    as_json, as_text = tmp_path / "boxes.json", tmp_path / "boxes.txt"
    as_json.write_text(json.dumps(boxes))
    as_text.write_text("".join(f"{i} {' '.join(map(repr, box))}\n" for i, box in boxes.items()))
    assert read_boxes(as_json) == read_boxes(as_text) == boxes
    as_json.write_text(json.dumps({i: [box[:2], box[2:]] for i, box in boxes.items()}))
    assert read_points(as_json) == {i: [box[:2], box[2:]] for i, box in boxes.items()}


def test_several_given_frames_are_learned(run, monkeypatch, tmp_path, clip):
    seen = {}
    monkeypatch.setattr(segment_run, "MOST_LEARNT", 3)

    def learning(net, images, labels, config, **arguments):
        seen.update(images=images, labels=labels, **arguments)
        return net

    monkeypatch.setattr(online, "learn_online", learning)
    for t in (0, 1, 3, 4):
        write_label_map(tmp_path / "masks" / f"{FRAMES[t]}.png", VIDEO.labels(t))
    run(clip, tmp_path / "masks", "--online")
    assert seen["steps"] == 150, "the checkpoint itself says none"
    np.testing.assert_array_equal(seen["labels"], [VIDEO.labels(t) for t in (0, 1, 3)])
    np.testing.assert_array_equal(seen["images"], [VIDEO.image(t) for t in (0, 1, 3)])
    monkeypatch.setattr(segment_run, "MOST_LEARNT", 24)
    run(clip, tmp_path / "masks", "--online", "--online-steps", 3, out="all")
    assert seen["steps"] == 3 and len(seen["labels"]) == 4
