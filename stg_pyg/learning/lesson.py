"""Online learning of a model: its networks adapted to the given frames of one video (OL of Table 4)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stg_pyg.learning.first_frame import learn_online
from stg_pyg.learning.keys import learn_keys_online
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.model.stgnet import STGNet

SHARE = 0.8
"""Of a limit of time, for the segmentation network where the keys learn too."""


@dataclass
class Lesson:
    """How the networks are trained."""

    steps: int
    seconds: float | None
    """Limit of time; none: as long as the steps take."""
    lucid: LucidConfig
    batch_size: int
    peak: float
    """Highest learning rate."""
    device: torch.device
    seed: int
    mixed_precision: bool = False
    """Train the segmentation network in bfloat16."""
    layers: str = "all"
    enough: float = 0.0
    """As in :class:`~stg_pyg.config.OnlineConfig`."""


def adapted_networks(
    model: STGNet, images: list[np.ndarray], labels: list[np.ndarray], lesson: Lesson
) -> dict[str, nn.Module]:
    """By the names of the model's parts: ``segmentation`` learns from all frames, and ``key_encoder`` from the first,
    where the model asks for that."""
    net, key_steps, limit = model.segmentation, model.config.online.key_steps, lesson.seconds
    assert net is not None
    started = time.perf_counter()
    networks = {
        "segmentation": learn_online(
            net,
            images,
            labels,
            lesson.lucid,
            steps=lesson.steps,
            batch_size=lesson.batch_size,
            peak=lesson.peak,
            device=lesson.device,
            mixed_precision=lesson.mixed_precision,
            seed=lesson.seed,
            seconds=limit if limit is None or not key_steps else SHARE * limit,
            layers=lesson.layers,
            enough=lesson.enough,
        )
    }
    if key_steps:
        networks["key_encoder"] = learn_keys_online(
            model.key_encoder,
            model.memory_attention,
            images[0],
            labels[0],
            crop_size=model.config.temporal.key_size,
            margin=model.config.proposals.crop_margin,
            steps=key_steps,
            peak=lesson.peak,
            device=lesson.device,
            seed=lesson.seed,
            seconds=None if limit is None else limit - (time.perf_counter() - started),
        )
    return networks
