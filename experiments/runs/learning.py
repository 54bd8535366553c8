"""Online learning of the videos of a job, kept in a file a video where several jobs learn the same."""

from __future__ import annotations

import copy
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.base import VideoSequence
from experiments.common import checkpoints, cli
from experiments.runs.job import Job, learning_part, settings_of
from experiments.runs.settings import state_digest
from experiments.runs.streams import given_masks
from stg_pyg.errors import InputError
from stg_pyg.learning.lesson import Lesson, adapted_networks
from stg_pyg.model.stgnet import STGNet

KIND = "learned"


@dataclass
class Learned:
    """The networks that online learning on one video has changed, by the names of the model's parts."""

    networks: dict[str, nn.Module]
    seconds: float


def learn(job: Job, model: STGNet, video: VideoSequence) -> Learned:
    """Online learning on the first annotated frame of a video, if the job has any; the same for all rows."""
    steps = model.config.online.steps if job.online_steps is None else job.online_steps
    given = sorted(given_masks(video).items())
    online = next((row.config.online for row in job.rows if row.config is not None), None)
    if not (steps and given and model.segmentation is not None and online):
        return Learned({}, 0.0)
    started = time.perf_counter()
    t, labels = given[0]
    device = torch.device(job.device)
    lesson = Lesson(
        steps,
        job.online_seconds,
        job.preset.online_lucid,
        online.batch,
        online.rate,
        device,
        zlib.crc32(video.name.encode(errors="surrogateescape")) ^ job.learning_seed,
        cli.bfloat16_is_fast(device),
        online.layers,
        online.enough,
    )
    networks = adapted_networks(model, [video.image(t)], [labels], lesson)
    return Learned(networks, time.perf_counter() - started)


def learned_once(folder: Path, job: Job, model: STGNet, video: VideoSequence) -> Learned:
    """:func:`learn`, from ``folder/<video>.pt`` or written there.

    A file that is broken, or of other settings or weights, is replaced. Without online learning there is none.
    """
    path = folder / f"{video.name}.pt"
    settings = {**settings_of(learning_part(job)), "files": state_digest(video.files)}
    learned = _read(path, settings, model)
    if learned is not None:
        return learned
    learned = learn(job, model, video)
    if learned.networks:
        cli.make_folder(path.parent)
        states = {name: network.state_dict() for name, network in learned.networks.items()}
        checkpoints.save(path, {"kind": KIND, "settings": settings, "seconds": learned.seconds, "networks": states})
    return learned


def _read(path: Path, settings: dict[str, Any], model: STGNet) -> Learned | None:
    try:
        content: dict[str, Any] = checkpoints.load(path, KIND)
        if content["settings"] != settings:
            return None
        networks = {}
        for name, state in content["networks"].items():
            networks[name] = copy.deepcopy(getattr(model, name)).cpu()
            checkpoints.load_weights(networks[name], state, path)
    except (InputError, AttributeError):
        return None
    return Learned(networks, float(content["seconds"]))
