"""Training of the segmentation network: reproducible batches of lucid samples, one step, averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from stg_pyg.crops import normalize_image
from stg_pyg.lucid import AnnotatedVideo, LucidConfig, draw_sample
from stg_pyg.nn.segmentation import segmentation_loss

T = TypeVar("T")


class LucidBatches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch ``step`` of a training run, the same whenever and by whichever worker it is drawn.

    Args:
        videos: annotated videos.
        config: how samples are drawn.
        batch_size: samples a batch.
        steps: first and one past the last step.
        seed: of the run.

    Each item is (images [B, 3, S, S], q [B, S, S], targets [B, S, S]), uint8.
    """

    def __init__(
        self, videos: Sequence[AnnotatedVideo], config: LucidConfig, batch_size: int, steps: tuple[int, int], seed: int
    ):
        self.videos, self.config, self.batch_size, self.seed = list(videos), config, batch_size, seed
        self.first, self.last = steps

    def __len__(self) -> int:
        return max(self.last - self.first, 0)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, Tensor]:
        if position >= len(self):
            raise IndexError(position)
        rng = np.random.default_rng([self.seed, self.first + position])
        chosen = rng.integers(len(self.videos), size=self.batch_size)
        samples = [draw_sample(rng, self.videos, self.config, int(video)) for video in chosen]
        images = np.stack([sample.image.transpose(2, 0, 1) for sample in samples])
        q, targets = np.stack([sample.q for sample in samples]), np.stack([sample.target for sample in samples])
        return torch.from_numpy(images), torch.from_numpy(q), torch.from_numpy(targets)


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)


def batches(dataset: Dataset[T], workers: int) -> Iterator[T]:
    """The items of a data set of whole batches in order, drawn ahead by ``workers`` processes (0: in this one)."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)


def segmentation_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor, Tensor],
    device: torch.device,
    mixed_precision: bool,
) -> float:
    """One optimisation step on a uint8 batch; returns the loss."""
    images, q, targets = (x.to(device).float().div_(255) for x in batch)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=mixed_precision):
        output = net(normalize_image(images), q)
    loss = segmentation_loss(output, targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 5.0)
    optimizer.step()
    return float(loss.detach())


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then half a cosine to a hundredth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class AveragedWeights:
    """Exponential moving average of a network's weights and statistics, with a short memory at the start."""

    def __init__(self, net: nn.Module, decay: float = 0.998):
        self.decay = decay
        self.net = copy.deepcopy(net).eval()
        self.updates = 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, value in zip(self.net.state_dict().values(), net.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)
