import json
import os
import sys

import pytest
import torch

from datasets import SyntheticVideos
from experiments import checkpoints, cli
from experiments.benchmark import command as benchmark
from experiments.benchmark import layers, plan, video_parts
from experiments.benchmark.groups import OTHER_LAYERS
from experiments.benchmark.temporal_cases import TEMPORAL_LAYERS
from experiments.presets import PRESETS

KEYS = {"layer", "backend", "device", "objects", "proposals", "height", "width", "steps", "ms", "peak_mb"}
KEYS |= {"ratio_to_copy", "speedup_over_edgewise"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    preset = PRESETS["synthetic-small"]
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    torch.manual_seed(0)
    checkpoints.save_model(path, checkpoints.build_model(preset), preset, 0)
    return path


@pytest.fixture
def run(monkeypatch, checkpoint, tmp_path):
    """Runs the command on the tiny plan."""

    def start(*arguments):
        given = ["--plan", "tiny", "--device", "cpu", "--checkpoint", checkpoint, "--out", tmp_path, *arguments]
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, given)])
        cli.run(benchmark.main)
        return json.loads((tmp_path / "benchmark.json").read_text())

    return start


def test_layers_and_frames(run, tmp_path, capsys):
    result = run()
    assert result["rows"] and all(set(row) >= KEYS for row in result["rows"])
    assert all(row["ms"] > 0 and row["ratio_to_copy"] > 0 for row in result["rows"])
    assert all(row["ms_low"] <= row["ms"] <= row["ms_high"] for row in result["rows"])
    backends = {row["backend"] for row in result["rows"] if row["group"] == "main"}
    assert backends == {"edgewise", "fused", "closed", "region", "region+frame", "region+find"}
    assert {row["layer"] for row in result["rows"]} == {"stg", *OTHER_LAYERS, *TEMPORAL_LAYERS}
    sweeps = {"objects", "proposals", "region_pixels", "frame_pixels", "memory_frames", "steps"}
    assert {fit["growth_in"] for fit in result["growth"]} == sweeps
    temporal = {fit["layer"] for fit in result["growth"] if fit["growth_in"] == "memory_frames"}
    assert temporal == set(TEMPORAL_LAYERS)
    assert {(row["proposals"], row["objects"]) for row in result["frames"]} == {
        (proposals, objects) for proposals in ("own", "stored") for objects in plan.TINY.frame_objects
    }
    assert {claim["claim"] for claim in result["claims"]} >= {"speedup of region over edgewise"}
    assert set(result["machines"]) == {"layers", "frames"} and result["scores"] == []
    text = (tmp_path / "benchmark.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert text.index("## Claims") < text.index("## Backends") < text.index("## Frames") < text.index("## Options")
    assert text.count("| stg | region+find |") == 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"benchmark.png", "stages.png"}


def test_parts_that_are_not_measured_stay(run, tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "GROUPS", layers.GROUPS[:1])
    before = run("--only", "layers")
    assert before["frames"] == [] and not (tmp_path / "stages.png").exists()
    after = run("--only", "frames", "--frames", "3")
    assert after["rows"] == before["rows"] and {row["frames"] for row in after["frames"]} == {2}
    assert len(after["claims"]) > len(before["claims"]) and set(after["machines"]) == {"layers", "frames"}


def test_an_earlier_file_that_is_broken(run, tmp_path, capsys):
    (tmp_path / "benchmark.json").write_text('{"rows": []}')
    with pytest.raises(SystemExit, match="2"):
        run("--only", "frames")
    assert "benchmark.json: is not of this version or broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "layers,speed"], "no part 'speed'"),
        (["--only", ","], "no part ','"),
        (["--frames", "2"], "--frames 2"),
        (["--frames", "many"], "many is not a whole number"),
        (["--spatial-conv", "SAGEConv"], "--spatial-conv: SAGEConv does not fit"),
        (["--checkpoint", "nowhere.pt"], "nowhere.pt: no such checkpoint"),
        (["--only", "scores", "--split", "night"], "split 'night' is unknown"),
        (["--checkpoint", str(checkpoints.SHIPPED), "--only", "scores"], "give the folder of the data set with --root"),
        (["--checkpoint", str(checkpoints.SHIPPED), "--root", "nowhere"], "nowhere"),
        pytest.param(
            ["--device", "cuda"],
            "no usable GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_arguments(run, capsys, arguments, message, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "measure_part", lambda *_: pytest.fail("something was measured"))
    with pytest.raises(SystemExit) as exit_status:
        run(*arguments)
    error = capsys.readouterr().err
    assert exit_status.value.code == 2 and error.startswith("error: ") and error.count(os.linesep) == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_costs_one_part(run, tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "GROUPS", layers.GROUPS[:1])

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "measure_frames", interrupt)
    with pytest.raises(SystemExit) as exit_status:
        run()
    assert exit_status.value.code == 130
    assert json.loads((tmp_path / "benchmark.json").read_text())["rows"]


def test_scores_come_with_a_root_or_when_asked_for(run, monkeypatch):
    asked = []
    monkeypatch.setattr(benchmark, "measure_part", lambda part, *_: asked.append(part) or {})
    monkeypatch.setattr(video_parts, "open_split", lambda *_: SyntheticVideos("val", 1, 3, 32, 48))
    monkeypatch.setattr(
        benchmark, "write_result", lambda out, _: (out / "benchmark.json").write_text('{"machines": {}}') and ""
    )
    run()
    run("--root", "somewhere")
    run("--only", "scores,layers")
    assert asked == ["layers", "frames", "layers", "frames", "scores", "layers", "scores"]


def test_layers_of_ones_own_are_measured_beside_the_others(run, monkeypatch):
    wanted = [layers.GROUPS[1], layers.GROUPS[-1]]
    monkeypatch.setattr(layers, "GROUPS", tuple(wanted))
    result = run("--only", "layers", "--spatial-conv", "own_layers:Plain", "--temporal-conv", "joint:top_k=2")
    assert {row["layer"] for row in result["rows"]} >= {"own_layers:Plain", "joint:top_k=2", "gru", "joint"}
