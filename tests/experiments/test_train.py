import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import command
from PIL import Image
from train_cases import NUM_FRAMES, TINY, assert_same_weights, kill_after, make_tiny, masks_in

from datasets import SyntheticVideos
from experiments.common import checkpoints
from experiments.runs.rows import table_rows
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


def test_files_and_scores_of_a_run(trained):
    names = {path.name for path in trained.iterdir() if path.is_file()}
    assert {"checkpoint.pt", "metrics.json", "table.json", "table.md"} <= names
    assert not [path for path in trained.rglob("*") if path.name.startswith(".") and path.is_file()]
    metrics = json.loads((trained / "metrics.json").read_text())
    for measure in "JF":
        assert metrics[measure].keys() == {"mean", "recall", "decay"} and 0 <= metrics[measure]["mean"] <= 100
    for scores in metrics["sequences"].values():
        assert scores.keys() == {"J", "F", "G"} and scores["G"] == pytest.approx((scores["J"] + scores["F"]) / 2)
    assert metrics["fps"] > 0 and list(metrics["sequences"]) == ["test-0000", "test-0001"]
    assert metrics["config"]["spatial"]["alpha"] == TINY.config.spatial.alpha
    rows, table = table_rows(TINY.config), json.loads((trained / "table.json").read_text())
    assert list(table) == [row.name for row in rows] and table["temporal"] == metrics
    lines = (trained / "table.md").read_text().splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == [row.label for row in rows]
    for line, row in zip(lines, rows, strict=True):
        assert float(line.split("|")[4]) == pytest.approx(table[row.name]["G"], abs=0.051)


def test_masks_and_overlays(trained):
    videos = SyntheticVideos("test", 2, NUM_FRAMES, height=32, width=48, seed=0, max_objects=2)
    for row in table_rows(TINY.config):
        for video in videos:
            folder = trained / row.name / video.name
            assert sorted(path.stem for path in (folder / "overlays").glob("*.jpg")) == video.frame_names
            assert sorted(path.stem for path in folder.glob("*.png")) == video.frame_names
            for t, name in enumerate(video.frame_names):
                mask = Image.open(folder / f"{name}.png")
                assert (mask.mode, mask.size) == ("P", (48, 32))
                assert mask.getpalette("RGB") == davis_palette().ravel().tolist()
                assert set(np.unique(np.array(mask))) <= {0, *video.object_ids}
                assert t or np.array_equal(np.array(mask), video.labels(0))


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


def test_stages_one_by_one_and_a_finished_run_that_is_scored_again(trained, tmp_path, monkeypatch):
    make_tiny(monkeypatch)
    steps = ("--segmentation-steps", 4, "--graph-steps", 12, "--workers", 0, "--out", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("experiments.train.command.score_table", lambda *_: None)
        for stage in ("segmentation", "graph"):
            assert command(patch, "train", "--stage", stage, *steps) == 0
    assert_same_weights(*(checkpoints.load_model(path / "checkpoint.pt")[0] for path in (trained, tmp_path)))
    kill_after(monkeypatch, 0)
    assert command(monkeypatch, "train", "--resume", *steps) == 0
    assert_same_weights(*(checkpoints.load_model(path / "checkpoint.pt")[0] for path in (trained, tmp_path)))
    for row in table_rows(TINY.config):
        assert masks_in(tmp_path / row.name) == masks_in(trained / row.name)
