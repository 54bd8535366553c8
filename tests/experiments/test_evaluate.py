import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import command, error_line
from evaluate_cases import FRAMES, HEIGHT, WIDTH, checkpoint, labels_of, make_davis, metrics_in  # noqa: F401
from PIL import Image

from stg_pyg.utils.images import read_label_map, write_label_map


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_davis(tmp_path_factory.mktemp("davis"))


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """The true masks, stored as results are."""
    for name, frames in FRAMES.items():
        for t, frame in enumerate(frames):
            write_label_map(tmp_path / "masks" / name / f"{frame}.png", labels_of(t))
    return tmp_path / "masks"


@pytest.mark.parametrize("year", ["2016", "2017"])
def test_perfect_masks_score_100(monkeypatch, capsys, tmp_path, predictions, year):
    root, out = make_davis(tmp_path / "davis", year), tmp_path / "out"
    if year == "2016":
        for path in predictions.glob("*/*.png"):
            write_label_map(path, read_label_map(path) > 0)
    arguments = ("--preset", f"davis{year}", "--root", root, "--predictions", predictions, "--out", out)
    assert command(monkeypatch, "evaluate", *arguments) == 0
    metrics = metrics_in(out)
    for measure in "JF":
        assert metrics[measure] == {"mean": 100.0, "recall": 100.0, "decay": 0.0}
    assert metrics["G"] == 100.0
    assert metrics["sequences"] == {name: {"J": 100.0, "F": 100.0, "G": 100.0} for name in FRAMES}
    assert metrics["fps"] is None and "config" in metrics
    printed = capsys.readouterr().out
    assert all(name in printed for name in FRAMES) and "100.00" in printed


@pytest.mark.parametrize("processes", [1, 2, 0])
def test_scores_follow_the_masks_with_any_number_of_processes(monkeypatch, tmp_path, root, predictions, processes):
    for frame in FRAMES["walk"][1:]:  # the first one is given and not scored
        write_label_map(predictions / "walk" / f"{frame}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    cv2.GaussianBlur(np.zeros((900, 900), np.float32), (0, 0), 4)  # starts OpenCV's threads, which forks must not have
    threads = cv2.getNumThreads()
    arguments = ("--preset", "davis2017", "--root", root, "--predictions", predictions, "--processes", processes)
    assert command(monkeypatch, "evaluate", *arguments, "--out", tmp_path / "out") == 0
    assert cv2.getNumThreads() == threads
    metrics = metrics_in(tmp_path / "out")
    assert list(metrics["sequences"]) == list(FRAMES)
    assert metrics["sequences"]["walk"] == {"J": 0.0, "F": 0.0, "G": 0.0}
    assert metrics["sequences"]["run"]["G"] == 100.0 and metrics["G"] == 50.0, "the mean over objects, two in each"
    assert metrics["protocol"]["name"] == "DAVIS-2017" and metrics["protocol"]["objects"] == 4


@pytest.mark.parametrize("damage", ["sequence", "frame", "picture", "size"])
def test_incomplete_predictions_are_named(monkeypatch, capsys, tmp_path, root, predictions, damage):
    culprit = path = predictions / "run" / "10.png"
    if damage == "sequence":
        shutil.rmtree(culprit := path.parent)
    elif damage == "frame":
        path.unlink()
    elif damage == "picture":
        path.write_bytes(path.read_bytes()[:60])
    else:
        write_label_map(path, labels_of(1)[::2])
    arguments = ("--preset", "davis2017", "--root", root, "--predictions", predictions, "--out", tmp_path / "out")
    assert command(monkeypatch, "evaluate", *arguments) == 2
    assert str(culprit) in error_line(capsys, alone=False)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_bad_arguments(monkeypatch, capsys, tmp_path, root, predictions, checkpoint):  # noqa: F811
    def line(*arguments: object) -> str:
        assert command(monkeypatch, "evaluate", "--out", tmp_path / "out", *arguments) == 2
        return error_line(capsys)

    stored = ("--predictions", predictions)
    assert "--checkpoint" in line("--root", root)
    assert "'davis2015'" in line("--preset", "davis2015", "--root", root, *stored)
    assert "--root" in line("--preset", "davis2017", *stored)
    assert str(tmp_path / "nowhere") in line("--preset", "davis2017", "--root", tmp_path / "nowhere", *stored)
    message = line("--preset", "davis2017", "--root", root, "--split", "vall", *stored)
    assert "vall" in message and "ImageSets/2017/val.txt" in message
    message = line("--checkpoint", tmp_path / "none.pt", "--root", root)
    assert str(tmp_path / "none.pt") in message and "experiments.train" in message
    message = line("--checkpoint", checkpoint, "--preset", "davis2017", "--root", root, "--row", "magic")
    assert "magic" in message and "temporal" in message
    assert "--trace: has no effect with --predictions" in line("--root", root, *stored, "--trace")


def test_checkpoint_over_davis_with_any_number_of_processes(monkeypatch, tmp_path, root, checkpoint):  # noqa: F811
    arguments = ("--checkpoint", checkpoint, "--preset", "davis2017", "--root", root, "--overlays", "--online-steps", 1)
    for processes in (1, 2):
        out = tmp_path / str(processes)
        assert command(monkeypatch, "evaluate", *arguments, "--processes", processes, "--out", out) == 0
    files = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.png")} for n in "12"]
    assert files[0] == files[1]
    first, second = metrics_in(tmp_path / "1"), metrics_in(tmp_path / "2")
    assert list(first["sequences"]) == list(second["sequences"]) == list(FRAMES)
    assert all(first[key] == second[key] for key in ("J", "F", "G", "sequences", "config"))
    assert first["fps"] > 0 and first["config"]["online"]["steps"] == 1
    for name, frames in FRAMES.items():
        folder = tmp_path / "1" / name
        assert {path.stem for path in folder.glob("*.png")} == set(frames)
        assert {path.stem for path in (folder / "overlays").iterdir()} == set(frames)
        for frame in frames:
            mask = Image.open(folder / f"{frame}.png")
            assert (mask.mode, mask.size) == ("P", (WIDTH, HEIGHT))
            assert set(np.unique(np.array(mask))) <= {0, 1, 3}
        np.testing.assert_array_equal(read_label_map(folder / f"{frames[0]}.png"), labels_of(0))
    scored = ("--preset", "davis2017", "--root", root, "--predictions", tmp_path / "1", "--out", tmp_path / "scored")
    assert command(monkeypatch, "evaluate", *scored) == 0
    assert all(metrics_in(tmp_path / "scored")[key] == first[key] for key in ("J", "F", "G", "sequences"))


def test_splits_of_first_masks_alone_are_packed_but_not_scored(monkeypatch, capsys, tmp_path, predictions):
    root = make_davis(tmp_path / "davis", annotated=1, split="test-dev")
    arguments = ("--preset", "davis2017", "--root", root, "--split", "test-dev", "--predictions", predictions)
    out, packed = tmp_path / "out", tmp_path / "sub" / "test-dev.zip"
    assert command(monkeypatch, "evaluate", *arguments, "--submit", packed, "--out", out) == 0
    assert "nothing to score" in capsys.readouterr().out
    metrics = metrics_in(out)
    assert metrics["G"] is metrics["J"]["mean"] is None and metrics["sequences"] == {}
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist() == [f"{name}/{frame}.png" for name, frames in FRAMES.items() for frame in frames]
    (predictions / "run" / "11.png").unlink()
    assert command(monkeypatch, "evaluate", *arguments, "--out", out) == 2
    assert str(predictions / "run" / "11.png") in error_line(capsys)


def test_what_is_to_be_known_of_scores_is_said(monkeypatch, capsys, tmp_path, predictions):
    root, out = make_davis(tmp_path / "davis"), tmp_path / "out"
    for frame in ("00006", "00008"):
        (root / "Annotations/480p/walk" / f"{frame}.png").unlink()
    for frame in ("00005", "00006", "00008"):  # neither scored nor given
        (predictions / "walk" / f"{frame}.png").unlink()
    write_label_map(predictions / "run" / "10.png", np.where(labels_of(1) > 0, labels_of(1), 2))
    arguments = ("--preset", "davis2017", "--root", root, "--predictions", predictions, "--processes", 1)
    assert command(monkeypatch, "evaluate", *arguments, "--out", out) == 0
    notes = [
        "walk: 2 of 4 frames are annotated, and only those count",
        f"{predictions / 'run'}: masks have ids that no object has (2); they count as background",
    ]
    assert metrics_in(out)["notes"] == notes and metrics_in(out)["G"] == 100
    printed = capsys.readouterr().out
    assert all(f"note: {note}\n" in printed for note in notes)
    assert command(monkeypatch, "evaluate", *arguments, "--out", out, "--submit", tmp_path / "all.zip") == 2
    assert str(predictions / "walk" / "00005.png") in error_line(capsys, alone=False)


def test_bad_packages_and_lists_are_refused_at_once(monkeypatch, capsys, tmp_path, root, predictions):
    arguments = ("--preset", "davis2017", "--root", root, "--predictions", predictions, "--out", tmp_path / "out")
    for extra in (("--submit", tmp_path / "out.tar"), ("--unseen", tmp_path / "none.txt")):
        assert command(monkeypatch, "evaluate", *arguments, *extra) == 2
        assert str(extra[1]) in error_line(capsys)
        assert not (tmp_path / "out").exists()
