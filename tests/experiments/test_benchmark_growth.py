import gc
import resource

import numpy as np
import pytest
import torch
from commands import command, error_line

from experiments.benchmark import growth, videos
from experiments.benchmark.growth import SCENE, peak_of_process, rough_proposals, run_growth, used_mb
from experiments.benchmark.layers import Size
from experiments.benchmark.plots import draw_growth
from stg_pyg.config import STGConfig
from stg_pyg.model.stgnet import STGNet
from stg_pyg.video.segmenter import VideoSegmenter

CPU = torch.device("cpu")
SIZE = Size(2, 3, 40, 56)


@pytest.fixture
def small(monkeypatch):
    make = STGNet.small
    monkeypatch.setattr(growth.STGNet, "small", lambda config: make(config, width=4))


def test_memory_is_sampled(small, monkeypatch):
    found = iter([900.0, 5.0, 7.0])
    monkeypatch.setattr(growth, "used_mb", lambda _: next(found))
    (row,) = run_growth(SIZE, 22, 8, 0, [CPU])["growth"]
    assert (row["frames"], row["sampled_at"], row["used_mb"]) == (22, [10, 20, 22], [900, 5, 7])
    assert row["growth_mb_per_100_frames"] == pytest.approx(100) and row["seconds_per_frame"] > 0
    assert draw_growth({"growth": [row]}).axes[0].get_legend().texts[0].get_text().startswith("cpu: +100.00 MiB")


@pytest.mark.parametrize("bound", [3, None])
def test_history_is_bounded_unless_asked_otherwise(small, monkeypatch, bound):
    held, results = [], []
    step = VideoSegmenter.step

    def watched(self, *args, **kwargs):
        results.append(step(self, *args, **kwargs))
        state = self.objects[0]
        held.append((len(state.bank), len(state.masks), len(state.boxes), len(state.areas)))
        return results[-1]

    monkeypatch.setattr(VideoSegmenter, "step", watched)
    (row,) = run_growth(SIZE, 10, bound, 0, [CPU])["growth"]
    assert row["memory_frames"] == bound and row["growth_mb_per_100_frames"] is None
    config = STGConfig.small()
    banks, masks, boxes, areas = zip(*held, strict=True)
    assert max(masks) <= max(config.warping.gaps) and max(boxes) <= config.motion.steps + 1 and max(areas) <= 50
    assert max(banks) <= 3 if bound else max(banks) > 3
    assert len(results) == 10 and not any(result.masks.requires_grad for result in results)


def test_no_tensor_is_left_behind():
    video = videos.synthetic_video(12, 40, 56, 2, 1)
    segmenter = VideoSegmenter(
        STGNet.small(STGConfig.small().replace("warping.gaps", (1, 2)), width=4).eval(), crop_size=32
    )
    counts = []
    with torch.no_grad():
        for t in range(18):
            labels = video.labels(SCENE[t])
            proposals = rough_proposals(labels, 3, np.random.default_rng(t)) if t else None
            segmenter.step(video.image(SCENE[t]), proposals, None if t else labels)
            if t > 13:  # n + 1 boxes and all memory frames are there
                gc.collect()
                counts.append(sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects()))
    assert len(set(counts)) == 1, counts


def test_proposals_follow_the_objects():
    labels = videos.synthetic_video(1, 48, 64, 2, 1).labels(0)
    found, again = (rough_proposals(labels, 4, np.random.default_rng(0)) for _ in range(2))
    assert len(found) == 8 and torch.equal(found.boxes, again.boxes)
    masks = found.select(torch.arange(8)).masks
    for n in range(8):
        truth = torch.from_numpy(labels == n % 2 + 1)
        iou = (masks[n] & truth).sum() / (masks[n] | truth).sum()
        assert float(found.scores[n]) == pytest.approx(float(iou), abs=1e-3) and iou > 0.2


def test_scene_goes_on_without_jumps():
    assert all(abs(a - b) == 1 for a, b in zip(SCENE, (*SCENE[1:], SCENE[0]), strict=True)) and max(SCENE) == 11


def test_memory_of_the_process():
    assert 10 < used_mb(CPU) <= peak_of_process() + 1
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert peak_of_process() == pytest.approx(most, rel=0.05)


@pytest.mark.parametrize(("arguments", "word"), [(("--objects", 11), "--objects"), (("--height", 8), "8")])
def test_bad_arguments(monkeypatch, capsys, tmp_path, arguments, word):
    monkeypatch.setattr(videos, "TRIES", 2)
    arguments = ("--only", "growth", "--width", 56, "--height", 40, *arguments)
    assert command(monkeypatch, "benchmark", "--device", "cpu", "--out", tmp_path, *arguments) == 2
    assert word in error_line(capsys)
