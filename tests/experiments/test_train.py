import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import command, error_line
from PIL import Image
from train_cases import NUM_FRAMES, STATISTICS, TINY, assert_same_weights, killer, make_tiny, masks_in

from datasets import SyntheticVideos
from experiments.common import checkpoints
from experiments.runs.rows import table_rows
from experiments.train.stages import graph as graph_stage
from experiments.train.stages import segmentation as segmentation_stage
from stg_pyg.utils.images import davis_palette


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run of the whole command."""
    out = tmp_path_factory.mktemp("train")
    with pytest.MonkeyPatch.context() as patch:
        make_tiny(patch)
        steps = ("--segmentation-steps", 4, "--graph-steps", 12, "--workers", 0)
        assert command(patch, "train", "--out", out, *steps) == 0
    yield out


def test_files_of_a_run(trained):
    names = {path.name for path in trained.iterdir() if path.is_file()}
    assert {"checkpoint.pt", "metrics.json", "table.json", "table.md"} <= names
    files = [path for path in trained.rglob("*") if path.is_file()]
    assert not [path for path in files if path.name.startswith(".") or path.suffix == ".tmp"]


def test_metrics(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert {"J", "F", "G", "fps", "sequences", "config"} <= metrics.keys()
    for measure in "JF":
        assert metrics[measure].keys() == STATISTICS
        assert 0 <= metrics[measure]["mean"] <= 100 and 0 <= metrics[measure]["recall"] <= 100
    assert metrics["G"] == pytest.approx((metrics["J"]["mean"] + metrics["F"]["mean"]) / 2)
    assert metrics["fps"] > 0
    assert list(metrics["sequences"]) == ["test-0000", "test-0001"]
    for scores in metrics["sequences"].values():
        assert scores.keys() == {"J", "F", "G"}
        assert scores["G"] == pytest.approx((scores["J"] + scores["F"]) / 2)
    assert metrics["config"]["spatial"]["alpha"] == TINY.config.spatial.alpha


def test_table(trained):
    rows = table_rows(TINY.config)
    table = json.loads((trained / "table.json").read_text())
    assert list(table) == [row.name for row in rows]
    assert table["temporal"] == json.loads((trained / "metrics.json").read_text())
    lines = (trained / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [row.label for row in rows]
    for line, row in zip(lines[2:], rows, strict=True):
        assert float(line.split("|")[4]) == pytest.approx(table[row.name]["G"], abs=0.051)


def test_masks_and_overlays(trained):
    videos = SyntheticVideos("test", 2, NUM_FRAMES, height=32, width=48, seed=0, max_objects=2)
    for row in table_rows(TINY.config):
        for video in videos:
            folder = trained / row.name / video.name
            assert sorted(path.stem for path in folder.glob("*.png")) == video.frame_names
            assert sorted(path.stem for path in (folder / "overlays").glob("*.jpg")) == video.frame_names
            for t, name in enumerate(video.frame_names):
                mask = Image.open(folder / f"{name}.png")
                assert (mask.mode, mask.size) == ("P", (48, 32))
                assert mask.getpalette("RGB") == davis_palette().ravel().tolist()
                assert set(np.unique(np.array(mask))) <= {0, *video.object_ids}
                if t == 0:
                    np.testing.assert_array_equal(np.array(mask), video.labels(0))
                assert Image.open(folder / "overlays" / f"{name}.jpg").size == (48, 32)


def test_evaluate_agrees_with_the_table(trained, tmp_path, monkeypatch):
    make_tiny(monkeypatch)
    arguments = ("--split", "test", "--checkpoint", trained / "checkpoint.pt", "--out")
    table = json.loads((trained / "table.json").read_text())
    for row in ("temporal", "flow"):
        out = tmp_path / row
        assert command(monkeypatch, "evaluate", *arguments, out, "--row", row) == 0
        metrics = json.loads((out / "metrics.json").read_text())
        for key in ("J", "F", "G", "sequences"):
            assert metrics[key] == table[row][key]
        assert masks_in(out) == masks_in(trained / row)
    scored = tmp_path / "scored"
    arguments = ("--preset", "synthetic", "--split", "test", "--predictions", tmp_path / "temporal", "--out")
    assert command(monkeypatch, "evaluate", *arguments, scored) == 0
    again = json.loads((scored / "metrics.json").read_text())
    for key in ("J", "F", "G", "sequences"):
        assert again[key] == table["temporal"][key]


def test_stages_one_by_one_give_the_same_checkpoint(trained, tmp_path, monkeypatch):
    make_tiny(monkeypatch)
    steps = ("--segmentation-steps", 4, "--graph-steps", 12, "--workers", 0, "--out", tmp_path)
    monkeypatch.setattr("experiments.train.command.score_table", lambda *_: None)
    for stage in ("segmentation", "graph"):
        assert command(monkeypatch, "train", "--stage", stage, *steps) == 0
    a, b = (checkpoints.load_model(path / "checkpoint.pt")[0] for path in (trained, tmp_path))
    assert_same_weights(a, b)


def test_a_finished_run_is_scored_again_without_training(trained, tmp_path, monkeypatch):
    make_tiny(monkeypatch)
    for name in ("segmentation.pt", "graph.pt"):
        shutil.copy(trained / name, tmp_path)
    monkeypatch.setattr(segmentation_stage, "optimisation_step", killer(lambda: None, 0))
    monkeypatch.setattr(graph_stage, "train_clip", killer(lambda: None, 0))
    steps = ("--segmentation-steps", 4, "--graph-steps", 12, "--workers", 0, "--out", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("experiments.train.command.score_table", lambda *_: None)
        assert command(patch, "train", "--resume", *steps) == 0
    a, b = (checkpoints.load_model(path / "checkpoint.pt")[0] for path in (trained, tmp_path))
    assert_same_weights(a, b)
    assert command(monkeypatch, "train", "--stage", "table", *steps) == 0
    for row in table_rows(TINY.config):
        assert masks_in(tmp_path / row.name) == masks_in(trained / row.name)


def test_graph_stage_needs_the_segmentation_stage(monkeypatch, capsys, tmp_path):
    make_tiny(monkeypatch)
    assert command(monkeypatch, "train", "--stage", "graph", "--out", tmp_path) == 2
    assert str(tmp_path / "segmentation.pt") in error_line(capsys)


def test_bad_arguments(monkeypatch, capsys, tmp_path):
    out = ("--out", tmp_path / "out")
    assert command(monkeypatch, "train", "--preset", "davis2015", *out) == 2
    assert "'davis2015'" in error_line(capsys)
    assert command(monkeypatch, "train", "--preset", "davis2016", *out) == 2
    assert "--root" in error_line(capsys)
    assert command(monkeypatch, "train", "--preset", "davis2016", "--root", tmp_path / "nowhere", *out) == 2
    assert str(tmp_path / "nowhere") in error_line(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--val-split", "dev"), id="unknown validation split"),
        pytest.param(("--split", "dev"), id="unknown training split"),
        pytest.param(("--seed", -1), id="seed"),
        pytest.param(("--segmentation-steps", -1), id="steps"),
    ],
)
def test_arguments_are_checked_before_training(monkeypatch, capsys, tmp_path, arguments):
    def begin(*_: object, **__: object) -> None:
        raise RuntimeError("training began")

    monkeypatch.setattr("experiments.train.command.train_segmentation", begin)
    assert command(monkeypatch, "train", "--out", tmp_path, *arguments) == 2
    assert str(arguments[1]) in error_line(capsys)
