"""Online learning: the segmentation network adapted to the annotated frames of one video (OL of Table 4)."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from torch import nn

from stg_pyg.lucid import LucidConfig
from stg_pyg.training import LucidBatches, batches, learning_rate, segmentation_step


class AnnotatedFrames:
    """A few frames and their masks as a video to draw training samples from.

    Args:
        images: uint8 [H, W, 3] each.
        labels: uint8 [H, W] object ids each.
    """

    def __init__(self, images: list[np.ndarray], labels: list[np.ndarray]):
        self._images, self._labels = images, labels

    @property
    def num_frames(self) -> int:
        return len(self._images)

    def image(self, t: int) -> np.ndarray:
        return self._images[t]

    def labels(self, t: int) -> np.ndarray:
        return self._labels[t]


def learn_online(
    net: nn.Module,
    image: np.ndarray,
    labels: np.ndarray,
    config: LucidConfig,
    *,
    steps: int,
    batch_size: int,
    peak: float,
    device: torch.device,
    mixed_precision: bool = False,
    seed: int = 0,
) -> nn.Module:
    """A copy of the network, trained on dreams of one annotated frame; the network itself stays as it is.

    The statistics of the batch normalisation are frozen, as crops of one object are no fair sample.

    Args:
        image: uint8 [H, W, 3].
        labels: uint8 [H, W].
        config: how samples are drawn; samples are taken elsewhere in the frame more often, as the background of this
            very video is what the object must be told from.
        peak: highest learning rate.
    """
    adapted = copy.deepcopy(net).to(device)
    if steps <= 0 or not labels.any():
        return adapted.eval()
    adapted.train().requires_grad_(True)
    for module in adapted.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    optimizer = torch.optim.Adam(adapted.parameters(), lr=peak)
    video = AnnotatedFrames([image], [labels])
    own = dataclasses.replace(config, flow_share=0.0, background_share=0.0, distractor_share=0.0, absent_share=0.12)
    dataset = LucidBatches([video], own, batch_size, (0, steps), seed)
    for step, batch in enumerate(batches(dataset, workers=0)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak, warmup=10)
        with torch.enable_grad():
            segmentation_step(adapted, optimizer, batch, device, mixed_precision)
    return adapted.eval()
