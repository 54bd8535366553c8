"""What online learning has made of the networks, kept in a file a video."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from datasets.base import VideoSequence
from experiments.common import checkpoints, cli
from experiments.runs.job import Job, learning_part
from experiments.runs.learning import Learned, learn
from experiments.runs.settings import fingerprint, state_digest
from stg_pyg.errors import InputError
from stg_pyg.model.stgnet import STGNet

KIND = "learned"


def learned_once(folder: Path, job: Job, model: STGNet, video: VideoSequence) -> Learned:
    """The networks of online learning on a video, from ``folder/<video>.pt`` or learned and written there.

    A file that is broken, or of other settings or weights, is replaced. Without online learning there is none.
    """
    path = folder / f"{video.name}.pt"
    common = learning_part(job)
    settings = {**fingerprint(common, job.device), "files": state_digest(video.files)}
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
