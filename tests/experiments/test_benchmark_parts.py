"""The parts of the benchmark: what is measured, and what the rows say."""

import argparse
import gc

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from train_cases import TINY, tiny_model

from datasets import SyntheticVideos
from experiments.benchmark import growth, layers, measure, scores
from experiments.benchmark import videos as videos_of_frames
from experiments.benchmark.frames import Frame, Stream, mean_iou, play, run_frames, stream_row
from experiments.benchmark.growth import SCENE, peak_of_process, rough_proposals, run_growth, used_mb
from experiments.benchmark.layers import SPATIAL, SWEEPS, TEMPORAL, Inputs, Size, spatial_case
from experiments.benchmark.measure import Case, first_call
from experiments.benchmark.output import draw_growth, draw_stages
from experiments.benchmark.videos import Setup, ids_of, synthetic_video, video_of_split
from experiments.common import checkpoints
from experiments.runs import scoring
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.model.stgnet import STGNet
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.video.segmenter import VideoSegmenter

CPU = torch.device("cpu")
MASKS = Size(3, 4, 20, 30)


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    model = tiny_model(0).eval()
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    checkpoints.save_model(path, model, TINY, 0)
    return Setup(path, model, TINY, model.config, "val", [], 4)


@pytest.fixture(scope="module")
def video():
    return synthetic_video(4, 48, 80, 3, 0)


# Layers


@pytest.mark.parametrize(
    ("name", "backend"),
    [("stg", backend) for backend in ("fused", "closed", "region", "region+frame", "region+find")]
    + [(name, "region") for name in SPATIAL if name not in ("gru", "GCNConv", "GraphConv")],
)
def test_all_backends_give_the_same_masks(name, backend):
    inputs, results = Inputs(MASKS, CPU), []
    for one in ("edgewise" if name == "stg" else "auto", backend):
        torch.manual_seed(0)
        results.append(spatial_case(inputs, name, one).call())
    expected, found = (torch.cat(result) if isinstance(result, list) else result for result in results)
    assert_close(found.to_frame() if hasattr(found, "to_frame") else found, expected)


def test_inputs():
    inputs = Inputs(Size(2, 3, 100, 200, side=0.5, scale=0.5), CPU)
    assert inputs.graphs.x.shape == (6, 1, 50, 100) and inputs.graphs.num_edges == 2 * 6
    assert sum(inputs.layout.columns) == 2 * 25 * 50
    assert_close(inputs.inside.to_frame(), inputs.graphs.x)
    _, counts, _, changes = SWEEPS["objects"]
    largest = max(counts) * 20 * round(480 * changes["side"]) * round(854 * changes["side"]) * 4
    assert largest < 32 * 2**20, "windows stay below the size that is mapped anew"


def test_peak_counts_what_is_alive_at_once():
    def call():
        for _ in range(3):
            part = torch.empty(2**20, dtype=torch.uint8)
        return part, torch.empty(3 * 2**20, dtype=torch.uint8)

    assert 4 <= first_call(call, CPU)[0] <= 5.1
    inputs = Inputs(Size(1, 6, 100, 200, side=0.5), CPU)
    frame = inputs.graphs.x.nbytes / 2**20
    with torch.no_grad():
        calls = {name: spatial_case(inputs, "stg", name).call for name in ("edgewise", "closed", "region")}
        peaks = {name: first_call(call, CPU)[0] for name, call in calls.items()}
    assert peaks["edgewise"] > 5 * frame and frame <= peaks["closed"] < 1.2 * frame and peaks["region"] < 0.8 * frame


def test_gradients_of_masks():
    (masks,) = spatial_case(Inputs(MASKS, CPU), "stg", "closed").with_gradients()
    assert float(masks.sum()) == pytest.approx(12 * 600, rel=1e-4), "rows of A sum to 1"


def case(call, needed_mb=0.0, copy=lambda: None):
    return Case({}, call, copy, needed_mb, ())


def test_slow_calls_run_once_and_large_ones_not_at_all(monkeypatch):
    calls = []
    cases = [case(lambda: calls.append("fast")), case(lambda: calls.append("large"), needed_mb=1e9)]
    rows = measure.measure(cases, 3, CPU)
    assert [row["repetitions"] for row in rows] == [3, 0] and calls == ["fast"] * 7, "warm before each but the first"
    assert "may need" in rows[1]["skipped"] and rows[1]["ms"] is None and rows[0]["skipped"] is None
    monkeypatch.setattr(measure, "SLOW", -1.0)
    (row,) = measure.measure([case(lambda: None)], 3, CPU)
    assert row["repetitions"] == 1 and row["ms"] > 0


def test_ratios_are_of_one_run_in_turns(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(measure, "timer", lambda: now[0])

    def call(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return run

    copy = call("c", 0.25)
    rows = measure.measure([case(call("a", 0.5), copy=copy), case(call("b", 0.75), copy=copy)], 2, CPU)
    assert "".join(order) == "ab" + 2 * "aabbcc", "the copy that both share once a turn"
    assert [row["ms"] for row in rows] == [500, 750] and [row["ratio_to_copy"] for row in rows] == [2, 3]


def test_speedups_and_exponents():
    keys = {"group": "objects", "layer": "stg", "device": "cpu", "proposals": 1, "height": 1, "width": 1}
    keys |= {"region_pixels": 9, "steps": 2}
    times = {"edgewise": (40.0, 80.0, None), "region": (4.0, 4.0, 8.0)}
    rows = [
        {**keys, "backend": name, "objects": n, "ms": ms}
        for name, found in times.items()
        for n, ms in zip((1, 2, 4), found, strict=True)
    ]
    layers.add_speedups(rows)
    assert [row["speedup_over_edgewise"] for row in rows] == [1, 1, None, 10, 20, None]
    edgewise, region = layers.fit_exponents(rows[::-1])[::-1]
    assert region["sizes"] == [1, 2, 4] and region["ms"] == [4, 4, 8] and region["last_over_first"] == 2
    assert region["exponent"] == pytest.approx(0.5) and region["last_exponent"] == pytest.approx(1)
    assert edgewise["exponent"] == pytest.approx(1)
    assert layers.fit_exponents(rows[:1])[0]["exponent"] is None


# Frames


def test_videos_with_enough_objects(setup, video, monkeypatch):
    assert len(ids_of(video.labels(0))) == 3 and video.num_frames == 4
    videos = list(SyntheticVideos("val", 8, 4, 48, 80))
    counts = [len(ids_of(one.labels(0))) for one in videos]
    found = video_of_split(setup._replace(videos=videos, frames=2), max(counts), 0)
    assert found.name == videos[counts.index(max(counts))].name and found.num_frames == 2
    single = list(SyntheticVideos("val", 8, 4, 96, 160, max_objects=1))
    pasted = video_of_split(setup._replace(videos=single, frames=3), 2, 0)
    assert len(ids_of(pasted.labels(0))) == 2 and pasted.num_frames == 3
    with pytest.raises(InputError, match="no video has an object"):
        video_of_split(setup, 1, 0)
    monkeypatch.setattr(videos_of_frames, "TRIES", 2)
    for sizes, option in (((40, 56, 11), "--objects 11"), ((8, 56, 2), "--height")):
        with pytest.raises(InputError, match=option):
            synthetic_video(2, *sizes, 0)


def test_stored_proposals_come_from_outside_and_the_network_does_not_run(setup, video):
    rows = run_frames(setup, video, 2, [CPU])["frames"]
    names = [("own", 1), ("stored", 1), ("own", 2), ("stored", 2)]
    assert [(row["run"], row["objects"]) for row in rows] == names
    for own, stored in (rows[:2], rows[2:]):
        assert {"segment", "look"} <= set(own["stages"]) and "assign" not in own["stages"]
        assert "assign" in stored["stages"] and not {"segment", "look"} & set(stored["stages"])
        assert {"graph", "spatial", "selection", "temporal", "rest"} <= set(own["stages"]) & set(stored["stages"])
        assert own["nodes"] > 0 and stored["nodes"] > 0 and own["ratio"] == own["iou_with_own"] == 1
    for row in rows:
        assert sum(row["stages"].values()) == pytest.approx(row["ms"]) and row["fps"] == pytest.approx(1e3 / row["ms"])
        assert row["frames"] == 2 and row["ms_low"] <= row["ms_high"]
    assert draw_stages({"frames": rows}).axes
    updating = Stream("own", setup, setup.config.replace("online.update_every", 2))
    assert updating.model.config.online.update_every == 0


def test_rows_compare_the_same_frames(setup):
    own, other = Stream("own", setup, setup.config), Stream("stored", setup, setup.config)
    labels = np.ones((2, 3), np.uint8)
    stages = [{}, {}, {"spatial": 0.25, "rest": 0.75}, {"temporal": 0.5, "graph": 0.25, "rest": 1.25}]
    took = zip((9, 9, 1, 2), stages, (0, 0, 4, 6), strict=True)
    own.frames = [Frame(seconds, stage, labels, nodes, None) for seconds, stage, nodes in took]
    other.frames = [Frame(seconds, {}, labels, 0, None) for seconds in (9.0, 9.0, 2.0, 1.0)]
    row = stream_row(own, own)
    assert (row["ms"], row["nodes"], row["frames"], row["height"], row["width"]) == (1500, 5, 2, 2, 3)
    assert row["graph_share"] == pytest.approx(1 / 3) and next(iter(row["stages"])) == "rest"
    assert row["stages"] == pytest.approx({"rest": 1000, "temporal": 250, "graph": 125, "spatial": 125})
    row = stream_row(other, own)
    assert row["ratio"] == 1 and (row["ratio_low"], row["ratio_high"]) == (0.875, 1.625) and row["iou_with_own"] == 1


def test_streams_take_turns_and_see_the_objects_that_are_asked_for(setup, video, monkeypatch):
    order, given = [], []
    step = VideoSegmenter.step

    def watched(self, image, proposals=None, masks=None):
        order.append(names[id(self.model)])
        given.extend([] if masks is None else [masks])
        return step(self, image, proposals, masks)

    monkeypatch.setattr(VideoSegmenter, "step", watched)
    two = [Stream(name, setup, setup.config) for name in "ab"]
    names = {id(stream.model): stream.name for stream in two}
    play(two, video, 2, CPU, 4)
    assert "".join(order) == "abbaabba"
    assert len(given) == 2 and ids_of(given[0]) == ids_of(video.labels(0))[:2]
    assert all(isinstance(frame.proposals, EncodedProposals) for frame in two[0].frames[1:])


def test_iou_of_label_maps():
    a, b = np.array([[1, 1], [0, 2]], np.uint8), np.array([[1, 0], [0, 2]], np.uint8)

    def iou(*pairs):
        one, other = ([Frame(0, {}, labels, 0, None) for labels in (a, *maps)] for maps in zip(*pairs, strict=True))
        return mean_iou(one, other)

    assert iou((a, b)) == pytest.approx((0.5 + 1) / 2)
    assert iou((a, a), (a, b)) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert iou((a * 0, a * 0)) == 1 and iou((a, a * 0)) == 0


# Scores


def test_scores_of_layers(setup, tmp_path, monkeypatch):
    candidates = scores.find_candidates(TINY.config, SPATIAL, TEMPORAL)
    names = [one[:3] for one in candidates]
    assert names[:4] == [("spatial", "off", None), *(("spatial", "stg", steps) for steps in (1, 2, 3))]
    assert [layer for part, layer, _ in names[4:] if part == "spatial"] == list(SPATIAL)
    assert [layer for part, layer, _ in names if part == "temporal"] == ["off", *TEMPORAL]
    assert [one[1] for one in candidates if one[-1] == TINY.config] == ["stg", "memory_attention"]
    assert (candidates[0][-1].spatial.enabled, candidates[-4][-1].temporal.enabled) == (False, False)

    videos = list(SyntheticVideos("val", 2, 3, 32, 48, max_objects=1))
    monkeypatch.setattr(scoring, "open_split", lambda *_: videos)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    scored = []

    def score_all(job, names, processes):
        scored.extend(row.name for row in job.rows)
        return {name: scoring.score_video(job, name) for name in names}

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


# Growth


def test_memory_is_sampled(monkeypatch):
    make, found = STGNet.small, iter([900.0, 5.0, 7.0])
    monkeypatch.setattr(growth.STGNet, "small", lambda config: make(config, width=4))
    monkeypatch.setattr(growth, "used_mb", lambda _: next(found))
    (row,) = run_growth(Size(2, 3, 40, 56), 22, 8, 0, [CPU])["growth"]
    assert (row["frames"], row["sampled_at"], row["used_mb"]) == (22, [10, 20, 22], [900, 5, 7])
    assert row["growth_mb_per_100_frames"] == pytest.approx(100) and row["seconds_per_frame"] > 0
    assert draw_growth({"growth": [row]}).axes[0].get_legend().texts[0].get_text().startswith("cpu: +100.00 MiB")
    assert all(abs(a - b) == 1 for a, b in zip(SCENE, (*SCENE[1:], SCENE[0]), strict=True)) and max(SCENE) == 11


def test_no_tensor_is_left_behind():
    video, counts = synthetic_video(12, 40, 56, 2, 1), []
    config = STGConfig.small().replace({"warping.gaps": (1, 2), "motion.steps": 3, "memory.frames": 4})
    segmenter = VideoSegmenter(STGNet.small(config, width=4).eval(), crop_size=32)
    with torch.no_grad():
        for t in range(10):
            labels = video.labels(SCENE[t])
            proposals = rough_proposals(labels, 3, np.random.default_rng(t)) if t else None
            segmenter.step(video.image(SCENE[t]), proposals, None if t else labels)
            if t > 6:  # all boxes and memory frames are there
                gc.collect()
                counts.append(sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects()))
    assert len(set(counts)) == 1, counts


def test_proposals_follow_the_objects():
    labels = synthetic_video(1, 48, 64, 2, 1).labels(0)
    found, again = (rough_proposals(labels, 4, np.random.default_rng(0)) for _ in range(2))
    assert len(found) == 8 and torch.equal(found.boxes, again.boxes)
    masks = found.select(torch.arange(8)).masks
    for n in range(8):
        truth = torch.from_numpy(labels == n % 2 + 1)
        iou = (masks[n] & truth).sum() / (masks[n] | truth).sum()
        assert float(found.scores[n]) == pytest.approx(float(iou), abs=1e-3) and iou > 0.2
    assert 10 < used_mb(CPU) <= peak_of_process() + 1
