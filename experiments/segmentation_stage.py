"""Stage 1: the segmentation network, on lucid crops of the training videos."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from experiments import checkpoints
from experiments.presets import Preset
from stg_pyg.lucid import AnnotatedVideo
from stg_pyg.training import AveragedWeights, LucidBatches, batches, learning_rate, segmentation_step

SAVE_EVERY_SECONDS = 120.0


def train_segmentation(
    net: nn.Module,
    videos: Sequence[AnnotatedVideo],
    preset: Preset,
    path: Path,
    *,
    device: torch.device,
    mixed_precision: bool,
    seed: int = 0,
    resume: bool = False,
    workers: int = 1,
) -> list[dict[str, float]]:
    """Trains ``net`` in place and leaves the averaged weights in it.

    The state is written to ``path`` every two minutes and at the end; with ``resume`` training goes on from there,
    and as the samples of a step depend on nothing but the seed and the step, it ends as if it had not stopped.

    Returns:
        One entry {"step", "loss"} every 50 steps.
    """
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedWeights(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=preset.learning_rate, weight_decay=0.02)
    start, log = 0, []
    if resume and path.is_file():
        content = checkpoints.load(path, "segmentation")
        checkpoints.load_weights(net, content["net"], path)
        checkpoints.load_weights(average.net, content["average"], path)
        optimizer.load_state_dict(content["optimizer"])
        start, log, average.updates = content["step"], content["log"], content["step"]
    steps = preset.segmentation_steps

    def save(step: int) -> None:
        checkpoints.save(
            path,
            {
                "kind": "segmentation",
                "preset": preset.name,
                "step": step,
                "net": net.state_dict(),
                "average": average.net.state_dict(),
                "optimizer": optimizer.state_dict(),
                "log": log,
            },
        )

    dataset = LucidBatches(videos, preset.lucid, preset.batch_size, (start, steps), seed)
    bar = tqdm(
        total=steps, initial=start, desc="segmentation", unit="step", mininterval=2.0, dynamic_ncols=True, disable=None
    )
    losses, saved = [], time.monotonic()
    net.train()
    for step, batch in enumerate(batches(dataset, workers), start=start):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, preset.learning_rate)
        losses.append(segmentation_step(net, optimizer, batch, device, mixed_precision))
        average.update(net)
        bar.update()
        if (step + 1) % 50 == 0:
            log.append({"step": step + 1, "loss": sum(losses) / len(losses)})
            bar.set_postfix(loss=f"{log[-1]['loss']:.3f}")
            losses = []
        if time.monotonic() - saved > SAVE_EVERY_SECONDS:
            save(step + 1)
            saved = time.monotonic()
    bar.close()
    if start < steps:
        save(steps)
    net.load_state_dict(average.net.state_dict())
    net.eval()
    return log


def load_segmentation(net: nn.Module, path: Path) -> None:
    """Loads the averaged weights of the first stage, finished or not, into ``net``."""
    checkpoints.load_weights(net, checkpoints.load(path, "segmentation")["average"], path)
    net.eval()
