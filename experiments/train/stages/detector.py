"""Stage 0: the class-agnostic detector, and how many of the objects it finds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
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
from stg_pyg.evaluation.recall import box_recall
from stg_pyg.learning.steps import optimisation_step
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
            seeds = itertools.count(trainer.seed + step * 1_000_003 + process_group.rank() * trainer.accumulate)

            def losses_of(batch: Batch) -> dict[str, Tensor]:
                torch.manual_seed(next(seeds))  # of what Mask R-CNN samples
                images = [image.to(device).float().div_(255) for image, _ in batch]
                losses = replica(images, [targets_of(labels.to(device)) for _, labels in batch])
                return {"loss": torch.stack(list(losses.values())).sum(), **losses}

            losses = optimisation_step(replica, optimizer, next(drawn), losses_of, max_norm=5.0, scaler=scaler)
            return process_group.total(losses)

        return step_of

    about: dict[str, Any] = {"average_as": "weights", "content": detector.to_checkpoint()}
    stage = Stage("detector", detector, optimizer, steps, preset.detector_learning_rate, batch_size, begin, **about)
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


def evaluate_detector(detector: Detector, videos: Sequence[Any], every: int = 5) -> tuple[dict[str, Any], str]:
    """Recall of the proposals in every ``every``-th annotated frame of the videos, and the IoU of the best mask.

    Returns:
        Plain values for JSON and a table in Markdown: recall by threshold and number of proposals and by video (boxes
        at the lowest threshold, all proposals), ``mask_iou``, the mean over objects of the best IoU of a mask in their
        frame, in percent, and ``proposals`` and ``seconds`` a frame.
    """
    frames: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
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
            frames.setdefault(video.name, []).append((found.boxes, found.scores, truth["boxes"]))
            best.append(_best_mask_iou(found.masks, truth["masks"] > 0))
    seen = [frame for own in frames.values() for frame in own]
    count = max(len(seen), 1)
    table = box_recall(*([frame[i] for frame in seen] for i in range(3)))  # type: ignore[arg-type]
    by_video = {
        name: 100 * box_recall(*map(list, zip(*own, strict=True))).recall[0][-1]  # type: ignore[arg-type]
        for name, own in frames.items()
    }
    scores = {
        **table.to_dict(),
        "mask_iou": 100 * float(torch.cat([*best, torch.zeros(0)]).mean()),
        "proposals": sum(len(boxes) for boxes, _, _ in seen) / count,
        "seconds": spent / count,
        "videos": by_video,
    }
    return scores, (
        f"{table.to_markdown()}\n\n{table.num_boxes} objects, {scores['proposals']:.1f} proposals a frame, "
        f"IoU of the best mask {scores['mask_iou']:.1f}, {scores['seconds']:.2f} s a frame"
    )


def _best_mask_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """IoU [M] of every true mask [M, H, W] with the best of the masks [N, H, W]; 0 without any."""
    if len(masks) == 0:
        return torch.zeros(len(truth))
    flat, true = masks.flatten(1).float(), truth.flatten(1).float()
    overlap = true @ flat.T
    union = true.sum(dim=1)[:, None] + flat.sum(dim=1)[None] - overlap
    return (overlap / union.clamp(min=1)).amax(dim=1)
