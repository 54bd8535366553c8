import argparse
import functools
import gc
import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import command, error_line

from experiments import memory
from experiments.memory import MemoryMeter, RepeatedScene, growth, jittered_proposals
from stg_pyg.config import STGConfig
from stg_pyg.io import read_image
from stg_pyg.model import STGNet
from stg_pyg.stream import VideoSegmenter

SMALL = ("--height", 40, "--width", 56, "--objects", 2, "--proposals", 6)


def run(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: object) -> dict:
    monkeypatch.setattr(memory.STGNet, "small", functools.partial(STGNet.small, width=4))
    assert command(monkeypatch, "memory", "--out", out, "--device", "cpu", *SMALL, *arguments) == 0
    return json.loads((out / "memory.json").read_text())


def test_command(monkeypatch, capsys, tmp_path):
    result = run(monkeypatch, tmp_path, "--frames", 22)
    assert {path.name for path in tmp_path.iterdir()} == {"memory.json", "memory.png"}
    assert (result["frames"], result["sampled_at"]) == (22, [10, 20, 22])
    assert len(result["rss_mb"]) == 3 and min(result["rss_mb"]) > 10
    assert result["peak_mb"] >= max(result["rss_mb"]) - 1
    assert result["growth_mb_per_100_frames"] == pytest.approx(growth(result["sampled_at"], result["rss_mb"]))
    assert result["config"]["objects"] == 2 and result["config"]["stg"]["memory_frames"] == 8
    picture = read_image(tmp_path / "memory.png")
    assert picture.shape[0] > 200 and len(np.unique(picture)) > 10
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("22 frames, 2 objects, 6 proposals a frame, 56 x 40: peak ")


@pytest.mark.parametrize("unbounded", [False, True])
def test_history_is_bounded_unless_asked_otherwise(monkeypatch, tmp_path, unbounded):
    held = []
    step = VideoSegmenter.step

    def watched(self: VideoSegmenter, *args, **kwargs):
        result = step(self, *args, **kwargs)
        state = self.objects[0]
        held.append((len(state.bank), len(state.masks), len(state.boxes), len(state.areas)))
        return result

    monkeypatch.setattr(VideoSegmenter, "step", watched)
    result = run(monkeypatch, tmp_path, "--frames", 10, "--memory-frames", 3, *(["--unbounded"] if unbounded else []))
    assert result["config"]["stg"]["memory_frames"] == (None if unbounded else 3)
    config = STGConfig.small()
    banks, masks, boxes, areas = zip(*held, strict=True)
    assert max(masks) <= max(config.gaps) and max(boxes) <= config.motion_steps + 1 and max(areas) <= 50
    assert max(banks) <= 3 if not unbounded else max(banks) > 3


def test_no_tensor_is_left_behind():
    scene = RepeatedScene(2, 40, 56)
    segmenter = VideoSegmenter(STGNet.small(STGConfig.small().with_options(gaps=(1, 2)), width=4).eval(), crop_size=32)
    counts = []
    with torch.no_grad():
        for t in range(14):
            proposals = jittered_proposals(scene.labels(t), 6, np.random.default_rng(t)) if t else None
            segmenter.step(scene.image(t), proposals=proposals, masks=None if t else scene.labels(0))
            if t > 11:  # n + 1 boxes and all memory frames are there
                gc.collect()
                counts.append(sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects()))
    assert len(set(counts)) == 1, counts


def test_proposals_follow_the_objects():
    scene = RepeatedScene(2, 48, 64, seed=1)
    labels = scene.labels(0)
    assert labels.max() == 2 and scene.image(0).shape == (48, 64, 3)
    proposals = jittered_proposals(labels, 9, np.random.default_rng(0))
    assert len(proposals) == 9 and proposals.masks.dtype == torch.bool and proposals.size == (48, 64)
    again = jittered_proposals(labels, 9, np.random.default_rng(0))
    assert torch.equal(proposals.masks, again.masks) and torch.equal(proposals.boxes, again.boxes)
    for n in range(9):
        truth = torch.from_numpy(labels == n % 2 + 1)
        iou = (proposals.masks[n] & truth).sum() / (proposals.masks[n] | truth).sum()
        assert float(proposals.scores[n]) == pytest.approx(float(iou)) and iou > 0.3
    assert len(jittered_proposals(np.zeros_like(labels), 9, np.random.default_rng(0))) == 0


def test_scene_goes_on_without_jumps():
    scene = RepeatedScene(1, 32, 48)
    period = 2 * memory.SCENE_FRAMES - 2
    np.testing.assert_array_equal(scene.image(3), scene.image(3 + period))
    np.testing.assert_array_equal(scene.labels(memory.SCENE_FRAMES), scene.labels(memory.SCENE_FRAMES - 2))
    np.testing.assert_array_equal(scene.image(period - 1), scene.image(1))


def test_growth():
    assert growth([10, 20, 30, 40], [0.0, 900.0, 5.0, 7.0]) == pytest.approx(20.0)
    assert growth([10, 20], [3.0, 3.0]) != growth([10, 20], [3.0, 3.0]), "NaN for too few samples"


def test_meter():
    meter = MemoryMeter(torch.device("cpu"))
    assert 10 < meter.sample() <= meter.peak + 1
    assert meter.peak == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--frames", 0), "--frames"),
        (("--memory-frames", 0), "--memory-frames"),
        (("--objects", 11), "--objects"),
        (("--height", 8), "8"),
    ],
)
def test_bad_arguments(monkeypatch, capsys, tmp_path, arguments, word):
    monkeypatch.setattr(memory, "SCENES_TRIED", 2)
    assert command(monkeypatch, "memory", "--out", tmp_path, *SMALL, *arguments) == 2
    assert word in error_line(capsys)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu(monkeypatch, tmp_path):
    assert command(monkeypatch, "memory", "--out", tmp_path, "--device", "cuda", *SMALL, "--frames", 20) == 0
    assert json.loads((tmp_path / "memory.json").read_text())["peak_mb"] > 0


def test_results_are_not_kept_for_gradients(monkeypatch):
    results = []
    step = VideoSegmenter.step
    monkeypatch.setattr(VideoSegmenter, "step", lambda self, *a, **k: results.append(step(self, *a, **k)))
    args = argparse.Namespace(objects=1, height=32, width=48, seed=0, frames=3, proposals=4)
    memory.stream(STGNet.small(STGConfig.small(), width=8), args, torch.device("cpu"))
    assert len(results) == 3 and not any(result.masks.requires_grad for result in results)
