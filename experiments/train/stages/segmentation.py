"""Stage 1: the segmentation network, on lucid crops of the training videos."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.base import VideoSequence
from experiments.common import checkpoints
from experiments.common.presets import Preset
from experiments.train import process_group
from experiments.train.board import MOST_ROWS, rows_of
from experiments.train.trainer import Log, Stage, Trainer
from stg_pyg.flow.interface import FlowEstimator
from stg_pyg.flow.sources import resolve_flow
from stg_pyg.flow.warping import warp
from stg_pyg.learning.steps import (
    MAX_NORM,
    LucidBatches,
    Part,
    SegmentationBatch,
    drawn_from,
    optimisation_step,
    segmentation_losses,
)
from stg_pyg.lucid.samples import AnnotatedVideo
from stg_pyg.nn.backbones.guided_unet import GuidedUNet
from stg_pyg.ops.boxes import box_center_size, boxes_from_center_size, masks_to_boxes
from stg_pyg.ops.crops import crop_resize, crop_windows, normalize_image

BACKBONE_RATE = 0.3
"""Learning rate of a pretrained backbone, share of that of the rest."""
EVALUATION_GAP = 4
"""Frames between the mask that Q is warped from and the one to be segmented."""


def train_segmentation(
    net: nn.Module, videos: Sequence[AnnotatedVideo], preset: Preset, path: Path, **options: Any
) -> Log:
    """Trains ``net`` in place by the recipe of the preset, and leaves the averaged weights in it, if there are any.

    The samples and the dropout of a step depend on nothing but the seed and the step. X and K of the network are
    compared among the samples of a part of a batch (``accumulate``, processes).

    Args:
        options: of :class:`~experiments.train.trainer.Trainer`.
    """
    trainer = Trainer(**options)
    net.to(trainer.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    printed = preset.recipe == "printed"
    optimizer = (
        torch.optim.Adam(net.parameters(), lr=preset.learning_rate)
        if printed
        else torch.optim.AdamW(parameter_groups(net), lr=preset.learning_rate, weight_decay=0.02)
    )
    max_norm = math.inf if printed else MAX_NORM
    seen: list[Part[SegmentationBatch]] = []

    def begin(start: int, scaler: torch.amp.GradScaler) -> Callable[[int], dict[str, float]]:
        span = (start, preset.segmentation_steps)
        dataset = LucidBatches(videos, preset.lucid, preset.batch_size, span, trainer.seed)
        drawn = process_group.own_parts(dataset, preset.batch_size, trainer.workers, trainer.accumulate)
        replica = process_group.replicated(net)

        def losses_of(samples: SegmentationBatch) -> dict[str, Tensor]:
            return segmentation_losses(replica, samples, trainer.device, trainer.precision, identity=True)

        def step_of(step: int) -> dict[str, float]:
            seen[:] = next(drawn)
            with drawn_from(trainer.device, trainer.seed, 7, step, process_group.rank()):
                losses = optimisation_step(replica, optimizer, seen, losses_of, max_norm=max_norm, scaler=scaler)
            return process_group.total(losses)

        return step_of

    @torch.no_grad()
    def picture(shown: nn.Module) -> Tensor:
        images, q, targets = (x[:MOST_ROWS].to(trainer.device).float() / 255 for x in seen[0].samples[:3])
        learning = shown.training  # without averages it is the network that learns, whose statistics must not move
        result = shown.eval()(normalize_image(images), q).logits.sigmoid()
        shown.train(learning)
        return rows_of(images, q, result, targets)

    steps, rate = preset.segmentation_steps, preset.learning_rate
    about: dict[str, Any] = {"averaged": False, "schedule": lambda step: 1.0} if printed else {}
    stage = Stage("segmentation", net, optimizer, steps, rate, preset.batch_size, begin, picture=picture, **about)
    return trainer.fit(stage, videos, preset, path)


def parameter_groups(net: nn.Module) -> list[dict[str, Any]]:
    """A pretrained backbone learns more slowly than what is new."""
    backbone = list(net.backbone.parameters()) if isinstance(net, GuidedUNet) else []
    known = {id(p) for p in backbone}
    rest = [p for p in net.parameters() if id(p) not in known]
    groups = [{"params": rest, "factor": 1.0}, {"params": backbone, "factor": BACKBONE_RATE}]
    return [group for group in groups if group["params"]]


def load_segmentation(net: nn.Module, path: Path) -> None:
    """Loads the weights of a phase of the first stage, finished or not, averaged ones if there are, into ``net``."""
    content = checkpoints.load(path, "segmentation")
    checkpoints.load_weights(net, content.get("average", content["net"]), path)
    net.eval()


def evaluate_segmentation(
    net: nn.Module, videos: Sequence[VideoSequence], preset: Preset, every: int = 5, seed: int = 0
) -> dict[str, Any]:
    """J of crops around the objects with Q, the true mask of four frames before warped by flow, and with Q = 0.

    A crop is the window of the true box, slightly moved and scaled; J, in percent, compares the mask at 0.5 with the
    true one inside the crop. Means over all crops, NaN without any, and by video.
    """
    flow, device = resolve_flow("dis"), next(net.parameters()).device
    net.eval()
    scores: dict[str, list[tuple[float, float]]] = {}
    for number, video in enumerate(tqdm(videos, desc="crops", unit="video", dynamic_ncols=True, disable=None)):
        for t in range(EVALUATION_GAP, video.num_frames, every):
            crops = _evaluation_crops(video, t, preset, flow, np.random.default_rng([seed, number, t]))
            if crops is not None:
                images, q, truth = (x.to(device) for x in crops)
                js = [_crop_j(net, images, x, truth) for x in (q, torch.zeros_like(q))]
                scores.setdefault(video.name, []).extend(zip(*js, strict=True))
    by_video = {name: _mean_scores(values) for name, values in scores.items()}
    every_crop = [pair for values in scores.values() for pair in values]
    return {**_mean_scores(every_crop), "crops": len(every_crop), "videos": by_video}


def _evaluation_crops(
    video: VideoSequence, t: int, preset: Preset, flow: FlowEstimator, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Images [N, 3, S, S], Q [N, S, S] and true masks [N, S, S] of the objects of frame t; None without any."""
    labels, before = video.labels(t), video.labels(t - EVALUATION_GAP)
    if labels is None or before is None or not labels.any():
        return None
    current, previous = video.image(t), video.image(t - EVALUATION_GAP)
    ids = torch.from_numpy(np.unique(labels[labels > 0]))[:, None, None]
    masks, old = (torch.from_numpy(np.ascontiguousarray(x))[None] == ids for x in (labels, before))
    center, size = box_center_size(masks_to_boxes(masks))
    center = center + 0.05 * size * torch.from_numpy(rng.standard_normal(center.shape)).float()
    size = size * torch.from_numpy(np.exp(0.05 * rng.standard_normal(size.shape))).float()
    windows = crop_windows(boxes_from_center_size(center, size), preset.config.proposals.crop_margin)
    image = torch.from_numpy(np.ascontiguousarray(current)).permute(2, 0, 1).float()[None] / 255
    q, owner = warp(old.float(), flow(current, previous)), torch.arange(len(ids))
    maps = torch.stack([q, masks.float()], dim=1)
    cut = crop_resize(maps, windows, preset.crop_size, owner)
    return crop_resize(normalize_image(image), windows, preset.crop_size), cut[:, 0], cut[:, 1] > 0.5


@torch.no_grad()
def _crop_j(net: nn.Module, images: Tensor, q: Tensor, truth: Tensor) -> list[float]:
    found = net(images, q).logits > 0
    overlap, either = (found & truth).sum(dim=(1, 2)), (found | truth).sum(dim=(1, 2))
    return torch.where(either > 0, overlap / either.clamp(min=1), 1.0).tolist()


def _mean_scores(values: Sequence[tuple[float, float]]) -> dict[str, float]:
    table = np.array(values).reshape(-1, 2)
    means = 100 * table.mean(axis=0) if len(table) else np.full(2, np.nan)
    return {"with_q": float(means[0]), "without_q": float(means[1])}
