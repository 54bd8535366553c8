"""Pictures that the detector learns on, its optimisers and its recall; its training is in test_train_stages.py."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
from train_cases import TINY, tiny_detector

from datasets import SyntheticVideos, VideoSequence
from experiments.train.stages import detector_samples
from experiments.train.stages.detector import evaluate_detector, make_optimizer
from experiments.train.stages.detector_samples import DetectionBatches, DetectionConfig, draw_picture, targets_of
from stg_pyg.learning.steps import batches
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.proposals.base import Proposals

CONFIG = DetectionConfig(size=48)


@functools.lru_cache
def videos() -> tuple[VideoSequence, ...]:
    return tuple(SyntheticVideos("train", 3, 4, height=64, width=96, seed=1, max_objects=2))


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


def test_pictures_keep_the_shape_of_the_frame_and_pass_over_those_without_annotation():
    class Tall:
        num_frames = 5

        def labels(self, t):
            return np.zeros((200, 50), np.uint8) if t == 3 else None

        def image(self, t):
            return np.zeros((200, 50, 3), np.uint8)

    image, labels = draw_picture(np.random.default_rng(0), [Tall()], DetectionConfig(48, paste_share=1.0), 0)
    assert image.shape == (85, 21, 3), "the long side is at most 16/9 of 48"
    assert not labels.any()


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


def test_optimizers():
    detector = tiny_detector()
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
    detector = tiny_detector()
    detector.__class__ = Told
    scores, table = evaluate_detector(detector, [Square(), Half()], every=5)
    recall = scores["recall"]
    assert scores["boxes"] == 4, "frames 0 and 10 of both videos: frame 5 is not annotated"
    assert (recall["0.5"]["1"], recall["0.5"]["5"], recall["0.7"]["5"]) == (0, 100, 50)
    assert scores["mask_iou"] == pytest.approx(75) and scores["proposals"] == 2
    assert scores["videos"] == {"square": 100, "half": 100} and json.loads(json.dumps(scores)) == scores
    assert "| 0.7 | 0.0 | 50.0 |" in table and "4 objects, 2.0 proposals a frame, IoU of the best mask 75.0" in table
