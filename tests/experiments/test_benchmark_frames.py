import argparse
import types

import numpy as np
import pytest
import torch

from datasets import SyntheticVideos
from experiments.benchmark import frames, scores
from experiments.benchmark.frames import Frame, Stream, mean_iou, measure_streams, play, run_frames, stream_row
from experiments.benchmark.layers import SPATIAL, TEMPORAL
from experiments.benchmark.plots import draw_stages
from experiments.benchmark.videos import Setup, ids_of, synthetic_video, video_of_split
from experiments.common import checkpoints
from experiments.common.presets import PRESETS
from experiments.runs import scoring
from stg_pyg.errors import InputError
from stg_pyg.proposals.rle import EncodedProposals

CPU = torch.device("cpu")
PRESET = PRESETS["synthetic-small"]


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    torch.manual_seed(0)
    model = checkpoints.build_model(PRESET).eval()
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    checkpoints.save_model(path, model, PRESET, 0)
    return Setup(path, model, PRESET, model.config, "val", [], 4)


@pytest.fixture(scope="module")
def video():
    return synthetic_video(4, 48, 80, 3, 0)


def test_videos_with_enough_objects(setup, video):
    assert len(ids_of(video.labels(0))) == 3 and video.num_frames == 4
    videos = list(SyntheticVideos("val", 8, 4, 48, 80))
    counts = [len(ids_of(one.labels(0))) for one in videos]
    found = video_of_split(setup._replace(videos=videos, frames=2), max(counts), 0)
    assert found.name == videos[counts.index(max(counts))].name and found.num_frames == 2
    single = list(SyntheticVideos("val", 8, 4, 96, 160, max_objects=1))
    pasted = video_of_split(setup._replace(videos=single, frames=3), 2, 0)
    assert len(ids_of(pasted.labels(0))) == 2 and pasted.num_frames == 3


def test_a_split_without_objects(setup):
    empty = types.SimpleNamespace(num_frames=2, labels=lambda t: np.zeros((32, 32), np.uint8))
    with pytest.raises(InputError, match="no video has an object"):
        video_of_split(setup._replace(videos=[empty]), 1, 0)


def test_stored_proposals_come_from_outside_and_the_network_does_not_run(setup, video):
    rows = run_frames(setup, video, 2, [CPU], ())["frames"]
    names = [("own", 1), ("stored", 1), ("own", 2), ("stored", 2)]
    assert [(row["run"], row["objects"]) for row in rows] == names
    for own, stored in (rows[:2], rows[2:]):
        assert {"segment", "look"} <= set(own["stages"]) and "assign" not in own["stages"]
        assert "assign" in stored["stages"] and not {"segment", "look"} & set(stored["stages"])
        assert {"graph", "spatial", "selection", "temporal", "rest"} <= set(own["stages"]) & set(stored["stages"])
        assert own["nodes"] > 0 and stored["nodes"] > 0
    for row in rows:
        assert sum(row["stages"].values()) == pytest.approx(row["ms"]) and row["fps"] == pytest.approx(1e3 / row["ms"])
        assert row["frames"] == 2 and row["ms_low"] <= row["ms_high"]
    assert draw_stages({"frames": rows}).axes


def test_rows_compare_the_same_frames(setup):
    own, other = Stream("own", setup, setup.config), Stream("stored", setup, setup.config)
    labels = np.ones((2, 3), np.uint8)
    stages = [{}, {}, {"spatial": 0.25, "rest": 0.75}, {"temporal": 0.5, "graph": 0.25, "rest": 1.25}]
    own.frames = [
        Frame(s, stage, labels, n, None) for s, stage, n in zip((9, 9, 1, 2), stages, (0, 0, 4, 6), strict=True)
    ]
    other.frames = [Frame(s, {}, labels, 0, None) for s in (9.0, 9.0, 2.0, 1.0)]
    row = stream_row(own, own)
    assert (row["ms"], row["nodes"], row["frames"], row["height"], row["width"]) == (1500, 5, 2, 2, 3)
    assert row["graph_share"] == pytest.approx(1 / 3) and next(iter(row["stages"])) == "rest"
    assert row["stages"] == pytest.approx({"rest": 1000, "temporal": 250, "graph": 125, "spatial": 125})
    row = stream_row(other, own)
    assert row["ratio"] == 1 and (row["ratio_low"], row["ratio_high"]) == (0.875, 1.625) and row["iou_with_own"] == 1


def test_streams_take_turns_and_see_the_objects_that_are_asked_for(setup, video, monkeypatch):
    order, given = [], []
    step = frames.VideoSegmenter.step

    def watched(self, image, proposals=None, masks=None):
        order.append(self.name)
        given.extend([] if masks is None else [masks])
        return step(self, image, proposals, masks)

    start = Stream.start

    def named(self, device):
        segmenter = start(self, device)
        segmenter.name = self.name
        return segmenter

    monkeypatch.setattr(frames.VideoSegmenter, "step", watched)
    monkeypatch.setattr(Stream, "start", named)
    two = [Stream(name, setup, setup.config) for name in "ab"]
    play(two, video, 2, CPU, 4)
    assert "".join(order) == "abbaabba"
    assert len(given) == 2 and ids_of(given[0]) == ids_of(video.labels(0))[:2]
    assert all(isinstance(frame.proposals, EncodedProposals) for frame in two[0].frames[1:])
    assert mean_iou(two[0].frames, two[1].frames) == 1


def test_options(setup, video, monkeypatch):
    compiled = []
    monkeypatch.setattr(frames.torch, "compile", lambda net, **options: compiled.append(options) or net)
    rows = run_frames(setup, video, 1, [CPU])["frames"]
    by_name = {row["run"]: row for row in rows}
    assert set(by_name) == {"own", "stored", *frames.OPTIONS} - {"updates"}, "the checkpoint has no updates"
    assert by_name["own"]["ratio"] == by_name["own"]["iou_with_own"] == by_name["own again"]["iou_with_own"] == 1
    assert len(compiled) == 3 and by_name["compile"]["iou_with_own"] == 1 and by_name["compile"]["prepare_seconds"] > 0
    updating = setup.config.replace("online.update_every", 2)
    assert Stream("updates", setup, updating).model.config.online.update_every == 2
    assert Stream("own", setup, updating).model.config.online.update_every == 0
    assert Stream("bfloat16 memory", setup, updating).model.config.memory.dtype == "bfloat16"


def test_only_what_cannot_be_compiled_is_skipped(setup, video, monkeypatch):
    class Broken(torch.nn.Module):
        def forward(self, *_):
            raise RuntimeError("\nno C++ compiler\nwas found")

    monkeypatch.setattr(frames.torch, "compile", lambda *_, **__: Broken())
    streams = [Stream(name, setup, setup.config) for name in ("own", "compile")]
    own, broken = measure_streams(streams, video, 1, CPU)
    assert broken["skipped"] == "RuntimeError: no C++ compiler was found" and broken["ms"] is None and own["ms"] > 0
    streams[1].name = "own again"
    with pytest.raises(RuntimeError, match="no C"):
        measure_streams(streams, video, 1, CPU)


def test_iou_of_label_maps():
    a, b = np.array([[1, 1], [0, 2]], np.uint8), np.array([[1, 0], [0, 2]], np.uint8)

    def iou(*pairs):
        one, other = ([Frame(0, {}, labels, 0, None) for labels in (a, *labels)] for labels in zip(*pairs, strict=True))
        return mean_iou(one, other)

    assert iou((a, b)) == pytest.approx((0.5 + 1) / 2)
    assert iou((a, a), (a, b)) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert iou((a * 0, a * 0)) == 1 and iou((a, a * 0)) == 0


def test_all_layers_are_candidates():
    config = PRESET.config
    found = scores.find_candidates(config, SPATIAL, TEMPORAL)
    names = [one[:3] for one in found]
    assert names[:4] == [("spatial", "off", None), *(("spatial", "stg", steps) for steps in (1, 2, 3))]
    assert [layer for part, layer, _ in names[4:] if part == "spatial"] == list(SPATIAL)
    assert [layer for part, layer, _ in names if part == "temporal"] == ["off", *TEMPORAL]
    assert [one[1] for one in found if one[-1] == config] == ["stg", "memory_attention"]
    assert (found[0][-1].spatial.enabled, found[-4][-1].temporal.enabled) == (False, False)


def test_scores_of_layers(setup, tmp_path, monkeypatch):
    videos = list(SyntheticVideos("val", 2, 3, 32, 48, max_objects=1))
    monkeypatch.setattr(scoring, "open_split", lambda *_: videos)
    scored = []

    def score_all(job, names, processes):
        scored.extend(row.name for row in job.rows)
        threads = torch.get_num_threads()
        results = {name: scoring.score_video(job, name) for name in names}
        torch.set_num_threads(threads)
        return results

    monkeypatch.setattr(scores, "score_videos", score_all)
    monkeypatch.setattr(scores, "STEPS", (1,))
    args = argparse.Namespace(root=None, seed=0, out=tmp_path, online_steps=0, frames=None, processes=1)
    rows = scores.run_scores(setup._replace(videos=videos), args, CPU, ("mean", "gru"), ("memory_attention",))["scores"]
    by_name = {(row["part"], row["layer"]): row for row in rows}
    assert sorted(scored) == ["spatial-mean", "spatial-off", "spatial-stg-1", "temporal-off"]
    assert "no weights" in by_name["spatial", "gru"]["skipped"] and by_name["spatial", "gru"]["G"] is None
    for row in rows:
        if row["layer"] != "gru":
            assert row["G"] == pytest.approx((row["J"] + row["F"]) / 2) and row["frame_ms"] > 0
    own = by_name["spatial", "stg"], by_name["temporal", "memory_attention"]
    assert all(row["own"] for row in own) and own[0]["G"] == own[1]["G"], "the same configuration is run once"
    assert own[0]["ms"] > 0 and own[1]["ms"] > 0 and own[0]["ms"] != own[1]["ms"]
