"""What online learning has made of the networks, kept in a file a video."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from datasets.base import VideoSequence
from experiments import checkpoints, cli
from experiments.jobs import Job, settings_of
from experiments.learning import Learned, learn
from experiments.records import state_digest
from stg_pyg.errors import InputError
from stg_pyg.model import STGNet

_DEPENDS_ON = ("checkpoint", "code", "preset", "split", "root", "device", "seed", "online_steps", "online_seconds")
KIND = "learned"


def learned_once(folder: Path, job: Job, model: STGNet, video: VideoSequence) -> Learned:
    """The networks of online learning on a video, from ``folder/<video>.pt`` or learned and written there.

    A file that is broken, or of other settings or weights, is replaced. Without online learning there is none.
    """
    path = folder / f"{video.name}.pt"
    settings = _settings(job, video)
    learned = _read(path, settings, model)
    if learned is not None:
        return learned
    learned = learn(job, model, video)
    if learned.networks:
        cli.make_folder(path.parent)
        states = {name: network.state_dict() for name, network in learned.networks.items()}
        checkpoints.save(path, {"kind": KIND, "settings": settings, "seconds": learned.seconds, "networks": states})
    return learned


def _read(path: Path, settings: str, model: STGNet) -> Learned | None:
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


def _settings(job: Job, video: VideoSequence) -> str:
    found = settings_of(job)
    kept = {name: found[name] for name in _DEPENDS_ON}
    kept |= {"online_seed": job.online_seed, "files": state_digest(video.files)}
    return json.dumps(kept, sort_keys=True, default=str)
