import argparse
import csv
import json
import shutil

import numpy as np
import pytest
from commands import command, error_line
from PIL import Image
from table_cases import at_once, here, learned
from train_cases import TINY, tiny_model

from datasets.fixtures import write_fixture
from experiments.common import checkpoints
from experiments.common.presets import PRESETS
from experiments.tables import command as tables
from experiments.tables.output import draw, to_csv, to_markdown
from experiments.tables.paper_rows import OURS_IN_PAPER, TARGETS, Result, paper_rows
from experiments.tables.roots import find_roots, splits_in
from stg_pyg.errors import InputError

__all__ = ["at_once", "here", "learned"]
DATASETS = ("davis2016", "davis2017", "youtube_vos", "segtrack_v2", "youtube_objects")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the smallest copy of every benchmark, and a checkpoint."""
    root = tmp_path_factory.mktemp("data")
    for name in DATASETS:
        write_fixture(name, root / name, num_frames=6 if name != "youtube_vos" else 16, size=(32, 48))
    checkpoints.save_model(root / "c.pt", tiny_model(0), TINY, 0)
    return root


@pytest.fixture
def run(monkeypatch, data, tmp_path):
    """Runs the command; returns the exit status."""

    def call(*arguments):
        given = ("--checkpoint", data / "c.pt", "--out", tmp_path / "out", "--device", "cpu", "--processes", 1)
        return command(monkeypatch, "tables", *given, *arguments)

    return call


@pytest.fixture
def measured(tmp_path):
    """Our rows by benchmark."""

    def read():
        found = {target.key: [] for target in TARGETS}
        for line in csv.DictReader((tmp_path / "out/tables.csv").read_text().splitlines()):
            if line["source"] == "measured":
                found[line["benchmark"]].append(line)
        return found

    return read


def test_all_benchmarks(run, measured, capsys, tmp_path, data, at_once):
    out = tmp_path / "out"
    assert run("--root", data, "--split", "dev", "--online-steps", 7) == 0
    assert (out / "tables.md").read_text() == capsys.readouterr().out[:-1]
    found = measured()
    assert [line["note"] for line in found["davis2017-test-dev"]] == [tables.NO_ANNOTATIONS]
    for target in TARGETS[1:]:
        folder = out / f"{target.dataset}-{'dev' if target.dataset == 'youtube_vos' else target.split}"
        for line, name in zip(found[target.key], ("offline", "online-0"), strict=True):
            metrics = json.loads((folder / name / "metrics.json").read_text())
            assert float(line["G"]) == metrics["G"] and float(line["J"]) == metrics["J"]["mean"]
            assert float(line["fps_steps"]) == pytest.approx(metrics["fps"]) and line["std"] == ""
            assert float(line["fps"]) <= float(line["fps_steps"]) and line["online_learning"] == str(
                int(name == "online-0")
            )
            assert metrics["config"]["online"]["steps"] == (0 if name == "offline" else 7)
            assert ("not comparable" in line["note"]) == (target.dataset == "youtube_vos")
    assert {steps for steps, _ in at_once} == {7}
    assert "preset synthetic-small: its networks are not the paper's" in (out / "tables.md").read_text()
    youtube = found["youtube_vos-valid"][0]
    group = json.loads((out / "youtube_vos-dev/offline/metrics.json").read_text())["protocol"]["groups"]["seen"]
    assert float(youtube["J_seen"]) == group["J"] and youtube["J_unseen"] == ""
    assert Image.open(out / "tables.png").size[0] > 500


def worse_with_every_seed(job, video, *_):
    """The true masks, with as much cut off as the seed of online learning says."""
    for t in range(video.num_frames):
        found = video.labels(t).copy()
        found[:, : 4 + 4 * (job.online_seed or 0)] = 0
        yield found


def test_seeds_of_online_learning(run, measured, monkeypatch, tmp_path, data, at_once):
    monkeypatch.setattr("experiments.runs.scoring.stream_labels", worse_with_every_seed)
    arguments = ("--root", data / "davis2016", data / "segtrack_v2", "--online-steps", 7)
    assert run(*arguments, "--seeds", "0,1,2") == 0
    assert len(at_once) == len(set(at_once)) == 3 * len(list((tmp_path / "out").glob("*/online-0/.done/*")))
    found = measured()
    for key, score in (("davis2016-val", lambda m: m["G"]), ("segtrack_v2-all", lambda m: m["J"]["mean"])):
        folders = [tmp_path / "out" / key / f"online-{seed}" for seed in range(3)]
        values = [score(json.loads((folder / "metrics.json").read_text())) for folder in folders]
        (offline, online), main = found[key], "GJ"[key.startswith("seg")]
        assert values[0] > values[1] > values[2] and float(online[main]) == pytest.approx(np.mean(values))
        assert float(online["std"]) == pytest.approx(np.std(values, ddof=1))
        assert offline["std"] == "" and offline["fps"] == offline["fps_steps"]
        text = (tmp_path / "out/tables.md").read_text()
        assert f"| **{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}** |" in text and "seeds 0, 1, 2, ±" in text
    assert run(*arguments) == 0 and len(at_once) == len(set(at_once)), "seed 0 is finished"
    assert measured()["davis2016-val"][1]["std"] == ""


def test_speeds_and_means(data):
    (cows, *_), _ = tables.find_runs([data / "davis2016"], TINY, None, 0)
    assert [video.num_frames for video in cows.videos] == [6, 6]
    names = ("J", "F")
    summaries = [
        {name: {"mean": g} for name in names} | {"G": g, "fps": fps, "online_seconds": online, "protocol": {}}
        for g, fps, online in ((70.0, 4.0, 3.0), (76.0, 2.0, 9.0))
    ]
    row = tables.to_result(cows, summaries, 7)
    assert row.scores == {"J": 73, "F": 73, "G": 73} and row.spread == pytest.approx(18**0.5)
    assert row.fps_steps == pytest.approx(1 / 0.375) and row.fps == pytest.approx(12 / (12 * 0.375 + 2 * 6))
    alone = tables.to_result(cows, [summaries[0] | {"online_seconds": 0.0}], 0)
    assert alone.fps == alone.fps_steps == 4 and alone.spread is None


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("davis2017-paper", "davis2017-paper.\n"),
        (
            "davis2016-small",
            "davis2016-small: its networks are not the paper's, and the paper's rows cannot be compared",
        ),
        ("davis2016-large", "davis2016-large: its constants and training are not the paper's, and the paper's rows"),
    ],
)
def test_what_the_checkpoint_is(preset, words):
    text = tables.footnote(argparse.Namespace(seeds=[3]), PRESETS[preset], "cpu")
    assert words in text and "±" not in text


def test_what_is_missing_is_said_and_nothing_is_done_twice(run, measured, monkeypatch, tmp_path, data, at_once):
    arguments = ("--root", data / "davis2016", "--learning", "off")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert run(*arguments) == 0
        assert (tmp_path / "out/tables.csv").exists() == (rank == "0")
        assert len(list((tmp_path / "out/davis2016-val/offline/.done").iterdir())) == 2 - int(rank)
    monkeypatch.delenv("WORLD_SIZE")
    first = measured()
    notes = {key: {line["note"] for line in lines} for key, lines in first.items()}
    assert notes.pop("davis2016-val") == {""} and [*notes.values()] == [{tables.NO_DATA}] * 5
    assert {line["note"] for key, lines in first.items() if key != "davis2016-val" for line in lines} == {
        tables.NO_DATA
    }
    monkeypatch.setattr("experiments.runs.scoring.record_video", lambda *_: pytest.fail("done twice"))
    assert run(*arguments) == 0 and measured() == first


def test_split_in_the_place_of_a_missing_one(tmp_path, data):
    half = tmp_path / "half"
    shutil.copytree(data / "davis2017", half)
    (half / "ImageSets/2017/val.txt").rename(half / "ImageSets/2017/dev.txt")
    runs, notes = tables.find_runs([half], TINY, "dev", 0)
    assert [(run.target.key, run.split) for run in runs] == [("davis2017-val", "dev")], "dev is not run twice"
    assert tables.NO_ANNOTATIONS in {row.note for row in notes if row.target == "davis2017-test-dev"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--root {tmp}/nowhere", "nowhere"),
        ("--root {tmp}/empty", "empty ImageSets meta.json"),
        ("--root {data}/youtube_vos", "dev youtube_vos --split"),
        ("--root {data} --learning on --online-steps 0", "--learning off"),
        ("--root {data} --checkpoint none.pt", "none.pt"),
        ("--root {data} --seeds 0,x", "--seeds whole"),
        ("--root {tmp}/half", "copy the sequence again"),
    ],
)
def test_bad_arguments(run, capsys, tmp_path, data, arguments, words):
    (tmp_path / "empty").mkdir()
    shutil.copytree(data / "davis2016", tmp_path / "half")
    next((tmp_path / "half/Annotations/480p/cows").iterdir()).unlink()
    assert run(*arguments.format(tmp=tmp_path, data=data).split()) == 2
    line = error_line(capsys)
    assert all(word in line for word in words.split())


def test_layouts(data, tmp_path):
    splits = ({"train", "val"}, {"train", "val", "test-dev"}, {"train", "valid", "fit", "dev"}, {"all"}, {"all"})
    for name, found in zip(DATASETS, splits, strict=True):
        assert splits_in(data / name) == {name: found}
    assert splits_in(tmp_path) == {} == splits_in(data)
    both = tmp_path / "both"
    for name in ("davis2017", "davis2016"):
        shutil.copytree(data / name, both, dirs_exist_ok=True)
    found = find_roots([data / "davis2017", both])
    assert found["davis2017", "val"] == data / "davis2017" and found["davis2016", "val"] == both
    assert find_roots([data]) == find_roots([data / name for name in DATASETS])
    with pytest.raises(InputError, match="no data set"):
        find_roots([data / "davis2016/ImageSets"])


def test_rows_of_the_paper():
    rows = paper_rows()
    counts = {target.key: len([row for row in rows if row.target == target.key]) for target in TARGETS}
    assert list(counts.values()) == [12, 12, 9, 13, 4, 4]
    for row in rows:
        if set(row.scores) == {"J", "F", "G"}:
            assert abs(row.scores["G"] - (row.scores["J"] + row.scores["F"]) / 2) < 0.11, row
        elif row.target == "youtube_vos-valid" and None not in row.scores.values():
            parts = [value for name, value in row.scores.items() if name != "G"]
            assert abs(row.scores["G"] - np.mean(parts)) < 0.4, row
    ours = {row.target: row for row in rows if row.method == OURS_IN_PAPER}
    assert ours["davis2017-test-dev"].scores == {"J": 59.7, "F": 66.5, "G": 63.1}
    assert ours["davis2017-val"].scores["G"] == 74.7 and ours["davis2016-val"].scores["G"] == 85.7
    assert (ours["youtube_vos-valid"].scores["G"], ours["youtube_vos-valid"].fps) == (73.0, 6.0)
    assert ours["segtrack_v2-all"].scores == {"J": 79.5} and ours["youtube_objects-all"].scores == {"J": 84.1}
    assert {row.method for row in rows if row.online} == {"OnAVOS", "DMM", "OSVOS", "S2S"}


def test_files():
    own = Result("davis2016-val", "here", True, {"J": 12.34, "F": 20.06, "G": 16.2}, 0.26, 0.254, 1.5, True, "dev")
    text = to_markdown([own, *paper_rows()], "foot")
    part = text.split("## ")[3].rstrip()
    assert part.startswith("Table 1: DAVIS-2016 val"), "own rows are the last"
    assert part.endswith("| **here** | **✓** | **12.3** | **20.1** | **16.2 ± 0.3** | **0.254** | **1.5** | **dev** |")
    assert "| OSMN | ✗ | 60.0 | 40.6 | 60.1 | 44.0 | 51.2 | 8 |  |  |" in text and text.endswith("foot\n")
    lines = list(csv.DictReader(to_csv([own, *paper_rows()]).splitlines()))
    assert len(lines) == 55 and lines[-1]["J"] == "84.1" and lines[-1]["fps"] == ""
    found = next(line for line in lines if line["source"] == "measured")
    assert (found["std"], found["fps"], found["fps_steps"]) == ("0.26", "0.254", "1.5")
    points = [[len(axes.lines) for axes in draw(rows).axes] for rows in (paper_rows(), [own, *paper_rows()])]
    assert sum(points[1]) - sum(points[0]) == points[1][2] - points[0][2] == 1
