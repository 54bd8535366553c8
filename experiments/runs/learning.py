"""Online learning: the networks of a model adapted to the given frames of one video."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from datasets.base import VideoSequence
from experiments.common import cli
from experiments.runs.job import Job, learning_seed
from experiments.runs.streams import given_masks
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


@dataclass
class Learned:
    """The networks that online learning on one video has changed, by the names of the model's parts."""

    networks: dict[str, nn.Module]
    seconds: float

    def put_into(self, model: STGNet) -> None:
        """Replaces the networks of a model by these."""
        for name, network in self.networks.items():
            setattr(model, name, network)


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
            mixed_precision=cli.bfloat16_is_fast(lesson.device),
            seed=lesson.seed,
            seconds=limit if limit is None or not key_steps else SHARE * limit,
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


def learn(job: Job, model: STGNet, video: VideoSequence) -> Learned:
    """Online learning on the first annotated frame of a video, if the job has any; the same for all rows."""
    steps = model.config.online.steps if job.online_steps is None else job.online_steps
    given = sorted(given_masks(video).items())
    if not (steps and given and model.segmentation is not None and any(row.config for row in job.rows)):
        return Learned({}, 0.0)
    started = time.perf_counter()
    t, labels = given[0]
    lesson = Lesson(
        steps,
        job.online_seconds,
        job.preset.online_lucid,
        job.preset.online_batch_size,
        job.preset.online_learning_rate,
        torch.device(job.device),
        zlib.crc32(video.name.encode(errors="surrogateescape")) ^ learning_seed(job),
    )
    networks = adapted_networks(model, [video.image(t)], [labels], lesson)
    return Learned(networks, time.perf_counter() - started)
