"""Online learning: the networks adapted to the annotated frames of one video (OL of Table 4)."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from stg_pyg.learning.steps import LucidBatches, batches, drawn_from, learning_rate, segmentation_step
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.backbones.guided_unet import GuidedUNet

WARM_UP = 10
RECENT = 10
"""Steps that must all be good enough."""


class AnnotatedFrames:
    """A few frames, uint8 [H, W, 3] with object ids [H, W], as a video to draw training samples from."""

    def __init__(self, images: list[np.ndarray], labels: list[np.ndarray]):
        self._images, self._labels = images, labels

    @property
    def num_frames(self) -> int:
        return len(self._images)

    def image(self, t: int) -> np.ndarray:
        return self._images[t]

    def labels(self, t: int) -> np.ndarray:
        return self._labels[t]


class Schedule:
    """Learning rates of at most ``steps`` steps within ``seconds`` seconds: they have fallen when either ends, so that
    with a limit of time results depend on how fast the machine is."""

    def __init__(
        self, steps: int, peak: float, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ):
        self.steps, self.peak, self.seconds = steps, peak, seconds
        self._clock, self._start = clock, clock()

    def rate(self, step: int) -> float | None:
        """Learning rate of step ``step``; none where there is no time or no step left."""
        progress = float(step)
        if self.seconds is not None:
            used = (self._clock() - self._start) / self.seconds if self.seconds > 0 else 1.0
            if used >= 1:
                return None
            progress = max(progress, used * self.steps)
        if step >= self.steps:
            return None
        # In the first steps the rate rises with the steps done, however long they take.
        warm = learning_rate(step, self.steps, self.peak, WARM_UP)
        return warm if step < WARM_UP else learning_rate(int(progress), self.steps, self.peak, WARM_UP)


@torch.inference_mode(False)
def learn_online(
    net: nn.Module,
    image: np.ndarray | list[np.ndarray],
    labels: np.ndarray | list[np.ndarray],
    config: LucidConfig,
    *,
    steps: int,
    batch_size: int,
    peak: float,
    device: torch.device,
    mixed_precision: bool = False,
    seed: int = 0,
    seconds: float | None = None,
    layers: str = "all",
    enough: float = 0.0,
) -> nn.Module:
    """A copy of the network, trained on dreams of one or several annotated frames; the network itself stays as it is.

    Args:
        image, labels: uint8 [H, W, 3] and [H, W], or lists of them.
        config: how samples are drawn, see :func:`of_one_video`.
        steps, seconds: most steps, and most seconds, None: as long as the steps take.
        peak: highest learning rate.
        seed: of the samples and of dropout, which depend on it and on the step alone.
        layers, enough: see :class:`~stg_pyg.config.OnlineConfig`.
    """
    adapted = copy.deepcopy(net).to(device)
    images = image if isinstance(image, list) else [image]
    maps = labels if isinstance(labels, list) else [labels]
    if steps <= 0 or not any(frame.any() for frame in maps):
        return adapted.eval()
    train_mode(adapted, layers)
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=peak)
    dataset = LucidBatches([AnnotatedFrames(images, maps)], of_one_video(config), batch_size, (0, steps), seed)
    schedule = Schedule(steps, peak, seconds)
    overlaps: deque[float] = deque(maxlen=RECENT)
    for step, batch in enumerate(batches(dataset, workers=0)):
        rate = schedule.rate(step)
        if rate is None:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.enable_grad(), drawn_from(device, seed, 4, step):
            losses = segmentation_step(adapted, optimizer, batch, device, mixed_precision)
        overlaps.append(1 - losses["iou"])
        if enough > 0 and len(overlaps) == RECENT and min(overlaps) >= enough:
            break
    return adapted.eval()


def of_one_video(config: LucidConfig) -> LucidConfig:
    """How samples are drawn where the frames of one video are all there is, and no two of them follow each other."""
    return dataclasses.replace(config, flow_share=0.0, background_share=0.0, distractor_share=0.0, absent_share=0.12)


def train_mode(net: nn.Module, layers: str = "all") -> None:
    """Lets the ``layers`` of a network learn, but for the statistics of its normalisation: crops of one object are no
    fair sample."""
    net.train().requires_grad_(True)
    if layers == "decoder" and isinstance(net, GuidedUNet):
        net.backbone.requires_grad_(False)
    freeze_statistics(net)


def freeze_statistics(net: nn.Module) -> None:
    """Lets batch normalisation of a network in training use the statistics that it has and leave them as they are; its
    scales and shifts still learn."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
