import csv
import json
import os

import pytest
from commands import command, error_line
from train_cases import TINY, tiny_model

from datasets import SyntheticVideos
from experiments.benchmark import command as benchmark
from experiments.benchmark import layers, videos
from experiments.benchmark.layers import SPATIAL, SWEEPS, TEMPORAL
from experiments.benchmark.output import flat, table
from experiments.common import checkpoints
from experiments.common.tabulate import csv_text

KEYS = {"layer", "backend", "device", "objects", "proposals", "height", "width", "steps", "ms", "peak_mb"}
KEYS |= {"ratio_to_copy", "speedup_over_edgewise"}
SIZES = ("--quick", "--objects", 2, "--proposals", 3, "--height", 48, "--width", 80, "--frames", 4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    checkpoints.save_model(path, tiny_model(0), TINY, 0)
    return path


@pytest.fixture
def run(monkeypatch, checkpoint, tmp_path):
    """Runs the command at tiny sizes."""

    def start(*arguments):
        given = ("--device", "cpu", "--checkpoint", checkpoint, "--out", tmp_path / "out", *SIZES, *arguments)
        return command(monkeypatch, "benchmark", *given)

    return start


@pytest.fixture
def result(tmp_path):
    return lambda: json.loads((tmp_path / "out" / "benchmark.json").read_text())


def test_layers(run, result, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(layers, "MEMORY_FRAMES", (1, 1, 2))
    assert run("--only", "layers") == 0
    rows = result()["rows"]
    assert all(set(row) >= KEYS for row in rows)
    assert all(row["ms_low"] <= row["ms"] <= row["ms_high"] and row["ratio_to_copy"] > 0 for row in rows)
    assert {row["layer"] for row in rows} == {"stg", *SPATIAL, *TEMPORAL}
    backends = ["edgewise", "fused", "closed", "region", "region+frame", "region+find"]
    assert [row["backend"] for row in rows if row["group"] == "main"] == backends
    assert {fit["growth_in"] for fit in result()["exponents"]} == {*SWEEPS, "memory_frames"}
    assert set(result()["machines"]) == {"layers"} and result()["frames"] == result()["scores"] == []
    out = tmp_path / "out"
    files = "benchmark.json benchmark.md benchmark.png rows.csv exponents.csv"
    assert {path.name for path in out.iterdir()} == set(files.split())
    assert (out / "benchmark.md").read_text().strip() == capsys.readouterr().out.strip()
    table = list(csv.DictReader((out / "rows.csv").open()))
    assert len(table) == len(rows) and float(table[0]["ms"]) == rows[0]["ms"]


@pytest.mark.parametrize(
    ("arguments", "spatial", "temporal"),
    [
        (("--spatial-conv", "GraphConv", "--temporal-conv", "joint"), {"GraphConv"}, {"joint"}),
        (("--layers", "pixel,SAGEConv"), {"pixel", "evidence:conv=SAGEConv"}, set(TEMPORAL)),
    ],
)
def test_layers_that_are_named_are_measured_with_their_gradients(
    run, result, monkeypatch, arguments, spatial, temporal
):
    monkeypatch.setattr(layers, "SWEEPS", {})
    assert run(*arguments, "--backward") == 0
    rows = result()["rows"]
    assert {row["layer"] for row in rows} == {"stg"} | spatial | temporal and all(row["backward"] for row in rows)
    assert set(result()["machines"]) == {"layers"}, "a checkpoint may lack its weights, so no frames unless asked for"


def test_parts_that_are_not_measured_stay(run, result, tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "SWEEPS", {})
    assert run("--only", "layers", "--temporal-conv", "mean") == 0
    before = result()
    run_frames = benchmark.run_frames
    monkeypatch.setattr(benchmark, "run_frames", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("--only", "layers,frames", "--temporal-conv", "mean") == 130
    assert len(result()["rows"]) == len(before["rows"]) and not result()["frames"], "an interruption costs one part"
    before = result()
    monkeypatch.setattr(benchmark, "run_frames", run_frames)
    assert run("--only", "frames", "--frames", 3) == 0
    after = result()
    assert after["rows"] == before["rows"] and set(after["machines"]) == {"layers", "frames"}
    options = [after["machines"][part]["options"] for part in ("layers", "frames")]
    assert ["--temporal-conv mean" in text for text in options] == [True, False]
    assert ["--frames 3" in text for text in options] == [False, True]
    found = [(row["run"], row["objects"]) for row in after["frames"]]
    assert found == [("own", 1), ("stored", 1), ("own", 2), ("stored", 2)]
    assert (tmp_path / "out" / "stages.png").is_file()
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert text.index("## Rows") < text.index("## Frames") and "segment" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "layers,speed"], "no part 'speed'"),
        (["--frames", 2], "--frames 2: must be at least 3"),
        (["--spatial-conv", "nothing"], "unknown spatial layer 'nothing'"),
        (["--only", "frames", "--spatial-conv", "gru"], "has no weights of this layer"),
        (["--spatial-conv", "SAGEConv"], "--spatial-conv: SAGEConv does not fit"),
        (["--layers", "nothing"], "--layers: unknown spatial layer 'nothing'"),
        (["--layers", "mean", "--spatial-conv", "gru"], "give one of them"),
        (["--checkpoint", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
        (["--only", "scores", "--split", "night"], "split 'night' is unknown"),
        (["--checkpoint", checkpoints.SHIPPED, "--only", "scores"], "give the folder of the data set with --root"),
        (["--checkpoint", checkpoints.SHIPPED, "--root", "nowhere"], "nowhere"),
    ],
)
def test_bad_arguments(run, capsys, arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "run_part", lambda *_: pytest.fail("something was measured"))
    assert run(*arguments) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_an_earlier_file_that_is_broken(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "benchmark.json").write_text('{"rows": []}')
    assert run("--only", "frames") == 2
    assert "benchmark.json: is not of this version or broken" in error_line(capsys)


def test_scores_come_with_a_root_or_when_asked_for(run, monkeypatch):
    asked = []
    monkeypatch.setattr(benchmark, "run_part", lambda part, *_: asked.append(part) or {})
    monkeypatch.setattr(videos, "open_split", lambda *_: SyntheticVideos("val", 1, 3, 32, 48))
    run()
    run("--root", os.curdir)
    run("--only", "scores,layers")
    assert asked == ["layers", "frames", "layers", "frames", "scores", "layers", "scores"]


def test_tables():
    rows = [
        {"run": "own", "ms": 2.5, "stages": {"graph": 1.0, "rest": 1.5}, "skipped": None},
        {"run": "compile", "ms": None, "stages": None, "skipped": "no compiler"},
    ]
    assert table(rows, "run: {run} | ms: {ms:.1f}").splitlines() == [
        "| run | ms | graph | rest | skipped |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| own | 2.5 | 1.0 | 1.5 |  |",
        "| compile |  |  |  | no compiler |",
    ]
    text = csv_text([flat(row) for row in rows])
    assert text == "run,ms,skipped,graph_ms,rest_ms\nown,2.5,,1.0,1.5\ncompile,,no compiler,,\n"
