"""Stage 0: the class-agnostic detector, and how many of the objects it finds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from experiments.common import checkpoints
from experiments.common.presets import Preset
from experiments.train import process_group
from experiments.train.stages.detector_samples import Batch, DetectionBatches, DetectionConfig, targets_of
from experiments.train.trainer import Log, Stage, Trainer
from stg_pyg.errors import InputError
from stg_pyg.evaluation.recall import RecallTable, box_recall
from stg_pyg.learning.steps import Part, optimisation_step
from stg_pyg.lucid.samples import AnnotatedVideo
from stg_pyg.nn.detector.mask_rcnn import Detector


def train_detector(
    detector: Detector, videos: Sequence[AnnotatedVideo], preset: Preset, path: Path, **options: Any
) -> Log:
    """Trains ``detector`` in place and leaves the averaged weights in it.

    The pictures of a step and what Mask R-CNN samples of them depend on nothing but the seed and the step. The file is
    a detector from the first time on: see :func:`load_detector`.

    Mask R-CNN divides its losses by the regions of the pictures that it sees together, so ``accumulate`` parts of a
    batch on one process are as many processes with one part each, but not quite the batch in one.

    Args:
        options: of :class:`~experiments.train.trainer.Trainer`; the precision is that of the backbone on a GPU.
    """
    trainer = Trainer(**options)
    device, precision = trainer.device, trainer.precision
    detector.to(device)
    if preset.size == "small" or device.type == "cuda":  # a ResNet's strided 1 x 1 convolutions crash so on some CPUs
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    detector.precision = precision if device.type == "cuda" else torch.float32
    optimizer = make_optimizer(detector, preset)
    steps, batch_size = preset.detector_steps, preset.detector_batch_size

    def begin(start: int, scaler: torch.amp.GradScaler) -> Callable[[int], dict[str, float]]:
        config = DetectionConfig(size=preset.detector_size)
        dataset = DetectionBatches(videos, config, batch_size, (start, steps), trainer.seed)
        drawn = process_group.own_parts(dataset, batch_size, trainer.workers, trainer.accumulate)
        replica = process_group.replicated(detector)

        def step_of(step: int) -> dict[str, float]:
            first = trainer.seed + step * 1_000_003 + process_group.rank() * trainer.accumulate
            return process_group.total(detection_step(replica, optimizer, next(drawn), device, first, scaler))

        return step_of

    stage = Stage(
        "detector",
        detector,
        optimizer,
        steps,
        preset.detector_learning_rate,
        batch_size,
        begin,
        average_as="weights",
        content=detector.to_checkpoint(),
    )
    return trainer.fit(stage, videos, preset, path)


def make_optimizer(detector: nn.Module, preset: Preset) -> torch.optim.Optimizer:
    """AdamW for random weights, SGD with momentum for pretrained ones, without decay of norms and biases."""
    parameters = [p for p in detector.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.02 if preset.size == "small" else 1e-4},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if preset.size == "small":
        return torch.optim.AdamW(groups, lr=preset.detector_learning_rate)
    return torch.optim.SGD(groups, lr=preset.detector_learning_rate, momentum=0.9)


def detection_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Part[Batch]],
    device: torch.device,
    seed: int,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, float]:
    """One optimisation step on the parts of a batch; returns the losses, their sum as ``loss``.

    Args:
        net: a :class:`Detector`, or its ``DistributedDataParallel``.
        seed: of what Mask R-CNN samples of the first part; the others have the numbers after it.
    """
    seeds = itertools.count(seed)

    def losses_of(batch: Batch) -> dict[str, Tensor]:
        torch.manual_seed(next(seeds))
        images = [image.to(device).float().div_(255) for image, _ in batch]
        losses = net(images, [targets_of(labels.to(device)) for _, labels in batch])
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    return optimisation_step(net, optimizer, parts, losses_of, max_norm=5.0, scaler=scaler)


def load_detector(path: Path) -> Detector:
    """The detector of a checkpoint of this stage, finished or not, with its averaged weights.

    Raises:
        InputError: the file is missing, damaged, or something else.
    """
    content = checkpoints.load(path, "detector")
    try:
        return Detector.from_checkpoint(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


@dataclass(frozen=True)
class DetectorScores:
    """What the proposals of a set of videos cover."""

    boxes: RecallTable
    mask_iou: float
    """Mean over the objects of the IoU of the best mask in their frame, in [0, 1]: J of an oracle's choice."""
    proposals: float
    """Mean number of proposals a frame."""
    seconds: float
    """Mean time a frame."""
    videos: dict[str, float]
    """Recall of boxes at the lowest threshold with all proposals, by video."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, recall and IoU in percent."""
        return {
            **self.boxes.to_dict(),
            "mask_iou": 100 * self.mask_iou,
            "proposals": self.proposals,
            "seconds": self.seconds,
            "videos": {name: 100 * value for name, value in self.videos.items()},
        }

    def to_markdown(self) -> str:
        """The table of recall and a line about the masks."""
        return (
            f"{self.boxes.to_markdown()}\n\n{self.boxes.num_boxes} objects, {self.proposals:.1f} proposals a frame, "
            f"IoU of the best mask {100 * self.mask_iou:.1f}, {self.seconds:.2f} s a frame"
        )


def evaluate_detector(detector: Detector, videos: Sequence[Any], every: int = 5) -> DetectorScores:
    """Recall of the proposals in every ``every``-th annotated frame of the videos, and the IoU of the best mask."""
    names: list[str] = []
    boxes: list[Tensor] = []
    scores: list[Tensor] = []
    truths: list[Tensor] = []
    best: list[Tensor] = []
    spent = 0.0
    for video in tqdm(videos, desc="recall", unit="video", dynamic_ncols=True, disable=None):
        for t in range(0, video.num_frames, every):
            labels = video.labels(t)
            if labels is None:
                continue
            image = torch.from_numpy(np.ascontiguousarray(video.image(t))).permute(2, 0, 1).float().div(255)
            start = time.perf_counter()
            found = detector.detect(image.to(next(detector.parameters()).device)).to("cpu")
            spent += time.perf_counter() - start
            truth = targets_of(torch.from_numpy(labels.astype(np.int32)))
            names.append(video.name)
            boxes.append(found.boxes)
            scores.append(found.scores)
            truths.append(truth["boxes"])
            best.append(_best_mask_iou(found.masks, truth["masks"] > 0))
    by_video = {}
    for name in dict.fromkeys(names):
        own = [i for i, other in enumerate(names) if other == name]
        parts = ([column[i] for i in own] for column in (boxes, scores, truths))
        by_video[name] = box_recall(*parts).recall[0][-1]  # type: ignore[arg-type]
    count = max(len(names), 1)
    return DetectorScores(
        boxes=box_recall(boxes, scores, truths),
        mask_iou=float(torch.cat([*best, torch.zeros(0)]).mean()),
        proposals=sum(len(frame) for frame in boxes) / count,
        seconds=spent / count,
        videos=by_video,
    )


def _best_mask_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """IoU [M] of every true mask [M, H, W] with the best of the masks [N, H, W]; 0 without any."""
    if len(masks) == 0:
        return torch.zeros(len(truth))
    flat, true = masks.flatten(1).float(), truth.flatten(1).float()
    overlap = true @ flat.T
    union = true.sum(dim=1)[:, None] + flat.sum(dim=1)[None] - overlap
    return (overlap / union.clamp(min=1)).amax(dim=1)
