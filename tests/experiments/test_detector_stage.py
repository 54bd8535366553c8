import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import command, error_line
from detector_cases import TINY, make

from datasets import SyntheticVideos, VideoSequence
from experiments.common import checkpoints
from experiments.common.presets import PRESETS
from experiments.train import trainer as training_loop
from experiments.train.stages import detector as detector_stage
from experiments.train.stages import detector_samples
from experiments.train.stages.detector import evaluate_detector, load_detector, make_optimizer, train_detector
from experiments.train.stages.detector_samples import DetectionBatches, DetectionConfig, draw_picture, targets_of
from stg_pyg.errors import InputError
from stg_pyg.learning.steps import batches
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.proposals.base import Proposals

CPU = torch.device("cpu")
CONFIG = DetectionConfig(size=48)


@functools.lru_cache
def videos() -> tuple[VideoSequence, ...]:
    return tuple(SyntheticVideos("train", 3, 4, height=64, width=96, seed=1, max_objects=2))


def run(detector: Detector, path: Path, **options: Any) -> list[dict[str, float]]:
    preset = options.pop("preset", TINY)
    options = {"device": CPU, "seed": 2, "workers": 0} | options
    return train_detector(detector, videos(), preset, path, **options)


def same(a: Detector, b: Detector) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Killed(Exception):
    pass


def kill_after(patch: pytest.MonkeyPatch, calls: int) -> None:
    step, left = detector_stage.detection_step, [calls]

    def limited(*args: Any) -> dict[str, float]:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return step(*args)

    patch.setattr(detector_stage, "detection_step", limited)


def test_pictures_agree_with_their_labels(monkeypatch):
    """A red object on blue stays where its label is, however it is turned, scaled and moved."""

    class Plain:
        num_frames = 1

        def labels(self, t):
            labels = np.zeros((64 * self.factor, 96 * self.factor), np.uint8)
            labels[20 * self.factor : 44 * self.factor, 30 * self.factor : 60 * self.factor] = 5
            return labels

        def image(self, t):
            red = self.labels(t)[..., None] > 0
            return np.where(red, np.uint8([255, 0, 0]), np.uint8([0, 0, 255]))

    monkeypatch.setattr(detector_samples, "jitter_colours", lambda rng, image: image)
    config, video, seen = DetectionConfig(size=48, paste_share=0), Plain(), set()
    for seed in range(12):
        video.factor = 1 + 3 * (seed % 2)  # frames that are reduced twice, too
        image, labels = draw_picture(np.random.default_rng(seed), [video], config, 0)
        assert image.shape == (48, 72, 3) and labels.shape == (48, 72) and set(np.unique(labels)) == {0, 5}
        inside, red = labels == 5, image[..., 0].astype(int) - image[..., 2] > 40
        assert (inside & red).sum() > 0.9 * (inside | red).sum()
        seen.add(int(inside.sum()))
    assert len(seen) > 6


def test_pasted_objects_have_numbers_of_their_own():
    config = DetectionConfig(size=48, paste_share=1.0, max_pasted=3, under_share=0.0)
    counts = []
    for seed in range(10):
        with_paste = draw_picture(np.random.default_rng(seed), videos(), config, 0)[1]
        plain = draw_picture(np.random.default_rng(seed), videos(), DetectionConfig(size=48, paste_share=0.0), 0)[1]
        counts.append(len(np.unique(with_paste)) - len(np.unique(plain)))
        assert with_paste.max() <= plain.max() + 3
    assert max(counts) >= 2


def test_pictures_keep_the_shape_of_the_frame():
    class Tall:
        num_frames = 1

        def labels(self, t):
            return np.ones((200, 50), np.uint8)

        def image(self, t):
            return np.zeros((200, 50, 3), np.uint8)

    image, _ = draw_picture(np.random.default_rng(0), [Tall()], CONFIG, 0)
    assert image.shape == (85, 21, 3), "the long side is at most 16/9 of 48"


def test_frames_without_annotation_are_passed_over():
    class Sparse:
        num_frames = 5

        def labels(self, t):
            return np.zeros((48, 48), np.uint8) if t == 3 else None

        def image(self, t):
            return np.full((48, 48, 3), t, np.uint8)

    image, labels = draw_picture(np.random.default_rng(0), [Sparse()], DetectionConfig(48, paste_share=1.0), 0)
    assert image.shape == (48, 48, 3) and not labels.any()


def test_targets_of_a_label_map():
    labels = torch.zeros(40, 50, dtype=torch.int32)
    labels[5:15, 10:30] = 7
    labels[20:30, 2:12] = 300
    labels[35, 40] = 4  # too small
    labels[38, 5:45] = 9  # too thin
    target = targets_of(labels)
    assert target["boxes"].tolist() == [[10, 5, 30, 15], [2, 20, 12, 30]]
    assert target["labels"].tolist() == [1, 1] and target["labels"].dtype == torch.long
    assert torch.equal(target["masks"].bool(), torch.stack([labels == 7, labels == 300]))
    empty = targets_of(torch.zeros(40, 50, dtype=torch.int32))
    assert [len(value) for value in empty.values()] == [0, 0, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_depend_on_seed_and_step_only(workers):
    def draw(steps, seed, workers):
        return list(batches(DetectionBatches(videos(), CONFIG, 2, steps, seed), workers))

    whole, rest = draw((0, 4), 3, 0), draw((2, 4), 3, workers)
    for a, b in zip(whole[2:], rest, strict=True):
        assert all(torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))
    assert not torch.equal(whole[0][0][0], draw((0, 1), 4, 0)[0][0][0])


@pytest.mark.parametrize("workers", [0, 1])
def test_training_resumes_bit_for_bit(tmp_path, monkeypatch, workers):
    undisturbed = make()
    run(undisturbed, tmp_path / "a.pt")
    path = tmp_path / "b.pt"
    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "SAVE_EVERY_SECONDS", -1.0)
        kill_after(patch, 2)
        with pytest.raises(Killed):
            run(make(), path)
    assert checkpoints.load(path, "detector")["step"] == 2
    resumed = make(1)
    run(resumed, path, resume=True, workers=workers)
    assert same(undisturbed, resumed) and not resumed.training
    assert not same(undisturbed, make())
    assert same(load_detector(path), resumed)


def test_a_finished_stage_is_left_alone(tmp_path, monkeypatch):
    detector, path = make(), tmp_path / "d.pt"
    run(detector, path)
    before = path.read_bytes()
    kill_after(monkeypatch, 0)
    other = make(1)
    run(other, path, resume=True)
    assert same(detector, other) and path.read_bytes() == before


def test_a_loss_that_is_not_finite(tmp_path):
    detector = make()
    with torch.no_grad():
        detector.model.backbone.context.bias.fill_(float("nan"))
    with pytest.raises(InputError, match=r"^detector, step 1: the loss is not finite \(loss_\w+ is nan"):
        run(detector, tmp_path / "d.pt")
    assert not (tmp_path / "d.pt").exists()


def test_files_of_something_else(tmp_path):
    path = tmp_path / "d.pt"
    checkpoints.save(path, {"kind": "detector", "step": 1})
    with pytest.raises(InputError, match=r"d\.pt: .*no detector"):
        load_detector(path)
    with pytest.raises(InputError, match="no such checkpoint"):
        load_detector(tmp_path / "none.pt")


def test_optimizers():
    detector = make()
    for size, kind in (("small", torch.optim.AdamW), ("paper", torch.optim.SGD)):
        detector.model.backbone.stem.requires_grad_(size == "small")
        optimizer = make_optimizer(detector, dataclasses.replace(TINY, size=size))
        assert type(optimizer) is kind
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in detector.parameters() if p.requires_grad}
        assert all(p.ndim > 1 for p in optimizer.param_groups[0]["params"])


class Told(Detector):
    """A detector that says what it is told: the true object of each frame, and one elsewhere with a higher score."""

    def detect(self, image: torch.Tensor) -> Proposals:
        masks = torch.zeros(2, *image.shape[1:], dtype=torch.bool)
        masks[0, :10, :10] = True
        masks[1, 20:40, 30:50] = True
        return Proposals.from_masks(masks, torch.tensor([0.9, 0.2]))


class Square:
    name, num_frames, first = "square", 11, 20

    def image(self, t):
        return np.zeros((64, 96, 3), np.uint8)

    def labels(self, t):
        if t == 5:
            return None
        labels = np.zeros((64, 96), np.uint8)
        labels[self.first : 40, 30:50] = 1
        return labels


class Half(Square):
    name, first = "half", 30


def test_evaluation():
    detector = make()
    detector.__class__ = Told
    scores = evaluate_detector(detector, [Square(), Half()], every=5)
    assert scores.boxes.num_boxes == 4, "frames 0 and 10 of both videos: frame 5 is not annotated"
    assert scores.boxes.at(0.5, 1) == 0 and scores.boxes.at(0.5, 5) == 1
    assert scores.boxes.at(0.7, 5) == 0.5
    assert scores.mask_iou == pytest.approx(0.75) and scores.proposals == 2
    assert scores.videos == {"square": 1.0, "half": 1.0}
    written = json.loads(json.dumps(scores.to_dict()))
    assert written["recall"]["0.7"]["50"] == 50.0 and written["mask_iou"] == pytest.approx(75)
    assert "| 0.7 | 0.0 | 50.0 |" in scores.to_markdown()


def test_command(tmp_path, monkeypatch, capsys):
    def few(split: str, num_videos: int | None = None, seed: int = 0) -> SyntheticVideos:
        return SyntheticVideos(split, 2, 5, height=32, width=48, seed=seed, max_objects=2)

    monkeypatch.setitem(PRESETS, "synthetic-small", TINY)
    monkeypatch.setattr("experiments.common.presets.SyntheticVideos", few)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # waiting threads are slow where cores are shared
    arguments = ("--stage", "detector", "--detector-steps", 3, "--workers", 0, "--out", tmp_path)
    assert command(monkeypatch, "train", *arguments) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"detector.pt", "detector.json", "detector.md", "detector_log.json"}
    assert "| IoU | 1 proposal |" in capsys.readouterr().out
    first = (tmp_path / "detector.json").read_text()
    assert checkpoints.load(tmp_path / "detector.pt", "detector")["step"] == 3
    kill_after(monkeypatch, 0)
    assert command(monkeypatch, "train", *arguments, "--resume") == 0
    again = json.loads((tmp_path / "detector.json").read_text())
    assert again | {"seconds": 0} == json.loads(first) | {"seconds": 0}
    assert command(monkeypatch, "train", *arguments, "--weights", "auto") == 2
    assert "--weights auto" in error_line(capsys)
