# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
"""Broken proposals, lists, flow and checkpoints end a command in one line; one seed gives one result."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command, error_line
from evaluate_cases import FRAMES, HEIGHT, WIDTH
from killed_runs import files_in
from reliability_cases import NOISE, checkpoint, cut_short, data, emptied, evaluate, image_of, mask_of, root, segment
from train_cases import make_tiny

from experiments.common import checkpoints
from stg_pyg.model.checkpoint import FORMAT
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.proposals.store import ProposalWriter
from stg_pyg.utils.images import write_image


def write_proposals(folder: Path, count: int) -> Path:
    writer = ProposalWriter(folder, {"score": 0.5})
    size = (HEIGHT, WIDTH)
    for name, frames in FRAMES.items():
        for frame in frames:
            boxes, scores = torch.tensor([[4.0, 4, 30, 30]] * count).view(-1, 4), torch.ones(count)
            writer.write(name, frame, EncodedProposals(boxes, scores, [None] * count, size))
    writer.merge()
    return folder


@pytest.mark.parametrize("form", ["", "proposals.json"], ids=["folder", "json"])
def test_no_proposals_in_any_frame(capsys, evaluate, segment, tmp_path, root, form):
    path = write_proposals(tmp_path / "proposals", 0) / form
    assert evaluate(root, "--proposals", path) == 0
    assert evaluate(root, "--proposals", path, model=None) == 0
    assert len(list((tmp_path / "out").glob("*/*.png"))) == 7
    status = segment(image_of(root).parent, mask_of(root), "--proposals", path)
    if form:  # which does not even name the video
        assert status == 2
        line = error_line(capsys, alone=False)
        assert str(path) in line and "has no proposals of a video named 'run'" in line
    else:
        assert status == 0


def replaced(before: str, after: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(path.read_text().replace(before, after))


def broken_array_file(path: Path) -> None:
    np.savez(path, boxes=np.array([{"a": 1}], object), scores=np.ones(1), rle=np.zeros(0), lengths=np.zeros(1))


@pytest.mark.parametrize(
    ("name", "damage", "remedy"),
    [
        ("run/10.npz", cut_short, "run experiments.proposals again"),
        ("run/10.npz", emptied, "run experiments.proposals again"),
        ("run/10.npz", broken_array_file, "run experiments.proposals again"),
        ("meta.json", emptied, "into a new folder"),
        ("meta.json", replaced('"run"', '"../../run"'), "new folder"),
        ("proposals.json", cut_short, "export the proposals again"),
        ("proposals.json", replaced("run/10", "../run/10"), "image_id"),
        ("proposals.json", replaced("[4.0", "[NaN"), "four finite numbers"),
        ("proposals.json", replaced("26.0]", "-26.0]"), "no extent"),
    ],
)  # fmt: skip
def test_broken_proposals(capsys, evaluate, tmp_path, root, name, damage, remedy):
    folder = write_proposals(tmp_path / "proposals", 2)
    given = folder / name if name == "proposals.json" else folder
    before = files_in(tmp_path)
    damage(folder / name)
    assert evaluate(root, "--proposals", given) == 2
    line = error_line(capsys, alone=False)
    assert str(folder / name) in line and remedy in line
    outside = {path for path in files_in(tmp_path) if not path.startswith("out/")}
    assert outside == set(before), "nothing is written anywhere else"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("walk\nmissing\n", "missing: no such folder"),
        ("", "names no sequence"),
        ("../../elsewhere\n", "'..' is no name of a sequence"),
        ("/\n", "is no name of a sequence"),
        ("walk\n" + "x" * 5000, "is no name of a sequence"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ],
)
def test_broken_lists_of_sequences(capsys, evaluate, tmp_path, root, text, words):
    path = root / "ImageSets/2017/val.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    write_image(tmp_path / "elsewhere" / "0.jpg", NOISE)
    assert evaluate(root) == 2
    line = error_line(capsys)
    assert words in line and len(line) < 500
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize("content", [b"PNG!" + bytes(8 + 8 * HEIGHT * WIDTH), b"PIEH" + bytes(20), b""])
def test_broken_flow(capsys, evaluate, tmp_path, root, content):
    for name, frames in FRAMES.items():
        (tmp_path / "flow" / name).mkdir(parents=True)
        for frame in frames:
            (tmp_path / "flow" / name / f"{frame}.flo").write_bytes(content)
    assert evaluate(root, "--flow", tmp_path / "flow") == 2
    line = error_line(capsys, alone=False)
    assert str(tmp_path / "flow" / "walk" / "00006.flo") in line and "write it again as Middlebury .flo" in line


def nan_weight(content: dict) -> None:
    next(iter(content["model"].values())).view(-1)[0] = float("nan")


def text_weight(content: dict) -> None:
    content["model"][next(iter(content["model"]))] = "text"


CHECKPOINTS = {
    "NaN": (nan_weight, "not finite"),
    "text": (text_weight, "has no weights"),
    "other configuration": (lambda c: c["config"]["temporal"].update(key_size="large"), "temporal.key_size"),
    "other network": (lambda c: c["model"].popitem(), "another network configuration"),
    "other version": (lambda c: c.update(format="stg_pyg-0"), "of this version"),
    "newer version": (lambda c: c["config"]["spatial"].update(of_the_future=1), "spatial.of_the_future"),
    "other kind": (lambda c: c.update(kind="graph"), "not a model checkpoint"),
    "without weights": (lambda c: c.pop("model"), "has no model"),
    "code": (lambda c: c.update(preset=Path("code")), "not a readable checkpoint"),
    "cut": (None, "not a readable checkpoint"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_broken_checkpoints(monkeypatch, capsys, evaluate, segment, tmp_path, root, checkpoint, name):
    damage, words = CHECKPOINTS[name]
    path, content = tmp_path / "broken.pt", torch.load(checkpoint, weights_only=True)
    if damage is not None:
        damage(content)
    torch.save(content, path)
    if damage is None:
        path.write_bytes(path.read_bytes()[:-500])
    runs = [lambda: segment(image_of(root).parent, mask_of(root), model=path)]
    if name in ("NaN", "cut"):
        runs.append(lambda: evaluate(root, model=path))
        runs.append(lambda: command(monkeypatch, "train", "--init", path, "--workers", 0, "--out", tmp_path / "out"))
    for run in runs:
        assert run() == 2
        line = error_line(capsys, alone=False)
        assert str(path) in line and words in line
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"net": {"weight": torch.zeros(3)}}, "another network configuration"),
        ({"net": {"weight": torch.full((3,), torch.nan)}}, "not finite"),
        ({"format": "stg_pyg-0"}, "of this version"),
        ({"kind": "detector"}, "not a segmentation checkpoint"),
        ({}, "has no net"),
    ],
)
def test_a_training_that_goes_on_from_something_else(monkeypatch, capsys, tmp_path, change, words):
    make_tiny(monkeypatch)
    path = tmp_path / "segmentation.pt"
    torch.save({"format": FORMAT, "kind": "segmentation", "step": 1, "log": [], **change}, path)
    before = path.read_bytes()
    assert command(monkeypatch, "train", "--resume", "--workers", 0, "--device", "cpu", "--out", tmp_path) == 2
    line = error_line(capsys, alone=False)
    assert str(path) in line and words in line
    assert path.read_bytes() == before


def without_times(folder: Path) -> dict[str, object]:
    found: dict[str, object] = dict(files_in(folder))
    for name in found:
        if name.endswith(".json"):
            text = json.dumps(json.loads(files_in(folder)[name]))
            found[name] = {
                key: value for key, value in json.loads(text).items() if key not in ("fps", "online_seconds")
            }
    return {name: value for name, value in found.items() if not name.startswith(".done")}


def test_one_seed_gives_one_result(evaluate, tmp_path, root):
    for out in ("first", "second"):
        assert evaluate(root, "--online-steps", 1, "--overlays", out=out) == 0
    assert without_times(tmp_path / "first") == without_times(tmp_path / "second")
