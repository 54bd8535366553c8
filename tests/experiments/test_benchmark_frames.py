import numpy as np
import pytest
import torch
from benchmark_cases import frame, result

from datasets import SyntheticVideos
from experiments import checkpoints
from experiments.benchmark import options as benchmark_options
from experiments.benchmark import streams
from experiments.benchmark.clips import Clip, clip_of_split, object_counts, synthetic_clip
from experiments.benchmark.frame_report import stage_names
from experiments.benchmark.frames import frame_row, run_frames
from experiments.benchmark.options import mean_iou, option_row, run_options
from experiments.benchmark.plots import draw_stages
from experiments.benchmark.report import markdown
from experiments.benchmark.streams import Stream, first_timed, run_in_turns, variant
from experiments.presets import PRESETS
from stg_pyg.encoded import EncodedProposals
from stg_pyg.errors import InputError
from stg_pyg.model import STGNet

CPU = torch.device("cpu")
PRESET = PRESETS["synthetic-small"]


@pytest.fixture(scope="module")
def model() -> STGNet:
    torch.manual_seed(0)
    return checkpoints.build_model(PRESET).eval()


@pytest.fixture(scope="module")
def clip() -> Clip:
    return synthetic_clip(4, (48, 80), 3, 0)


def test_objects_of_a_clip(clip):
    assert len(clip.object_ids) == 3 and len(clip.images) == 4 and clip.images[0].shape == (48, 80, 3)
    given = clip.given(2)
    assert sorted(np.unique(given)) == [0, *clip.object_ids[:2]]
    assert ((given == clip.labels) | (clip.labels == clip.object_ids[2])).all()
    assert object_counts(clip, (1, 3, 5)) == [1, 3]


def test_a_clip_of_a_split_takes_the_video_with_enough_objects():
    videos = list(SyntheticVideos("val", 8, 4, 48, 80))
    counts = [len(video.object_ids) for video in videos]
    found = clip_of_split(videos, "val", 2, max(counts), 0)
    assert found.name == videos[counts.index(max(counts))].name and len(found.images) == 2


def test_objects_of_other_videos_are_pasted_where_there_are_not_enough():
    single = [video for video in SyntheticVideos("val", 8, 4, 96, 160, max_objects=1)]
    found = clip_of_split(single, "val", 3, 2, 0)
    assert found.name.startswith("000-") and len(found.object_ids) == 2 and "pasted" in found.source


def test_a_split_without_objects():
    class Empty(type(SyntheticVideos("val", 1, 2, 32, 32)[0])):
        def labels(self, t):
            return np.zeros((32, 32), np.uint8)

    with pytest.raises(InputError, match="no video has an object"):
        clip_of_split([Empty("a", (0, 0, 0), 2, (32, 32), 1)], "val", 2, 1, 0)


def test_stored_proposals_come_from_outside_and_the_network_does_not_run(model, clip):
    rows = run_frames(clip, model, PRESET, (1, 2), CPU)
    assert [(row["proposals"], row["objects"]) for row in rows] == [
        ("own", 1),
        ("stored", 1),
        ("own", 2),
        ("stored", 2),
    ]
    for own, stored in (rows[:2], rows[2:]):
        assert {"segment", "look"} <= set(own["stages"]) and "assign" not in own["stages"]
        assert "assign" in stored["stages"] and not {"segment", "look"} & set(stored["stages"])
        assert {"graph", "spatial", "selection", "temporal", "rest"} <= set(own["stages"]) & set(stored["stages"])
        assert own["nodes"] > 0 and stored["nodes"] > 0
    for row in rows:
        assert sum(row["stages"].values()) == pytest.approx(row["ms"]) and row["fps"] == pytest.approx(1e3 / row["ms"])
        assert row["frames"] == 2 and row["ms_low"] <= row["ms_high"]


def test_the_share_of_the_graph_layers(model, clip):
    stream = Stream("own", model, 64)
    stream.seconds = [9.0, 9.0, 0.2, 0.4]
    stream.stages = [{}, {}, {"spatial": 0.02, "rest": 0.18}, {"temporal": 0.04, "graph": 0.03, "rest": 0.33}]
    stream.nodes = [0, 0, 4, 6]
    row = frame_row(stream, clip, 2, CPU)
    assert row["ms"] == pytest.approx(300) and row["nodes"] == 5 and row["frames"] == 2
    assert row["graph_share"] == pytest.approx(0.09 / 0.6)
    assert row["stages"] == pytest.approx({"rest": 255, "temporal": 20, "graph": 15, "spatial": 10})
    assert next(iter(row["stages"])) == "rest"


def test_stages_make_up_the_time_of_a_frame(model, clip, monkeypatch):
    now = [0.0]

    def tick():
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(streams.time, "perf_counter", tick)
    stream = Stream("own", variant(model, PRESET), 64)
    run_in_turns([stream], clip, 1, CPU)
    assert all(
        sum(stages.values()) == pytest.approx(s) for stages, s in zip(stream.stages, stream.seconds, strict=True)
    )
    assert all(stages["rest"] > 0 and "frame" not in stages for stages in stream.stages)


def test_streams_take_turns(model, clip, monkeypatch):
    order = []
    step = streams._step
    monkeypatch.setattr(streams, "_step", lambda stream, *rest: order.append(stream.name) or step(stream, *rest))
    two = [Stream(name, variant(model, PRESET), 64) for name in "ab"]
    run_in_turns(two, clip, 1, CPU)
    assert "".join(order) == "abbaabba"
    assert all(isinstance(found, EncodedProposals) for found in two[0].proposals[1:])
    assert mean_iou(two[0].labels, two[1].labels) == 1


def test_which_frames_count(model):
    assert first_timed(model.config, 24) == 8
    assert first_timed(model.config, 6) == 3
    assert first_timed(model.config, 2) == 1


def test_options(model, clip):
    rows = run_options(clip, model, PRESET, 1, CPU, compiles=False)
    by_name = {row["option"]: row for row in rows}
    assert rows[0]["option"] == "plain" and by_name["plain"]["ratio"] == 1 and by_name["plain"]["iou_with_plain"] == 1
    assert by_name["plain again"]["iou_with_plain"] == 1
    assert {"channels last", "bfloat16 segmentation", "bfloat16 memory"} <= set(by_name)
    assert by_name["compile"]["skipped"] and by_name["compile"]["ms"] is None
    assert all(0 <= row["iou_with_plain"] <= 1 and row["ms"] > 0 for row in rows if not row["skipped"])
    assert not any("updates" in name for name in by_name), "the checkpoint has none"
    content = result(options=[row | {"clip": "a", "source": "b", "checkpoint": "c"} for row in rows])
    assert "| compile | cpu | 1 | skipped: left out by --quick |" in markdown(content)


def test_what_cannot_be_compiled_is_skipped_with_the_reason(model, clip, monkeypatch):
    class Broken(torch.nn.Module):
        def forward(self, *_):
            raise RuntimeError("\nno C++ compiler was found\nmore")

    monkeypatch.setattr(benchmark_options.torch, "compile", lambda *_, **__: Broken())
    rows = run_options(clip, model, PRESET, 1, CPU)
    (row,) = [row for row in rows if row["option"] == "compile"]
    assert row["skipped"] == "RuntimeError: no C++ compiler was found" and row["ms"] is None
    assert sum(row["skipped"] is None for row in rows) == 5


def test_compiling_is_not_in_the_times(model, clip, monkeypatch):
    seen = []
    monkeypatch.setattr(benchmark_options.torch, "compile", lambda net, **options: seen.append(options) or net)
    rows = run_options(clip, model, PRESET, 1, CPU)
    (row,) = [row for row in rows if row["option"] == "compile"]
    assert len(seen) == 3 and row["iou_with_plain"] == 1 and row["prepare_seconds"] >= 0


def test_an_error_of_another_option_is_not_hidden(model, clip, monkeypatch):
    def fail(*_):
        raise RuntimeError("wrong")

    monkeypatch.setattr(benchmark_options, "warm_up", fail)
    with pytest.raises(RuntimeError, match="wrong"):
        run_options(clip, model, PRESET, 1, CPU)


def test_ratios_are_those_of_the_same_frames(model, clip):
    plain, other = Stream("plain", model, 64), Stream("other", model, 64)
    plain.seconds, other.seconds = [1.0, 1.0, 1.0, 2.0], [9.0, 9.0, 2.0, 1.0]
    plain.labels = other.labels = [np.ones((2, 2), np.uint8)] * 4
    row = option_row(other, plain, clip)
    assert row["ratio"] == 1 and (row["ratio_low"], row["ratio_high"]) == (0.875, 1.625)
    assert row["ms"] == 1500 and row["frames"] == 2


def test_iou_of_label_maps():
    a = np.array([[1, 1], [0, 2]], np.uint8)
    b = np.array([[1, 0], [0, 2]], np.uint8)
    assert mean_iou([a], [b]) == pytest.approx((0.5 + 1) / 2)
    assert mean_iou([a, a], [a, b]) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert mean_iou([a * 0], [a * 0]) == 1
    assert mean_iou([a], [a * 0]) == 0


def test_stages_in_the_report():
    rows = [frame(), frame(stages={"segment": 200.0, "flow": 1.0, "graph": 2.0, "rest": 1.0})]
    assert stage_names(rows) == ["graph", "spatial", "temporal", "segment", "flow", "rest"]
    text = markdown(result(frames=rows))
    assert "| stored | cpu | 3 |  | 4.0 | 6.0 |  | 60.0 | 30.0 |" in text and "10.0 %" in text
    assert draw_stages(rows).shape[0] > draw_stages(rows[:1]).shape[0]
