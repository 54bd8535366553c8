import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from datasets import SyntheticVideos
from experiments import checkpoints, learned_files, scoring
from experiments.benchmark import layer_scores
from experiments.benchmark.frame_report import scores_markdown
from experiments.benchmark.groups import OTHER_LAYERS
from experiments.benchmark.layer_scores import find_candidates, score_layers
from experiments.benchmark.temporal_cases import TEMPORAL_LAYERS
from experiments.distributed import end_with_parent
from experiments.jobs import Job
from experiments.presets import PRESETS

PRESET = PRESETS["synthetic-small"]
NAMES = ["val-0000", "val-0001"]


@pytest.fixture
def done(monkeypatch):
    """What is run and learned, of two tiny videos."""
    videos = list(SyntheticVideos("val", 2, 3, 32, 48, max_objects=1))
    found = {"scored": [], "learned": []}
    score_video, learn = layer_scores.score_video, learned_files.learn

    def scored(job, name, learned):
        found["scored"].append((job.out.name, name))
        return score_video(job, name, learned)

    def learns(job, model, video):
        learned = learn(job, model, video)
        found["learned"] += [video.name] if learned.networks else []
        return learned

    monkeypatch.setattr(scoring, "open_split", lambda *_: videos)
    monkeypatch.setattr(layer_scores, "score_video", scored)
    monkeypatch.setattr(learned_files, "learn", learns)
    monkeypatch.setattr(layer_scores, "OTHER_LAYERS", ("mean", "gru"))
    monkeypatch.setattr(layer_scores, "STEPS", (1, 2))
    return found


@pytest.fixture
def job(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "checkpoint.pt"
    checkpoints.save_model(path, checkpoints.build_model(PRESET), PRESET, 0)
    return Job(path, PRESET, "val", None, (), tmp_path / "out", "cpu", 0, online_steps=1)


@pytest.fixture
def config():
    return PRESET.config.with_options(online_steps=1)


def test_all_layers_are_candidates(config):
    found = find_candidates(config)
    names = [(c.part, c.layer, c.steps) for c in found]
    assert names[:4] == [("spatial", "off", None), *(("spatial", "stg", steps) for steps in (1, 2, 3))]
    assert [n for part, n, _ in names[4:] if part == "spatial"] == list(OTHER_LAYERS)
    assert [n for part, n, _ in names if part == "temporal"] == ["off", *TEMPORAL_LAYERS]
    assert [c.layer for c in found if c.config == config] == ["stg", "memory_attention"]


def test_layers_are_scored_once_and_the_networks_learn_once_a_video(done, job, config):
    rows = score_layers(job, NAMES, config)
    by_name = {(row["part"], row["layer"], row["steps"]): row for row in rows}
    assert len(by_name) == len(rows) == 9
    gru = by_name["spatial", "gru", None]
    assert gru["skipped"].startswith("untrained: no values for spatial_conv.") and gru["G"] is None
    for row in rows:
        if row["layer"] != "gru":
            assert row["skipped"] is None and row["G"] == pytest.approx((row["J"] + row["F"]) / 2)
            assert 0 <= row["G"] <= 100 and row["frame_ms"] > 0
    assert by_name["spatial", "stg", 1]["ms"] > 0 and by_name["temporal", "memory_attention", None]["ms"] > 0
    own = by_name["spatial", "stg", 1], by_name["temporal", "memory_attention", None]
    assert all(row["own"] for row in own) and own[0]["G"] == own[1]["G"], "the same configuration is run once"
    assert len(done["scored"]) == len(set(done["scored"])) == 2 * 7
    assert done["learned"] == NAMES
    assert sorted(path.name for path in (job.out / "learned").iterdir()) == [f"{name}.pt" for name in NAMES]
    text = scores_markdown([row | {"split": "val", "videos": 2, "online_steps": 1} for row in rows])
    assert "| spatial | stg, l = 1 * | cpu |" in text and "| spatial | gru | cpu | skipped: untrained" in text


def test_what_is_finished_is_not_done_again(done, job, config):
    first = score_layers(job, NAMES, config)
    before = len(done["scored"])
    assert score_layers(job, NAMES, config) == first and len(done["scored"]) == before
    folder, name = done["scored"][-1]
    (job.out / "scores" / folder / ".done" / f"{name}.json").unlink()
    again = score_layers(job, NAMES, config)
    assert done["scored"][before:] == [(folder, name)] and done["learned"] == NAMES
    assert [row["G"] for row in again] == [row["G"] for row in first], "the stored networks are those that learned"


def test_an_interrupted_run_goes_on(done, job, config, monkeypatch):
    score_video = layer_scores.score_video

    def interrupted(*arguments):
        if len(done["scored"]) == 3:
            raise KeyboardInterrupt
        return score_video(*arguments)

    monkeypatch.setattr(layer_scores, "score_video", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_layers(job, NAMES, config)
    monkeypatch.setattr(layer_scores, "score_video", score_video)
    score_layers(job, NAMES, config)
    assert len(done["scored"]) == len(set(done["scored"])) == 14 and done["learned"] == NAMES


@pytest.mark.parametrize("damage", ["broken", "settings"])
def test_networks_of_other_settings_are_learned_again(done, job, config, damage):
    score_layers(job, NAMES[:1], config)
    if damage == "broken":
        (job.out / "learned" / "val-0000.pt").write_bytes(b"nothing")
        (job.out / "scores" / done["scored"][0][0] / ".done" / "val-0000.json").unlink()
    else:
        job = dataclasses.replace(job, seed=1)
    score_layers(job, NAMES[:1], config)
    assert done["learned"] == ["val-0000"] * 2


def test_nothing_learns_without_steps(done, job):
    job = dataclasses.replace(job, online_steps=0)
    rows = score_layers(job, NAMES[:1], PRESET.config.with_options(online_steps=0))
    assert any(row["G"] is not None for row in rows)
    assert done["learned"] == [] and not (job.out / "learned").exists()


def test_threads_are_given_back(done, job, config):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        score_layers(job, NAMES[:1], config)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


class Threads(ThreadPoolExecutor):
    """In the place of processes, whose start takes longer than what they do here."""

    def __init__(self, count, context, initializer, initargs):
        assert (context.get_start_method(), initializer) == ("spawn", end_with_parent)
        super().__init__(1)


def test_several_at_a_time_score_what_one_does(done, job, config, monkeypatch):
    for names in ("OTHER_LAYERS", "TEMPORAL_LAYERS", "STEPS"):
        monkeypatch.setattr(layer_scores, names, ())
    monkeypatch.setattr(layer_scores, "ProcessPoolExecutor", Threads)
    scores = []
    for processes in (1, 2):
        rows = score_layers(dataclasses.replace(job, out=job.out / str(processes)), NAMES, config, processes)
        scores.append([(row["part"], row["layer"], row["J"], row["F"]) for row in rows])
    assert scores[0] == scores[1] and len(scores[0]) == 2 and scores[0][0][2] is not None
    assert len(done["scored"]) == 2 * 2 * 2
