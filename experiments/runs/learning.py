"""Online learning of the videos of a job."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass

import torch
from torch import nn

from datasets.base import VideoSequence
from experiments.common import cli
from experiments.runs.job import Job, learning_seed
from experiments.runs.streams import given_masks
from stg_pyg.learning.lesson import Lesson, adapted_networks
from stg_pyg.model.stgnet import STGNet


@dataclass
class Learned:
    """The networks that online learning on one video has changed, by the names of the model's parts."""

    networks: dict[str, nn.Module]
    seconds: float

    def put_into(self, model: STGNet) -> None:
        """Replaces the networks of a model by these."""
        model.put(self.networks)


def learn(job: Job, model: STGNet, video: VideoSequence) -> Learned:
    """Online learning on the first annotated frame of a video, if the job has any; the same for all rows."""
    steps = model.config.online.steps if job.online_steps is None else job.online_steps
    given = sorted(given_masks(video).items())
    if not (steps and given and model.segmentation is not None and any(row.config for row in job.rows)):
        return Learned({}, 0.0)
    started = time.perf_counter()
    t, labels = given[0]
    online = next(row.config.online for row in job.rows if row.config is not None)
    device = torch.device(job.device)
    lesson = Lesson(
        steps,
        job.online_seconds,
        job.preset.online_lucid,
        online.batch,
        online.rate,
        device,
        zlib.crc32(video.name.encode(errors="surrogateescape")) ^ learning_seed(job),
        cli.bfloat16_is_fast(device),
        online.layers,
        online.enough,
    )
    networks = adapted_networks(model, [video.image(t)], [labels], lesson)
    return Learned(networks, time.perf_counter() - started)
