"""Stage 1: the segmentation network, on lucid crops of the training videos."""

from __future__ import annotations

from collections.abc import Sequence
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
from experiments.train.begun import check_begun, stage_fingerprint
from experiments.train.board import MOST_ROWS, open_board, rows_of
from experiments.train.trainer import History, Log, load_scaler, run_steps
from stg_pyg.flow.interface import FlowEstimator
from stg_pyg.flow.sources import resolve_flow
from stg_pyg.flow.warping import warp
from stg_pyg.learning.steps import (
    MAX_NORM,
    AveragedWeights,
    LucidBatches,
    Part,
    SegmentationBatch,
    drawn_from,
    learning_rate,
    optimisation_step,
    segmentation_losses,
)
from stg_pyg.lucid.samples import AnnotatedVideo
from stg_pyg.ops.boxes import box_center_size, boxes_from_center_size, masks_to_boxes
from stg_pyg.ops.crops import crop_resize, crop_windows, normalize_image

EVALUATION_GAP = 4
"""Frames between the mask that Q is warped from and the one to be segmented."""


def train_segmentation(
    net: nn.Module,
    videos: Sequence[AnnotatedVideo],
    preset: Preset,
    path: Path,
    *,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    seed: int = 0,
    resume: bool = False,
    workers: int = 1,
    accumulate: int = 1,
    tensorboard: Path | None = None,
    origin: Any = None,
) -> Log:
    """Trains ``net`` in place and leaves the averaged weights in it.

    The state is written to ``path`` every two minutes and at the end; with ``resume`` training goes on from there,
    and as the samples and the dropout of a step depend on nothing but the seed and the step, it ends as if it had not
    stopped. Without dropout, which every process draws for its own samples, that holds on any number of processes.

    Args:
        precision: of the forward pass.
        workers: processes that draw samples.
        accumulate: parts that a process takes its share of a batch in, one after the other.
        tensorboard: folder of event files.
        origin: what the weights were before; training that goes on must have begun with the same.

    Returns:
        One entry {"step", "loss"} every 50 steps.
    """
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedWeights(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=preset.learning_rate, weight_decay=0.02)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    start, history = 0, History()
    options: dict[str, Any] = {"seed": seed, "precision": precision, "accumulate": accumulate, "origin": origin}
    settings = stage_fingerprint("segmentation", preset, videos, device, **options)
    if resume and path.is_file():
        content = checkpoints.load(path, "segmentation")
        checkpoints.load_weights(net, content["net"], path)
        checkpoints.load_weights(average.net, content["average"], path)
        check_begun(path, content["settings"], settings)
        optimizer.load_state_dict(content["optimizer"])
        load_scaler(scaler, content)
        start, history, average.updates = content["step"], History.of(content), content["step"]
    process_group.agree(start, path)
    steps = preset.segmentation_steps

    dataset = LucidBatches(videos, preset.lucid, preset.batch_size, (start, steps), seed)
    drawn = process_group.own_parts(dataset, preset.batch_size, workers, accumulate)
    replica = process_group.replicated(net)
    seen: list[Part[SegmentationBatch]] = []

    def losses_of(samples: SegmentationBatch) -> dict[str, Tensor]:
        return segmentation_losses(replica, samples, device, precision)

    def train_step(step: int) -> dict[str, float]:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, preset.learning_rate)
        seen[:] = next(drawn)
        with drawn_from(device, seed, 7, step, process_group.rank()):
            losses = optimisation_step(replica, optimizer, seen, losses_of, max_norm=MAX_NORM, scaler=scaler)
        average.update(net)
        return process_group.total(losses)

    def save(step: int) -> None:
        nets = {"net": net.state_dict(), "average": average.net.state_dict()}
        state = {**nets, "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(), **history.state()}
        checkpoints.save(path, {"kind": "segmentation", "settings": settings, "step": step, **state})

    @torch.no_grad()
    def picture() -> Tensor:
        images, q, targets = (x[:MOST_ROWS].to(device).float() / 255 for x in seen[0].samples)
        return rows_of(images, q, average.net(normalize_image(images), q).logits.sigmoid(), targets)

    board = open_board(tensorboard, path, range(start, steps), preset.batch_size, optimizer, picture)
    net.train()
    run_steps("segmentation", range(start, steps), train_step, save, history, board=board)
    net.load_state_dict(average.net.state_dict())
    net.eval()
    return history.log


def load_segmentation(net: nn.Module, path: Path) -> None:
    """Loads the averaged weights of a phase of the first stage, finished or not, into ``net``."""
    checkpoints.load_weights(net, checkpoints.load(path, "segmentation")["average"], path)
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
