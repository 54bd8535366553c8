import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command, error_line
from PIL import Image
from train_cases import InProcess

from datasets.fixtures import write_fixture
from experiments.common import checkpoints
from experiments.common.presets import PRESETS
from experiments.tables import command as tables
from experiments.tables.files import draw, to_csv, to_markdown
from experiments.tables.paper_rows import OURS_IN_PAPER, TARGETS, Result, paper_rows
from experiments.tables.roots import find_roots, splits_in
from stg_pyg.errors import InputError

PRESET = PRESETS["synthetic-small"]
DATASETS = ("davis2016", "davis2017", "youtube_vos", "segtrack_v2", "youtube_objects")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the smallest copy of every benchmark."""
    root = tmp_path_factory.mktemp("data")
    for name in DATASETS:
        write_fixture(name, root / name, num_frames=6 if name != "youtube_vos" else 16, size=(32, 48))
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    torch.manual_seed(0)
    checkpoints.save_model(path, checkpoints.build_model(PRESET), PRESET, 0)
    return path


def run(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, out: Path, *arguments: object) -> int:
    monkeypatch.setattr("experiments.runs.scoring.ProcessPoolExecutor", InProcess)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return command(
        monkeypatch, "tables", "--checkpoint", checkpoint, "--out", out, "--device", "cpu", "--processes", 1, *arguments
    )


def lines_in(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "tables.csv").read_text().splitlines()))


def measured(out: Path) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {target.key: [] for target in TARGETS}
    for line in lines_in(out):
        if line["source"] == "measured":
            found[line["benchmark"]].append(line)
    return found


def test_all_benchmarks(monkeypatch, capsys, tmp_path, data, checkpoint):
    steps = []
    monkeypatch.setattr(
        "stg_pyg.learning.lesson.learn_online", lambda net, *args, **options: steps.append(options["steps"]) or net
    )
    out = tmp_path / "out"
    assert run(monkeypatch, checkpoint, out, "--root", data, "--split", "dev", "--online-steps", 7) == 0
    printed = capsys.readouterr().out
    assert (out / "tables.md").read_text() == printed[:-1]
    found = measured(out)
    assert [line["note"] for line in found["davis2017-test-dev"]] == [tables.NO_ANNOTATIONS]
    for target in TARGETS[1:]:
        off, on = found[target.key]
        folder = out / f"{target.dataset}-{'dev' if target.dataset == 'youtube_vos' else target.split}"
        for line, name in ((off, "offline"), (on, "online")):
            metrics = json.loads((folder / name / "metrics.json").read_text())
            assert float(line["G"]) == metrics["G"] and float(line["J"]) == metrics["J"]["mean"]
            assert float(line["fps"]) > 0
            assert metrics["config"]["online"]["steps"] == (0 if name == "offline" else 7)
        assert (off["online_learning"], on["online_learning"]) == ("0", "1")
        assert ("not comparable" in off["note"]) == (target.dataset == "youtube_vos")
    assert steps and set(steps) == {7}
    youtube = found["youtube_vos-valid"][0]
    group = json.loads((out / "youtube_vos-dev/offline/metrics.json").read_text())["protocol"]["groups"]["seen"]
    assert float(youtube["J_seen"]) == group["J"] and youtube["J_unseen"] == ""
    assert Image.open(out / "tables.png").size[0] > 500


def test_what_is_missing_is_said(monkeypatch, capsys, tmp_path, data, checkpoint):
    arguments = ("--root", data / "davis2016", "--learning", "off")
    assert run(monkeypatch, checkpoint, tmp_path / "out", *arguments) == 0
    found = measured(tmp_path / "out")
    assert [line["note"] for line in found.pop("davis2016-val")] == [""]
    assert {line["note"] for lines in found.values() for line in lines} == {tables.NO_DATA} and len(found) == 5
    assert capsys.readouterr().out.count(tables.NO_DATA) == 5
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.png") if p.name != "tables.png"}
    first = lines_in(tmp_path / "out")
    assert run(monkeypatch, checkpoint, tmp_path / "out", *arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is done twice"
    assert lines_in(tmp_path / "out") == first


def test_split_in_the_place_of_a_missing_one(monkeypatch, tmp_path, data, checkpoint):
    half = tmp_path / "half"
    shutil.copytree(data / "davis2017", half)
    (half / "ImageSets/2017/val.txt").rename(half / "ImageSets/2017/dev.txt")
    arguments = ("--root", half, "--split", "dev", "--learning", "off", "--out", tmp_path / "out")
    assert run(monkeypatch, checkpoint, tmp_path / "out", *arguments) == 0
    found = measured(tmp_path / "out")
    assert [line["note"] for line in found["davis2017-val"]] == ["dev, not val: not comparable"]
    assert [line["note"] for line in found["davis2017-test-dev"]] == [tables.NO_ANNOTATIONS], "dev is not run twice"


def test_bad_arguments(monkeypatch, capsys, tmp_path, data, checkpoint):
    def line(*arguments: object) -> str:
        assert run(monkeypatch, checkpoint, tmp_path / "out", *arguments) == 2
        return error_line(capsys)

    assert str(tmp_path / "nowhere") in line("--root", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    message = line("--root", tmp_path / "empty")
    assert str(tmp_path / "empty") in message and "ImageSets" in message and "meta.json" in message
    message = line("--root", data / "youtube_vos")
    assert "dev of youtube_vos" in message and "--split" in message
    assert "--learning off" in line("--root", data, "--learning", "on", "--online-steps", 0)
    assert "none.pt" in line("--root", data, "--checkpoint", tmp_path / "none.pt")
    shutil.copytree(data / "davis2016", tmp_path / "half")
    next((tmp_path / "half/Annotations/480p/cows").iterdir()).unlink()
    assert "copy the sequence again" in line("--root", tmp_path / "half")


def test_ranks_that_only_do_their_part(monkeypatch, capsys, tmp_path, data, checkpoint):
    arguments = ("--root", data / "davis2016", "--learning", "off")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert run(monkeypatch, checkpoint, tmp_path / "out", *arguments) == 0
        assert (tmp_path / "out/tables.csv").exists() == (rank == "0")
        assert len(list((tmp_path / "out/davis2016-val/offline/.done").iterdir())) == 2 - int(rank)
    assert len(measured(tmp_path / "out")["davis2016-val"]) == 1


def test_layouts(data, tmp_path):
    assert splits_in(data / "davis2016") == {"davis2016": {"train", "val"}}
    assert splits_in(data / "davis2017") == {"davis2017": {"train", "val", "test-dev"}}
    assert splits_in(data / "youtube_vos") == {"youtube_vos": {"train", "valid", "fit", "dev"}}
    assert splits_in(data / "segtrack_v2") == {"segtrack_v2": {"all"}}
    assert splits_in(data / "youtube_objects") == {"youtube_objects": {"all"}}
    assert splits_in(tmp_path) == {} == splits_in(data)
    both = tmp_path / "both"
    shutil.copytree(data / "davis2017", both)
    shutil.copytree(data / "davis2016", both, dirs_exist_ok=True)
    assert set(splits_in(both)) == {"davis2016", "davis2017"}
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
    own = Result("davis2016-val", "here", True, {"J": 12.34, "F": 20.06, "G": 16.2}, 0.254, ours=True, note="dev")
    text = to_markdown([own, *paper_rows()], ["foot"])
    assert "| **here** | **✓** | **12.3** | **20.1** | **16.2** | **0.25** | **dev** |" in text.splitlines()
    part = text.split("## ")[3]
    assert part.startswith("Table 1: DAVIS-2016 val") and part.rstrip().endswith("**dev** |"), "own rows are the last"
    assert "| OSMN | ✗ | 60.0 | 40.6 | 60.1 | 44.0 | 51.2 | 8.0 |  |" in text and text.endswith("foot\n")
    lines = list(csv.DictReader(to_csv([own, *paper_rows()]).splitlines()))
    assert len(lines) == 55 and lines[-1]["J"] == "84.1" and lines[-1]["fps"] == ""
    assert next(line for line in lines if line["source"] == "measured")["fps"] == "0.254"
    picture = draw([own, *paper_rows()])
    assert picture.dtype == np.uint8 and not np.array_equal(picture, draw(paper_rows()))
