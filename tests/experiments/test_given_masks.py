# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
"""Which masks, boxes and points are read of what somebody gives, and for which frames."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import strategies
import torch
from commands import error_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from segment_cases import FIRST, FRAMES, HEIGHT, WIDTH, checkpoint, clip, labels_in, run
from torch import nn

from experiments.common import checkpoints
from experiments.segment.given.masks import GivenMasks
from experiments.segment.given.names import frames_of_masks
from experiments.segment.given.shapes import GivenShapes, read_shapes
from stg_pyg.errors import InputError
from stg_pyg.nn.backbones.segmentation import SegmentationOutput
from stg_pyg.utils.images import write_label_map
from stg_pyg.video.frames import PictureFolder, open_source

MASK = np.zeros((24, 32), np.uint8)
MASK[6:16, 8:20] = 255
COUNT = 8


def names_alone(names: list[str]) -> SimpleNamespace:
    """A video of which only the names of the frames are known."""
    position = {name: t for t, name in enumerate(names)}.get
    return SimpleNamespace(path="video", position=position, count=lambda: len(names), frame_name=names.__getitem__)


FIVE = names_alone([f"{t:05d}" for t in range(COUNT)])
FROM_ONE = names_alone([f"frame_{t:04d}" for t in range(1, COUNT)])
SHORT = names_alone([str(t) for t in range(COUNT)])


@pytest.mark.parametrize(
    ("source", "names", "found"),
    [
        (FIVE, "00000 00005", [0, 5]),
        (FIVE, "000000 000001", [0, 1]),
        (FIVE, "00000_mask 00005_mask", [0, 5]),
        (FIVE, "mask00003", [3]),
        (FIVE, "clip2_00003_v1 clip2_00005_v1", [3, 5]),
        (FIVE, "00000 00005_mask", [0, 5]),
        (FIVE, "0 5", [0, 5]),
        (FIVE, "frame0 frame5", [0, 5]),
        (FIVE, "mask0", [0]),
        (FROM_ONE, "0001 0003", [0, 2]),
        (FROM_ONE, "1 4", [0, 3]),
        (SHORT, "0 3", [0, 3]),
        (FIVE, "dog cat", None),
        (FIVE, "obj1 obj2", None),
        (FIVE, "obj2 obj10 obj11", None),
        (FIVE, "obj1", None),
        (FIVE, "obj0 obj1", "may be number 0 of the frames of video or of the objects"),
        (FIVE, "obj3 obj7", "may be number 3 of the frames"),
        (FIVE, "mask5", "may be number 5"),
        (FROM_ONE, "obj1 obj2", "may be number 1 of the frames"),
        (FIVE, "00000 other", "no frame of video is named other"),
        (FIVE, "00000 obj5", "no frame of video is named obj5"),
        (FIVE, "000000 000099", "no frame of video is named 000099"),
        (FIVE, "00000_a 00000_b", "00000_b.png: is of frame 00000 as 00000_a.png is"),
    ],
)
def test_frames_by_names_and_numbers(source, names, found):
    files = [Path(f"{name}.png") for name in names.split()]
    if isinstance(found, str):
        with pytest.raises(InputError, match=found):
            frames_of_masks(files, source)
    else:
        assert frames_of_masks(files, source) == dict(zip(files, found or [], strict=False))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    folder = tmp_path_factory.mktemp("video")
    for t in range(COUNT):
        Image.fromarray(np.full((*MASK.shape, 3), 9 * t, np.uint8)).save(folder / f"{t:05d}.png")
    return PictureFolder(folder)


@pytest.fixture
def save(tmp_path):
    """Saves pictures by names of files; returns their folder, or the file where there is one alone."""

    def call(masks: dict[str, np.ndarray], alone: bool = False) -> Path:
        folder = tmp_path / "masks"
        folder.mkdir(exist_ok=True)
        for name, values in masks.items():
            Image.fromarray(values).save(folder / (name if "." in name else f"{name}.png"))
        return folder / f"{name}.png" if alone else folder

    return call


def squares(*ids: int) -> np.ndarray:
    labels = np.zeros_like(MASK)
    for n, obj_id in enumerate(ids):
        labels[3 * n : 3 * n + 2, :20] = obj_id
    return labels


SOFT = np.where(np.arange(24)[:, None] == 6, MASK // 4, np.where(np.arange(32) == 8, MASK // 2, MASK)).astype(np.uint8)
NOTES = {
    "has 4 grey levels from 0 to 255; it is taken for one object, where it is over 127.5": SOFT,
    "objects cover all of frame 00000, where nothing is background (0)": np.full_like(MASK, 3),
    "of frame 00000; is the mask inverted?": np.where(np.arange(24)[:, None] < 2, 0, np.ones_like(MASK)),
}


@pytest.mark.parametrize("note", NOTES)
def test_what_is_told_of_one_mask(save, video, note):
    given = GivenMasks(save({"first": NOTES[note]}, alone=True), video)
    assert len(given.notes) == 1 and given.notes[0].endswith(note) and given.frames == ["00000"]
    assert note.startswith("objects") or int(given.at("00000").sum()) in (9 * 11, 22 * 32)


def test_label_maps_of_one_rule(save, tmp_path, video):
    labels = np.zeros_like(MASK)
    labels[:6, :6], labels[:6, 20:], labels[12:, 12:] = 85, 170, 255
    folder = save({"00000": labels, "00004.bmp": MASK})
    (folder / "notes.txt").write_text("x")
    given = GivenMasks(folder, video)
    assert given.object_ids == [85, 170, 255] and given.frames == ["00000", "00004"] and given.at("00003") is None
    np.testing.assert_array_equal(given.at("00004"), MASK)
    for words in ("00004.bmp: is black and white; white is object 255", "notes.txt among them", "255 is taken for an"):
        assert any(words in note for note in given.notes)


def test_one_file_an_object(save, video):
    one, two, three = squares(255), np.roll(squares(255), 1, axis=0), np.roll(squares(255), 9, axis=0)
    given = GivenMasks(save({"obj2": one, "obj10": two, "obj11": three}), video)
    labels = given.at("00000")
    assert (labels[two > 0] == 2).all(), "a later file is on top"
    assert (labels[(one > 0) & (two == 0)] == 1).all() and (labels[three > 0] == 3).all()
    assert given.notes[0] == "no mask is named as a frame: one object a file, from obj2.png (id 1) on"


LETTERS = "abcdefghijklmnop"
FIRST_OBJECT, NOTHING = {"00000": squares(1)}, np.zeros_like(MASK)
REFUSED = {
    "masks: has no masks": {"notes.txt": b""},
    "other.png: no frame of": FIRST_OBJECT | {"other": MASK},
    "00099.png: no frame of": FIRST_OBJECT | {"00099": MASK},
    "00000.png: is all background": {"00000": NOTHING, "00001": MASK},
    "all masks are background": {"00001": NOTHING},
    "b.png: has 2 objects": {"a": squares(1), "b": squares(1, 2)},
    "b.png: is all background, but no mask": {"a": squares(1), "b": NOTHING},
    "a.png: is hidden by the masks": {"a": squares(1), "b": np.full_like(MASK, 1)},
    "00000.png: has the name of 00000.bmp": FIRST_OBJECT | {"00000.bmp": MASK},
    "00005.jpg: is a JPEG": FIRST_OBJECT | {"00005.jpg": MASK},
    "00005.png: is a folder or a broken link": FIRST_OBJECT | {"00005.png": None},
    "00003.png: is 34 x 24 and the frames of": FIRST_OBJECT | {"00003": np.pad(MASK, ((0, 0), (1, 1)))},
    "00003.png: the frame is left out by --every 2": FIRST_OBJECT | {"00003": MASK},
    "00005.png: ": FIRST_OBJECT | {"00005.png": b"\x89PNG\r\n\x1a\n1234"},
    "has 256 masks of objects, and ids reach to 255": {
        f"x{chr(97 + n % 16)}{chr(97 + n // 16)}": MASK for n in range(256)
    },
}


@pytest.mark.parametrize("words", REFUSED)
def test_masks_are_refused(save, video, words):
    folder = save({name: values for name, values in REFUSED[words].items() if isinstance(values, np.ndarray)})
    for name, values in REFUSED[words].items():
        if values is None:
            (folder / name).symlink_to(folder / "nowhere.png")
        elif isinstance(values, bytes):
            (folder / name).write_bytes(values)
    with pytest.raises(InputError) as error:
        GivenMasks(folder, open_source(video.path, 2 if "--every" in words else 1))
    assert words in str(error.value) and str(folder) in str(error.value) and "\n" not in str(error.value)


def test_a_frame_is_no_mask(save, video):
    for path in (video.path / "00000.png", video.path):
        with pytest.raises(InputError, match=r"00000\.png: is a frame of .* too"):
            GivenMasks(path, video)
    for name in ("00005", "000005", "00005_mask"):
        with pytest.raises(InputError, match="has the name of a later frame, 00005"):
            GivenMasks(save({name: MASK}, alone=True), video)
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        GivenMasks(Path("none.png"), video)


class CopyQ(nn.Module):
    """A segmentation network that believes in the rough mask, and in that of a middling size the most."""

    def __init__(self, sure: float = 20.0):
        super().__init__()
        self.weight, self.sure = nn.Parameter(torch.zeros(1)), sure

    def forward(self, images, q):
        return SegmentationOutput(self.sure * (q - 0.5) + self.weight - 9 * (self.sure == 0), torch.zeros(len(q)))


@pytest.fixture
def copying(monkeypatch):
    """The network of the checkpoint replaced by one that repeats Q."""
    load, net = checkpoints.load_model, CopyQ()

    def loaded(path):
        model, preset = load(path)
        model.segmentation = net
        return model, preset

    monkeypatch.setattr(checkpoints, "load_model", loaded)
    return net


def test_shapes_become_masks(run, copying, capsys, tmp_path, clip):
    (tmp_path / "boxes.json").write_text('{"7": [4, 6, 24, 30], "2": [30.0, 8.0, 60.0, 44.0]}')
    labels = labels_in(run(clip, None, "--boxes", tmp_path / "boxes.json") / "clip")[FRAMES[0]]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[6:30, 4:24], expected[8:44, 30:60] = 7, 2
    assert (labels != expected).mean() < 0.03 and set(np.unique(labels)) == {0, 2, 7}
    assert not labels[expected == 0].any(), "nothing outside of the boxes"
    printed = capsys.readouterr().out
    assert "2 objects (2, 7) given in frame 00000" in printed
    assert "made from boxes; a mask that somebody drew does better" in printed
    (tmp_path / "points.txt").write_text("5 45 25\n5 47.5 27\n")
    (tmp_path / "boxes.txt").write_text("# id x0 y0 x1 y1\n1, 4, 6, 24, 30\n\n")
    shapes = ("--boxes", tmp_path / "boxes.txt", "--points", tmp_path / "points.txt", "--max-size", 40)
    found = labels_in(run(clip, None, *shapes, out="small") / "clip")
    assert {1, 5} <= set(np.unique(found[FRAMES[0]])) and found[FRAMES[0]][25, 45] == 5
    assert list(found) == FRAMES and "made from boxes and points" in capsys.readouterr().out
    copying.sure = 0.0
    run(clip, None, "--boxes", tmp_path / "boxes.json", out="none", status=2)
    assert "nothing is found there of object 2; draw its mask" in error_line(capsys)


def test_shapes_outside_of_the_frame_or_twice_are_refused(tmp_path, video):
    boxes, points = tmp_path / "boxes.json", tmp_path / "points.json"
    for wrong, words in (
        (('{"3": [32, 6, 41, 30]}', '{"1": [4, 4]}'), "object 3 lies outside of the frame, which is 32 x 24 pixels"),
        (('{"1": [4, 6, 24, 30]}', '{"3": [[4, 4], [4, -3]]}'), "object 3 lies outside"),
        (('{"1": [4, 6, 24, 30]}', '{"1": [20, 20]}'), "object 1 has a box in"),
    ):
        boxes.write_text(wrong[0])
        points.write_text(wrong[1])
        with pytest.raises(InputError, match=words):
            GivenShapes(video, boxes, points)


BROKEN_BOXES = ["", "# nothing", "{}", "[[1, 2, 3, 4]]", '{"1": [1, 2, 3]}', '{"1": [1, 2, 3, 4], "1": [5, 6, 7, 8]}']
BROKEN_BOXES += [f'{{"1": [1, 2, 3, {n}]}}' for n in ("null", '"4"', "true", "NaN", "1e999", "9" * 400)]
BROKEN_BOXES += ['{"1": [3, 2, 1, 4]}', '{"1": [1, 2, 1, 4]}', '{"1": {"x": 1}}', '{"1": [1, 2, 3, 4]', "[" * 100_000]
BROKEN_BOXES += [f'{{"{name}": [1, 2, 3, 4]}}' for name in ("0", "256", "dog")]
BROKEN_BOXES += ["1 2 3 4", "1 2 3 4 5\n1 2 3 4 5", "1 2 3 four 5", "1 2 3 nan 5", "-1 2 3 4 5", b"\xff\xfe\x00\x81"]
BROKEN_POINTS = ["", "[]", '{"1": []}', '{"1": 5}', '{"1": [[1, 2], 3]}', '{"1": [1, 2], "1": [3, 4]}', '{"1": [[1]]}']
BROKEN_POINTS += ["1 2", "\0"]


@pytest.mark.parametrize(
    ("kind", "content"), [*(("boxes", text) for text in BROKEN_BOXES), *(("points", text) for text in BROKEN_POINTS)]
)
def test_broken_shapes(tmp_path, kind, content):
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read_shapes(path, kind)
    message, form = str(error.value), "id x0 y0 x1 y1" if kind == "boxes" else "id x y"
    assert message.startswith(f"{path}: ") and "\n" not in message and form in message and len(message) < 600
    for path, words in ((tmp_path / "none.json", "no such file"), (tmp_path, "cannot be read")):
        with pytest.raises(InputError, match=words):
            read_shapes(path, kind)


PLACES, SIDES = st.floats(-900_000, 900_000), st.floats(1, 900)
PROPERTY = settings(strategies.some, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PROPERTY
@given(content=st.binary(max_size=60) | st.text(alphabet='{}[]":,.0123456789eE-+ \n#', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, content):
    path = tmp_path / "any"
    path.write_bytes(content)
    for kind in ("boxes", "points"):
        try:
            shapes = read_shapes(path, kind)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert shapes and all(1 <= obj_id <= 255 and np.isfinite(rows).all() for obj_id, rows in shapes.items())


@PROPERTY
@given(st.dictionaries(st.integers(1, 255), st.tuples(PLACES, PLACES, SIDES, SIDES), min_size=1))
def test_what_is_written_is_read(tmp_path, shapes):
    boxes = {i: [x, y, x + w, y + h] for i, (x, y, w, h) in shapes.items()}
    points = {i: [box[:2], box[2:]] for i, box in boxes.items()}
    path = tmp_path / "shapes"
    for kind, content, rows in (("boxes", boxes, {i: [box] for i, box in boxes.items()}), ("points", points, points)):
        path.write_text("\ufeff " + json.dumps(content))
        assert read_shapes(path, kind) == rows
        path.write_text("".join(f"{i}, {' '.join(map(repr, row))} # x\r\n" for i in rows for row in rows[i]))
        assert read_shapes(path, kind) == rows
