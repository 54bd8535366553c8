# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
"""Broken and odd files: every command works, or ends in one line that names the file and the remedy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_line
from evaluate_cases import FRAMES, HEIGHT, WIDTH
from killed_runs import files_in
from reliability_cases import (
    NOISE,
    cut_short,
    data,
    emptied,
    image_of,
    in_colour,
    made_a_folder,
    mask_of,
    networks,
    of_another_size,
    own_video,
    results_in,
    root,
    start,
    with_300_ids,
    with_soft_edges,
)

from experiments.common import checkpoints
from stg_pyg.model.checkpoint import FORMAT
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.proposals.store import ProposalWriter
from stg_pyg.utils.images import read_label_map, write_image, write_label_map

FAULTS = {
    "cut": (image_of, cut_short, "copy or export it again", "evaluate proposals segment train"),
    "another size": (image_of, of_another_size, "make all frames", "evaluate segment train"),
    "empty": (image_of, emptied, "give a PNG or JPEG", "evaluate"),
    "folder": (image_of, made_a_folder, "is a folder", "evaluate"),
    "colours": (mask_of, in_colour, "save it as an indexed PNG", "evaluate segment train"),
    "soft": (mask_of, with_soft_edges, "threshold it to 0 and 255", "evaluate train"),
    "300 ids": (mask_of, with_300_ids, "object ids must be 0 to 255", "evaluate segment"),
    "another size of a mask": (mask_of, of_another_size, "", "evaluate segment"),
}


@pytest.mark.parametrize(("fault", "name"), [(f, name) for f, case in FAULTS.items() for name in case[3].split()])
def test_a_broken_frame_or_mask(capsys, tmp_path, root, data, start, fault, name):
    where, damage, remedy, _ = FAULTS[fault]
    damage(where(root))
    assert start(name) == 2
    line = error_line(capsys, alone=False)
    assert str(where(root)) in line and remedy in line
    out = tmp_path / "out"
    assert not (out / "run.json").exists() and not (out / "metrics.json").exists(), "which say that it is complete"
    if name == "evaluate" and where is image_of:
        finished = out / ".done" / "walk.json"
        assert {path.stem for path in (out / "walk").iterdir()} == set(FRAMES["walk"])
        before = finished.stat().st_mtime_ns
        shutil.rmtree(root)
        shutil.copytree(data, root)
        assert start(name) == 0
        assert finished.stat().st_mtime_ns == before, "the video before it is not done again"
    if name == "proposals":
        assert len(list(out.glob("*/*.npz"))) == 5, "the frames before it are kept"


def test_videos_without_an_object(capsys, tmp_path, root, start):
    for path in (root / "Annotations/480p").glob("run/*.png"):
        write_label_map(path, np.zeros((HEIGHT, WIDTH), np.uint8))
    assert start("evaluate") == 0, "one of the videos shows objects"
    assert not any(read_label_map(path).any() for path in (tmp_path / "out" / "run").glob("*.png"))
    for path in (root / "Annotations/480p").glob("walk/*.png"):
        write_label_map(path, np.zeros((HEIGHT, WIDTH), np.uint8))
    assert start("evaluate") == 2
    assert "nothing to score" in error_line(capsys, alone=False)


@pytest.mark.parametrize("pixels", [(slice(None), slice(None)), (slice(20, 21), slice(30, 31))], ids=["all", "one"])
def test_an_object_of_all_pixels_or_of_one_and_a_video_of_one_frame(start, tmp_path, root, pixels):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[pixels] = 7
    for path in (root / "Annotations/480p").glob("*/*.png"):
        write_label_map(path, labels)
    for path in [path for path in root.glob("*/480p/walk/*") if path.stem != FRAMES["walk"][0]]:
        path.unlink()
    assert start("evaluate") == start("segment", "--overlay") == 0
    for name, count in (("run", 3), ("walk", 1)):
        found = [read_label_map(path) for path in sorted((tmp_path / "out" / name).glob("*.png"))]
        assert len(found) == count and all(set(np.unique(result)) <= {0, 7} for result in found)
        assert count > 1 or np.array_equal(found[0], labels)


def test_255_objects_work(root, tmp_path, start):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for n in range(255):
        labels[3 * (n // 21) : 3 * (n // 21) + 2, 3 * (n % 21) : 3 * (n % 21) + 2] = n + 1
    write_label_map(mask_of(root), labels)
    for name in FRAMES["run"][1:]:
        (image_of(root).parent / f"{name}.jpg").unlink()
    assert start("segment") == 0
    np.testing.assert_array_equal(read_label_map(tmp_path / "out" / "run" / "9.png"), labels)


def write_proposals(folder: Path, count: int) -> Path:
    writer = ProposalWriter(folder, {"score": 0.5})
    for name, frames in FRAMES.items():
        for frame in frames:
            boxes, scores = torch.tensor([[4.0, 4, 30, 30]] * count).view(-1, 4), torch.ones(count)
            writer.write(name, frame, EncodedProposals(boxes, scores, [None] * count, (HEIGHT, WIDTH)))
    writer.merge()
    return folder


@pytest.mark.parametrize("form", ["", "proposals.json"], ids=["folder", "json"])
def test_no_proposals_in_any_frame(capsys, start, tmp_path, form):
    path = write_proposals(tmp_path / "proposals", 0) / form
    assert start("evaluate", "--proposals", path) == 0
    assert len(list((tmp_path / "out").glob("*/*.png"))) == 7
    status = start("segment", "--proposals", path)
    assert status == (2 if form else 0), "a JSON file without any does not even name the video"
    assert not form or "has no proposals of a video named 'run'" in error_line(capsys, alone=False)


def replaced(before: str, after: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(path.read_text().replace(before, after))


def broken_array_file(path: Path) -> None:
    np.savez(path, boxes=np.array([{"a": 1}], object), scores=np.ones(1), rle=np.zeros(0), lengths=np.zeros(1))


@pytest.mark.parametrize(
    ("name", "damage", "remedy"),
    [
        ("run/10.npz", cut_short, "run experiments.proposals again"),
        ("run/10.npz", broken_array_file, "run experiments.proposals again"),
        ("meta.json", emptied, "into a new folder"),
        ("meta.json", replaced('"run"', '"../../run"'), "new folder"),
        ("proposals.json", cut_short, "export the proposals again"),
        ("proposals.json", replaced("run/10", "../run/10"), "image_id"),
        ("proposals.json", replaced("[4.0", "[NaN"), "four finite numbers"),
        ("proposals.json", replaced("26.0]", "-26.0]"), "no extent"),
    ],
)  # fmt: skip
def test_broken_proposals(capsys, start, tmp_path, name, damage, remedy):
    folder = write_proposals(tmp_path / "proposals", 2)
    before = set(files_in(tmp_path))
    damage(folder / name)
    assert start("evaluate", "--proposals", folder / name if name == "proposals.json" else folder) == 2
    line = error_line(capsys, alone=False)
    assert str(folder / name) in line and remedy in line
    assert {path for path in files_in(tmp_path) if not path.startswith("out/")} == before, "nothing written elsewhere"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"walk\nmissing\n", "missing: no such folder"),
        (b"", "names no sequence"),
        (b"../../elsewhere\n", "'..' is no name of a sequence"),
        (b"walk\n" + b"x" * 5000, "is no name of a sequence"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ],
)
def test_broken_lists_of_sequences(capsys, start, tmp_path, root, text, words):
    (root / "ImageSets/2017/val.txt").write_bytes(text)
    write_image(tmp_path / "elsewhere" / "0.jpg", NOISE)
    assert start("evaluate") == 2
    line = error_line(capsys)
    assert words in line and len(line) < 500
    assert not list((tmp_path / "out").rglob("*.png"))


def test_broken_flow(capsys, start, tmp_path):
    for name, frames in FRAMES.items():
        (tmp_path / "flow" / name).mkdir(parents=True)
        for frame in frames:
            (tmp_path / "flow" / name / f"{frame}.flo").write_bytes(b"PIEH" + bytes(20))
    assert start("evaluate", "--flow", tmp_path / "flow") == 2
    line = error_line(capsys, alone=False)
    assert str(tmp_path / "flow" / "walk" / "00006.flo") in line and "write it again as Middlebury .flo" in line


@pytest.mark.parametrize("name", ["segment", "evaluate", "train"])
def test_broken_checkpoints(capsys, start, tmp_path, networks, name):
    """What else may be wrong with them: see test_checkpoints.py."""
    path, content = tmp_path / "broken.pt", torch.load(networks / "checkpoint.pt", weights_only=True)
    next(iter(content["model"].values())).view(-1)[0] = float("nan")
    torch.save(content, path)
    for words in ("not finite", "not a readable checkpoint"):
        assert start(name, *(("--init", path) if name == "train" else ()), model=path) == 2
        line = error_line(capsys, alone=False)
        assert str(path) in line and words in line
        path.write_bytes(path.read_bytes()[:-500])
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"net": {"weight": torch.zeros(3)}}, "another network configuration"),
        ({"net": {"weight": torch.full((3,), torch.nan)}}, "not finite"),
        ({"kind": "detector"}, "not a segmentation checkpoint"),
        ({}, "has no net"),
    ],
)
def test_a_training_that_goes_on_from_something_else(start, capsys, tmp_path, change, words):
    path = tmp_path / "out/segmentation.pt"
    path.parent.mkdir()
    torch.save({"format": FORMAT, "kind": "segmentation", "step": 1, "log": [], **change}, path)
    before = path.read_bytes()
    assert start("train", "--resume") == 2
    line = error_line(capsys, alone=False)
    assert str(path) in line and words in line
    assert path.read_bytes() == before


def test_one_seed_gives_one_result(start, tmp_path):
    for out in ("first", "second"):
        assert start("evaluate", "--online-steps", 1, "--overlays", out=out) == 0
    assert results_in(tmp_path / "first") == results_in(tmp_path / "second")
