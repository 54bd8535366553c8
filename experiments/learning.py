"""Online learning of a job's model on one video."""

from __future__ import annotations

import dataclasses
import time
import zlib

import torch

from datasets.base import VideoSequence
from experiments import cli
from experiments.jobs import Job
from experiments.label_streams import given_masks
from stg_pyg.model import STGNet
from stg_pyg.online import learn_online
from stg_pyg.online_keys import learn_keys_online

SHARE = 0.8
"""Of a limit of time, for the segmentation network where the keys learn too."""


@dataclasses.dataclass
class Learned:
    """The networks as online learning on one video left them; none where it left them as they were."""

    segmentation: torch.nn.Module | None
    seconds: float
    key_encoder: torch.nn.Module | None = None

    def put_into(self, model: STGNet) -> None:
        """Replaces the networks of a model by these."""
        model.segmentation = self.segmentation
        if self.key_encoder is not None:
            model.key_encoder = self.key_encoder


def learn(job: Job, model: STGNet, video: VideoSequence) -> Learned:
    """Online learning on the first annotated frame of a video, if the job has any; the same for all rows."""
    steps = model.config.online_steps if job.online_steps is None else job.online_steps
    given = sorted(given_masks(video).items())
    segmentation = model.segmentation
    started = time.perf_counter()
    if not (steps and given and segmentation is not None and any(row.config for row in job.rows)):
        return Learned(segmentation, time.perf_counter() - started)
    t, labels = given[0]
    preset, device = job.preset, torch.device(job.device)
    limit, key_steps = job.online_seconds, model.config.online_key_steps
    seed = zlib.crc32(video.name.encode()) ^ (job.seed if job.online_seed is None else job.online_seed)
    segmentation = learn_online(
        segmentation,
        video.image(t),
        labels,
        preset.online_lucid,
        steps=steps,
        batch_size=preset.online_batch_size,
        peak=preset.online_learning_rate,
        device=device,
        mixed_precision=cli.bfloat16_is_fast(device),
        seed=seed,
        seconds=limit if limit is None or not key_steps else SHARE * limit,
    )
    keys = None
    if key_steps:
        left = None if limit is None else limit - (time.perf_counter() - started)
        keys = learn_keys_online(
            model.key_encoder,
            model.memory_attention,
            video.image(t),
            labels,
            crop_size=model.config.key_size,
            margin=model.config.crop_margin,
            steps=key_steps,
            peak=preset.online_learning_rate,
            device=device,
            seed=seed,
            seconds=left,
        )
    return Learned(segmentation, time.perf_counter() - started, keys)
