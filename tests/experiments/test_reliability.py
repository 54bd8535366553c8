# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
"""Broken and odd frames and masks: every command works, or ends in one line that names the file and the remedy."""

import dataclasses
import shutil

import numpy as np
import pytest
from commands import command, error_line
from evaluate_cases import FRAMES, HEIGHT, WIDTH
from reliability_cases import (
    checkpoint,
    cut_short,
    data,
    emptied,
    evaluate,
    image_of,
    in_colour,
    made_a_folder,
    mask_of,
    of_another_size,
    root,
    segment,
    with_300_ids,
    with_soft_edges,
)
from train_cases import make_tiny

from experiments.common import checkpoints
from experiments.common.presets import PRESETS
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.utils.images import read_label_map, write_label_map

FRAME_FAULTS = [
    (cut_short, "copy or export it again"),
    (of_another_size, "make all frames"),
    (emptied, "give a PNG or JPEG"),
    (made_a_folder, "is a folder"),
]
MASK_FAULTS = [
    (in_colour, "save it as an indexed PNG"),
    (with_soft_edges, "threshold it to 0 and 255"),
    (with_300_ids, "object ids must be 0 to 255"),
    (of_another_size, ""),
    (made_a_folder, ""),
]


@pytest.mark.parametrize(
    ("where", "fault", "remedy"),
    [*((image_of, *fault) for fault in FRAME_FAULTS), *((mask_of, *fault) for fault in MASK_FAULTS)],
)
def test_a_broken_file_of_a_data_set(capsys, tmp_path, root, data, evaluate, where, fault, remedy):
    fault(where(root))
    assert evaluate(root) == 2
    line = error_line(capsys, alone=False)
    assert str(where(root)) in line and remedy in line
    if fault is cut_short:
        finished = tmp_path / "out" / ".done" / "walk.json"
        assert {path.stem for path in (tmp_path / "out" / "walk").iterdir()} == set(FRAMES["walk"])
        before = finished.stat().st_mtime_ns
        shutil.rmtree(root)
        shutil.copytree(data, root)
        assert evaluate(root) == 0
        assert finished.stat().st_mtime_ns == before, "the video before it is not done again"


@pytest.mark.parametrize(("fault", "remedy"), FRAME_FAULTS)
def test_a_broken_frame_of_proposals(monkeypatch, capsys, tmp_path, root, fault, remedy):
    checkpoints.save(tmp_path / "detector.pt", {"kind": "detector", **Detector.small(4, 64).to_checkpoint()})
    fault(image_of(root))
    arguments = ("--preset", "davis2017", "--root", root, "--detector", tmp_path / "detector.pt", "--device", "cpu")
    assert command(monkeypatch, "proposals", *arguments, "--out", tmp_path / "out") == 2
    line = error_line(capsys, alone=False)
    assert str(image_of(root)) in line and remedy in line
    assert len(list((tmp_path / "out").glob("*/*.npz"))) == 5, "the frames before it are kept"


@pytest.mark.parametrize(
    ("where", "fault", "remedy"),
    [*((image_of, *fault) for fault in FRAME_FAULTS[:2]), *((mask_of, *fault) for fault in MASK_FAULTS[:3])],
)
def test_a_broken_file_of_training(monkeypatch, capsys, tmp_path, root, where, fault, remedy):
    make_tiny(monkeypatch)
    changes = {"name": "davis2017-small", "dataset": "davis2017", "train_split": "train", "val_split": "val"}
    preset = dataclasses.replace(PRESETS["synthetic-small"], segmentation_steps=30, **changes)
    monkeypatch.setitem(PRESETS, "davis2017-small", preset)
    (root / "ImageSets" / "2017" / "train.txt").write_text("run\n")
    fault(where(root))
    arguments = ("--preset", "davis2017", "--root", root, "--stage", "segmentation", "--workers", 0, "--device", "cpu")
    assert command(monkeypatch, "train", *arguments, "--out", tmp_path / "out") == 2
    line = error_line(capsys, alone=False)
    assert str(where(root)) in line and remedy in line


def test_videos_without_an_object(monkeypatch, capsys, tmp_path, root, evaluate):
    for path in (root / "Annotations/480p").glob("run/*.png"):
        write_label_map(path, np.zeros((HEIGHT, WIDTH), np.uint8))
    assert evaluate(root) == 0, "one of the videos shows objects"
    assert not any(read_label_map(path).any() for path in (tmp_path / "out" / "run").glob("*.png"))
    for path in (root / "Annotations/480p").glob("walk/*.png"):
        write_label_map(path, np.zeros((HEIGHT, WIDTH), np.uint8))
    assert evaluate(root) == 2
    assert "nothing to score" in error_line(capsys, alone=False)


@pytest.mark.parametrize("pixels", [(slice(None), slice(None)), (slice(20, 21), slice(30, 31))], ids=["all", "one"])
def test_an_object_of_all_pixels_or_of_one(evaluate, segment, tmp_path, root, pixels):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[pixels] = 7
    for path in (root / "Annotations/480p").glob("*/*.png"):
        write_label_map(path, labels)
    assert evaluate(root) == 0
    assert segment(image_of(root).parent, mask_of(root)) == 0
    for folder in (tmp_path / "out" / "run", tmp_path / "out" / "walk"):
        found = [read_label_map(path) for path in sorted(folder.glob("*.png"))]
        assert len(found) == len(FRAMES[folder.name])
        assert all(set(np.unique(result)) <= {0, 7} for result in found)


def test_a_video_of_one_frame(capsys, evaluate, segment, tmp_path, root):
    for folder in root.glob("*/480p/*"):
        for path in sorted(folder.iterdir())[1:] if folder.name == "walk" else ():
            path.unlink()
    assert evaluate(root) == 0
    assert [path.name for path in (tmp_path / "out" / "walk").iterdir()] == ["00005.png"]
    frames, mask = root / "JPEGImages/480p/walk", root / "Annotations/480p/walk/00005.png"
    assert segment(frames, mask, "--overlay") == 0
    np.testing.assert_array_equal(read_label_map(tmp_path / "out" / "walk" / "00005.png"), read_label_map(mask))


SEGMENT_MASK_FAULTS = [
    *MASK_FAULTS,
    (lambda path: write_label_map(path, np.zeros((HEIGHT, WIDTH), np.uint8)), "is all background"),
]


@pytest.mark.parametrize(
    ("where", "fault", "remedy"),
    [
        *((image_of, *fault) for fault in FRAME_FAULTS[:3]),
        *((mask_of, *fault) for fault in SEGMENT_MASK_FAULTS[:3]),
        (mask_of, *SEGMENT_MASK_FAULTS[-1]),
    ],
)
def test_a_broken_file_of_a_video_of_ones_own(capsys, tmp_path, root, data, segment, where, fault, remedy):
    fault(where(root))
    assert segment(image_of(root).parent, mask_of(root)) == 2
    line = error_line(capsys, alone=False)
    assert str(where(root)) in line and remedy in line
    assert not (tmp_path / "out" / "run.json").exists(), "it says that a run is complete"
    shutil.copy(where(data), where(root))
    assert segment(image_of(root).parent, mask_of(root)) == 0
    assert (tmp_path / "out" / "run.json").is_file()


def test_300_masks_of_objects(capsys, tmp_path, root, segment):
    masks = tmp_path / "masks"
    for n in range(300):
        write_label_map(masks / f"object{n}.png", np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) == n)
    assert segment(image_of(root).parent, masks) == 2
    line = error_line(capsys)
    assert str(masks) in line and "300 masks of objects" in line and "255" in line


def test_255_objects_work(root, tmp_path, segment):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for n in range(255):
        labels[3 * (n // 21) : 3 * (n // 21) + 2, 3 * (n % 21) : 3 * (n % 21) + 2] = n + 1
    write_label_map(mask_of(root), labels)
    for name in FRAMES["run"][1:]:
        (image_of(root).parent / f"{name}.jpg").unlink()
    assert segment(image_of(root).parent, mask_of(root)) == 0
    np.testing.assert_array_equal(read_label_map(tmp_path / "out" / "run" / "9.png"), labels)
