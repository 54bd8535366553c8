import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ROOT, command, error_line
from PIL import Image
from train_cases import InProcess

from datasets import SyntheticVideos, VideoSequence
from datasets.first_frames import first_frames
from datasets.fixtures import write_fixture
from experiments.ablate import runs as ablation_runs
from experiments.ablate.files import draw, to_markdown
from experiments.ablate.rows import (
    CURVES,
    OWN_NAMES,
    TABLE_4,
    Source,
    curve_cases,
    own_cases,
    paper_cases,
    printed,
)
from experiments.common import checkpoints
from experiments.common.presets import PRESETS, open_split
from experiments.runs.job import Job
from experiments.runs.store import Records
from stg_pyg.config import STGConfig

PRESET = PRESETS["synthetic-small"]
SMALL = STGConfig.small()
NUM_FRAMES = 5
ONE = ("--sequences", "cows")


def source(config: STGConfig = SMALL, name: str = "c") -> Source:
    return Source(Path(f"{name}.pt"), PRESET, config)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("davis")
    write_fixture("davis2016", root, num_frames=NUM_FRAMES, size=(32, 48))
    return root


def make_checkpoint(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    checkpoints.save_model(path, checkpoints.build_model(PRESET), PRESET, seed)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "c.pt", 0)


Done = dict[str, list[Any]]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Done:
    """What is done in this process: online learning (steps and seed), and videos by folder of the run."""
    found: Done = {"learned": [], "scored": []}
    record = ablation_runs.record_video

    def learn(net: torch.nn.Module, *_: object, **options: Any) -> torch.nn.Module:
        found["learned"].append((options["steps"], options["seed"]))
        return net

    def counting(job: Job, records: Records, name: str, learned: Any) -> None:
        found["scored"].append((job.out.name, name))
        record(job, records, name, learned)

    monkeypatch.setattr("stg_pyg.learning.lesson.learn_online", learn)
    monkeypatch.setattr(ablation_runs, "record_video", counting)
    monkeypatch.setattr(ablation_runs, "ProcessPoolExecutor", InProcess)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return found


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch, in_process: Done) -> Done:
    """The same with masks that cost nothing: the true ones, with as much cut off as the configuration says."""

    def labels(job: Job, video: VideoSequence, *_: object) -> Iterator[np.ndarray]:
        cut = 1 + zlib.crc32(str(job.rows[0].config).encode()) % 15
        for t in range(video.num_frames):
            found = video.labels(t)
            assert found is not None
            found[:, :cut] = 0
            yield found

    monkeypatch.setattr("experiments.runs.scoring.stream_labels", labels)
    monkeypatch.setattr("experiments.runs.settings.code_digest", lambda: "the same")
    return in_process


def run(monkeypatch: pytest.MonkeyPatch, root: Path, checkpoint: Path, out: Path, *arguments: object) -> int:
    data = ("--preset", "davis2016", "--root", root, "--split", "val", "--checkpoint", checkpoint, "--device", "cpu")
    return command(monkeypatch, "ablate", *data, "--out", out, "--processes", 1, *arguments)


def result_in(out: Path) -> dict[str, Any]:
    return json.loads((out / "ablation.json").read_text())


def test_table_4_as_printed():
    assert [row.paper_G for row in TABLE_4] == [53.2, 54.1, 58.4, 59.2, 59.8, 61.9, 63.1, 62.3, 64.3, 66.5, 69.4]
    steps = {row.number: row.paper_G - TABLE_4[row.compared_to - 1].paper_G for row in TABLE_4 if row.compared_to}
    in_the_text = {2: 0.9, 3: 4.3, 4: 0.8, 5: 0.6, 6: 2.1, 9: 1.2, 10: 2.2, 11: 2.9}
    assert {number: round(steps[number], 1) for number in in_the_text} == in_the_text
    columns = list(zip(*(row.settings().values() for row in TABLE_4), strict=True))
    on, off, none = True, False, None
    assert columns == [
        (off, *[on] * 10),
        (off, off, *[on] * 9),
        (none, none, 0.5, *[0.7] * 8),
        (none, none, 1, 1, 1, 1, 2, 3, 2, 2, 2),
        (*[0.5] * 4, *[0.4] * 7),
        (*[off] * 5, *[on] * 6),
        (*[off] * 8, *[on] * 3),
        (*[off] * 9, *[on] * 2),
        (*[off] * 10, on),
    ]


def test_rows_change_their_settings_and_nothing_else():
    rows = {row.number: row for row in TABLE_4}
    cases = paper_cases(rows, {"own": source()})
    assert list(cases) == list(range(1, 11)), "the last row has no weights"
    assert cases[1].config == SMALL.replace(
        {"motion.enabled": False, "spatial.enabled": False, "temporal.enabled": False, "selection.lambda1": 0.5}
    )
    assert cases[8].config == SMALL.replace({"spatial.alpha": 0.7, "spatial.num_steps": 3, "selection.lambda1": 0.4})
    assert [number for number, case in cases.items() if case.online] == [9, 10]
    assert cases[9].config == cases[10].config and {case.weights for case in cases.values()} == {"own"}
    other = SMALL.replace("selection.thr", 0.3)
    cases = paper_cases(rows, {"own": source(), "base": source(other), "ytb": source()})
    assert [case.weights for case in cases.values()] == ["base"] * 9 + ["own", "ytb"]
    assert cases[9].config is not None and cases[9].config.selection.thr == 0.3
    paper = paper_cases(rows, {"own": source(printed(SMALL))})[7].config
    assert paper == STGConfig.paper().replace(
        {"proposals.crop_margin": SMALL.proposals.crop_margin, "warping.gaps": SMALL.warping.gaps}
    )


def test_parts_that_are_taken_away():
    cases = {case.name: case for case in own_cases({"own": source(), "base": source()})}
    no_learning: dict[str, Any] = {
        "spatial.node_gate": False,
        "selection.quality_weight": 0.0,
        "temporal.enabled": False,
    }
    changes: dict[str, dict[str, Any]] = {
        "no-motion-model": {"motion.enabled": False},
        "no-spatial-graph": {"spatial.enabled": False},
        "no-temporal-graph": {"temporal.enabled": False},
        "no-memory-of-whole-frames": {"scene.enabled": False},
        "no-gate-of-the-nodes": {"spatial.node_gate": False},
        "no-quality-term-in-eq-6": {"selection.quality_weight": 0.0},
        "no-re-detection": {"recovery.redetect": False},
        "no-completion-of-parts": {"recovery.complete": False},
        "no-learned-part-of-the-graphs": no_learning,
        "one-box": no_learning
        | {
            "proposals.evidence": ("p",),
            "spatial.enabled": False,
            "recovery.redetect": False,
            "recovery.complete": False,
        },
        "full": {},
        "no-online-learning": {},
        "no-fine-tuning": {},
        "neither": {},
    }
    for name, change in changes.items():
        assert cases[name].config == SMALL.replace(change)
    assert next(iter(cases)) == "full" and set(cases) - set(changes) == {"mean", "greedy", "flow"}
    assert [n for n, case in cases.items() if case.weights == "base"] == ["no-fine-tuning", "neither"]
    assert [n for n, case in cases.items() if not case.online] == ["flow", "no-online-learning", "neither"]
    assert cases["mean"].config is not None and cases["mean"].config.spatial.conv == "mean"
    updating = own_cases({"own": source(SMALL.replace("online.update_every", 8)), "base": source()})
    assert [case.name for case in updating] == list(OWN_NAMES)
    plain = own_cases({"own": source(SMALL.replace("recovery.redetect", False))}, online=False)
    assert not {"no-re-detection", "no-online-learning", "no-fine-tuning"} & {case.name for case in plain}


def test_points_of_curves():
    points = dict(curve_cases(CURVES["memory"], SMALL.replace("memory.frames", 5)))
    assert list(points) == [1, 2, 4, 5, 8, 16, "all"]
    assert points["all"].config is not None and points["all"].config.memory.frames is None
    assert points[5].config == SMALL.replace("memory.frames", 5)
    points = dict(curve_cases(CURVES["alpha"], SMALL))
    assert list(points) == [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0] and points[0.9].config == SMALL.replace(
        "spatial.alpha", 0.9
    )
    for curve in CURVES.values():
        assert len({case.config for _, case in curve_cases(curve, SMALL)}) == len(curve_cases(curve, SMALL))


def test_a_whole_run(monkeypatch, capsys, tmp_path, root, checkpoint, done):
    arguments = ("--rows", "1,7,9,10,11", "--curves", "l", "--curve-frames", 3, "--online-steps", 4)
    assert run(monkeypatch, root, checkpoint, tmp_path, *arguments) == 0
    result = result_in(tmp_path)
    assert capsys.readouterr().out.rstrip() == (tmp_path / "ablation.md").read_text().rstrip()
    rows = {row["number"]: row for row in result["rows"]}
    assert list(rows) == [1, 7, 9, 10, 11]
    for row in rows.values():
        assert {*TABLE_4[0].settings(), "J", "F", "G", "paper_G"} <= set(row)
    assert {number: row["ft"] for number, row in rows.items()} == {1: None, 7: None, 9: None, 10: True, 11: True}
    assert rows[11]["J"] is rows[11]["F"] is rows[11]["G"] is None and "--ytb-checkpoint" in rows[11]["note"]
    assert rows[9]["masks"] == rows[10]["masks"] and rows[9]["G"] == rows[10]["G"] and rows[10]["change"] is None
    assert rows[9]["change"] == pytest.approx(rows[9]["G"] - rows[7]["G"]) and rows[9]["paper_change"] == 1.2
    assert rows[1]["G"] == pytest.approx((rows[1]["J"] + rows[1]["F"]) / 2)
    assert rows[1]["G"] == pytest.approx(np.mean(list(rows[1]["sequences"].values())))
    assert list(rows[1]["sequences"]) == result["sequences"] and rows[1]["seconds_per_frame"] > 0
    assert rows[7]["config"]["online"]["steps"] == 0 and rows[9]["config"]["online"]["steps"] == 4
    own = {row["name"]: row for row in result["own"]}
    assert own["full"]["change"] is None
    assert own["flow"]["change"] == pytest.approx(own["flow"]["G"] - own["full"]["G"]) and own["flow"]["config"] is None
    points = result["curves"]["l"]["points"]
    assert [point["value"] for point in points] == [1, 2, 3, 4] and result["curves"]["l"]["own"] == 1
    assert points[0]["masks"] != own["full"]["masks"], "of fewer frames"
    assert {len(list((tmp_path / points[0]["masks"][0] / name).glob("*.png"))) for name in result["sequences"]} == {3}
    assert len(list((tmp_path / own["full"]["masks"][0]).glob("*/*.png"))) == NUM_FRAMES * len(result["sequences"])
    assert any("--base-checkpoint" in note for note in result["notes"])
    assert Image.open(tmp_path / "ablation.png").size[0] > 1000
    assert done["learned"] and len(done["learned"]) == len(result["sequences"]), "once a video, for all rows and curves"
    assert len(set(done["scored"])) == len(done["scored"]), "equal configurations are run once"


def test_what_is_finished_is_kept(monkeypatch, tmp_path, root, checkpoint, done):
    short = ("--frames", 3, "--no-own", "--online-steps", 2)
    assert run(monkeypatch, root, checkpoint, tmp_path, *short, "--rows", "1,9") == 0
    first, scored = result_in(tmp_path), list(done["scored"])
    assert run(monkeypatch, root, checkpoint, tmp_path, *short, "--rows", "1,9") == 0
    assert result_in(tmp_path) == first and done["scored"] == scored
    assert run(monkeypatch, root, checkpoint, tmp_path, *short, "--rows", "1,2,9") == 0
    added = done["scored"][len(scored) :]
    assert len(added) == len(first["sequences"]) and {folder for folder, _ in added}.isdisjoint(dict(scored))
    again = {row["number"]: row for row in result_in(tmp_path)["rows"]}
    assert [again[1], again[9]] == first["rows"]
    next((tmp_path / again[2]["masks"][0] / ".done").iterdir()).unlink()
    learned = len(done["learned"])
    assert run(monkeypatch, root, checkpoint, tmp_path, *short, "--rows", "2") == 0
    assert len(done["scored"]) == len(scored) + len(added) + 1 and len(done["learned"]) == learned
    assert run(monkeypatch, root, checkpoint, tmp_path, *short, "--rows", "10") == 0
    own = ("--frames", 3, "--online-steps", 2, "--rows", "none", "--own")
    assert run(monkeypatch, root, checkpoint, tmp_path, *own, "greedy,flow") == 0
    assert [row["name"] for row in result_in(tmp_path)["own"]] == ["greedy", "flow"]
    assert all(row["change"] is None for row in result_in(tmp_path)["own"])
    assert len(done["learned"]) == learned, "what was learned is kept"


def test_frames_are_scored_as_a_short_video(monkeypatch, tmp_path, root, checkpoint, done):
    assert run(monkeypatch, root, checkpoint, tmp_path / "a", "--frames", 3, "--rows", "1", "--no-own") == 0
    videos = open_split(PRESETS["davis2016-small"], "val", root)
    monkeypatch.setattr("experiments.runs.scoring.open_split", lambda *_: first_frames(videos, 3))
    assert run(monkeypatch, root, checkpoint, tmp_path / "b", "--rows", "1", "--no-own") == 0
    short, same = (result_in(tmp_path / name)["rows"][0] for name in "ab")
    for key in ("J", "F", "G", "sequences"):
        assert short[key] == same[key]
    assert short["masks"] != same["masks"], "the frames are among the settings"


def test_seeds_are_those_of_online_learning(monkeypatch, tmp_path, root, checkpoint, done):
    scores = iter([0.0, 30.0, 60.0])
    by_folder: dict[str, float] = {}
    summarize = ablation_runs.summarize_row

    def summary(results: dict[str, Any], row: str, config: STGConfig) -> dict[str, Any]:
        found = summarize(results, row, config)
        if config.online.steps:
            found["G"] = by_folder.setdefault(str(len(by_folder)), next(scores))
        return found

    monkeypatch.setattr(ablation_runs, "summarize_row", summary)
    arguments = (*ONE, "--rows", "7,9", "--no-own", "--frames", 3, "--seeds", "4,5,6", "--online-steps", 2, "--seed", 1)
    assert run(monkeypatch, root, checkpoint, tmp_path, *arguments) == 0
    plain, online = result_in(tmp_path)["rows"]
    assert online["G_by_seed"] == [0, 30, 60] and online["G"] == 30 and online["G_std"] == pytest.approx(30)
    assert len(set(online["masks"])) == 3
    assert len(plain["masks"]) == 1 and plain["G_std"] is None, "nothing there depends on the seed"
    assert len(set(done["learned"])) == 3 * len(plain["sequences"])
    assert "± 30.0" in (tmp_path / "ablation.md").read_text()


def test_weights_of_rows(monkeypatch, tmp_path, root, checkpoint, done):
    base, ytb = (make_checkpoint(tmp_path / f"{name}.pt", seed) for seed, name in enumerate(("b", "y"), start=1))
    loaded = []
    load = checkpoints.load_model
    monkeypatch.setattr(checkpoints, "load_model", lambda path: loaded.append(path) or load(path))
    weights = ("--base-checkpoint", base, "--ytb-checkpoint", ytb)
    arguments = (*ONE, *weights, "--rows", "9,10,11", "--no-own", "--frames", 3, "--online-steps", 2)
    assert run(monkeypatch, root, checkpoint, tmp_path / "out", *arguments) == 0
    result = result_in(tmp_path / "out")
    assert [row["ft"] for row in result["rows"]] == [False, True, True] and not result["notes"]
    assert len({row["masks"][0] for row in result["rows"]}) == 3 and set(loaded) == {checkpoint, base, ytb}
    assert result["rows"][2]["change"] == pytest.approx(result["rows"][2]["G"] - result["rows"][1]["G"])
    assert len(done["learned"]) == 3 * len(result["sequences"])


def test_constants_as_printed(monkeypatch, tmp_path, root, checkpoint, done):
    arguments = (*ONE, "--as-printed", "--rows", "7", "--curves", "thr", "--frames", 3, "--online-steps", 0)
    assert run(monkeypatch, root, checkpoint, tmp_path, *arguments) == 0
    result = result_in(tmp_path)
    config = result["rows"][0]["config"]
    assert (
        not config["spatial"]["node_gate"]
        and config["selection"]["thr"] == 0.2
        and config["spatial"]["edge_iou"] == "box"
    )
    assert result["curves"]["thr"]["own"] == 0.2 and result["as_printed"]
    assert {"no-motion-model", "mean"} <= {row["name"] for row in result["own"]}
    assert "no-re-detection" not in {row["name"] for row in result["own"]} and not done["learned"]


def test_rows_with_online_learning_need_steps(monkeypatch, tmp_path, root, checkpoint, done):
    arguments = (*ONE, "--rows", "9", "--curves", "l", "--no-own", "--frames", 3, "--online-steps", 0)
    assert run(monkeypatch, root, checkpoint, tmp_path, *arguments) == 0
    result = result_in(tmp_path)
    assert result["rows"][0]["G"] is None and "--online-steps" in result["rows"][0]["note"] and not done["learned"]
    assert all(point["G"] is not None for point in result["curves"]["l"]["points"])


def test_synthetic_videos_and_no_checkpoint(monkeypatch, tmp_path, in_process):
    def videos(split: str, num_videos: int | None = None, seed: int = 0) -> SyntheticVideos:
        return SyntheticVideos(split, 2, 4, height=32, width=48, seed=seed, max_objects=2)

    monkeypatch.setattr("experiments.common.presets.SyntheticVideos", videos)
    arguments = ("--device", "cpu", "--rows", "1,9", "--no-own", "--sequences", "test-0001", "--seed", 3)
    for _ in range(2):
        assert command(monkeypatch, "ablate", "--out", tmp_path, *arguments) == 0
    result = result_in(tmp_path)
    assert result["dataset"] == "synthetic" and result["sequences"] == ["test-0001"]
    assert any("random weights" in note for note in result["notes"]) and result["seeds"] == [3]
    assert len(in_process["scored"]) == 2, "the random weights are the same when it goes on"
    assert {steps for steps, _ in in_process["learned"]} == {150}


def test_bad_arguments(monkeypatch, capsys, tmp_path, root, checkpoint):
    def line(*arguments: object) -> str:
        assert run(monkeypatch, root, checkpoint, tmp_path / "out", *arguments) == 2
        return error_line(capsys)

    assert "no row 12" in line("--rows", "12") and "no curve beta" in line("--curves", "beta")
    assert "--rows" in line("--rows", ",") and "--seeds" in line("--seeds", "1,x")
    assert "--frames 1" in line("--frames", 1) and "--curve-frames 0" in line("--curve-frames", 0)
    assert "nothing to run" in line("--rows", "none", "--no-own")
    message = line("--sequences", "zebra")
    assert "zebra" in message and "cows" in message
    for option in ("--checkpoint", "--base-checkpoint", "--ytb-checkpoint"):
        assert str(tmp_path / "none.pt") in line(option, tmp_path / "none.pt")
    assert not list((tmp_path / "out").iterdir()), "nothing was begun"


def test_ranks_that_only_do_their_part(monkeypatch, tmp_path, root, checkpoint, done):
    arguments = ("--rows", "1,9", "--no-own", "--frames", 3, "--online-steps", 2)
    assert run(monkeypatch, root, checkpoint, tmp_path / "alone", *arguments) == 0
    alone = sorted(done["scored"])
    done["scored"].clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert run(monkeypatch, root, checkpoint, tmp_path / "out", *arguments) == 0
        assert (tmp_path / "out/ablation.json").exists() == (rank == "0")
        assert 0 < len(done["scored"]) < len(alone) or rank == "0"
    assert sorted(done["scored"]) == alone, "each is done by one of them"
    assert [row["G"] for row in result_in(tmp_path / "out")["rows"]] == [
        row["G"] for row in result_in(tmp_path / "alone")["rows"]
    ]


def masks_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("runs/*/*/*.png")}


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killed_and_started_again(monkeypatch, tmp_path, root, checkpoint, in_process):
    arguments = ["--rows", "1,2,6", "--no-own", "--online-steps", "0", "--processes", "1"]
    data = ["--preset", "davis2016", "--root", root, "--split", "val", "--checkpoint", checkpoint, "--device", "cpu"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "experiments.ablate",
            *map(str, data),
            "--out",
            tmp_path / "a",
            *arguments,
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 100
    while not list((tmp_path / "a").glob("runs/*/.done/*.json")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in in_session(process.pid)):
        assert time.monotonic() < end, "its processes go on"
        time.sleep(0.05)
    assert not (tmp_path / "a/ablation.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("runs/*/.done/*.json")}
    code = json.loads(next(iter(kept)).read_text())["settings"]["program"]["code"]
    monkeypatch.setattr("experiments.runs.settings.code_digest", lambda: code)
    assert run(monkeypatch, root, checkpoint, tmp_path / "a", *arguments) == 0
    assert len(in_process["scored"]) == 3 * len(result_in(tmp_path / "a")["sequences"]) - len(kept)
    assert kept and {path: path.stat().st_mtime_ns for path in kept} == kept
    assert run(monkeypatch, root, checkpoint, tmp_path / "b", *arguments) == 0
    assert masks_in(tmp_path / "a") == masks_in(tmp_path / "b")
    assert [row["G"] for row in result_in(tmp_path / "a")["rows"]] == [
        row["G"] for row in result_in(tmp_path / "b")["rows"]
    ]


def in_session(leader: int) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_pictures_and_text_of_parts_of_a_result():
    scores = {"J": 80.0, "F": 82.0, "G": 81.0, "G_std": 0.5, "seconds_per_frame": 0.2, "sequences": {"cows": 81.0}}
    point = {**scores, "value": 1}
    result: dict[str, Any] = {
        "dataset": "davis2016",
        "split": "dev",
        "sequences": ["cows"],
        "frames": None,
        "curve_frames": 5,
        "seeds": [0, 1],
        "online_steps": 3,
        "as_printed": False,
        "checkpoints": {"own": "c.pt"},
        "notes": ["A note."],
        "rows": [],
        "own": [
            {**scores, "name": "full", "label": "full model", "change": None},
            {**scores, "G": 40.0, "name": "flow", "label": "flow only", "change": -0.01},
        ],
        "curves": {},
    }
    text = to_markdown(result)
    assert "| full model | 80.0 | 82.0 | 81.0 ± 0.5 |  | 0.20 |" in text and "| 0.0 | 0.20 |" in text
    assert "seeds 0, 1" in text and "A note." in text and "Table 4" not in text and "5 frames" not in text
    own = draw(result)
    result["curves"] = {"n": {"parameter": "motion.steps", "own": 2, "points": [point, {**point, "value": 2}]}}
    both = draw(result)
    text = to_markdown(result)
    assert "| **2** | 80.0 |" in text and "| 1 | 80.0 |" in text and "the first 5 frames for the curves" in text
    assert draw({**result, "own": []}).shape[0] < both.shape[0] > own.shape[0] and own.dtype == np.uint8
