"""The networks adapted to the given frames of somebody's own video, before it is segmented."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from tqdm import tqdm

from experiments import cli
from experiments.learning import SHARE
from stg_pyg.io import UInt8Array
from stg_pyg.lucid import LucidConfig
from stg_pyg.model import STGNet
from stg_pyg.online import learn_online
from stg_pyg.online_keys import learn_keys_online

Weights = dict[str, Any]


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


def adapted_networks(
    model: STGNet, images: list[UInt8Array], labels: list[UInt8Array], lesson: Lesson
) -> dict[str, Weights]:
    """Weights by the names of the model's parts: of ``segmentation`` from all frames, and of ``key_encoder`` from the
    first, where the model asks for that."""
    net, key_steps = model.segmentation, model.config.online_key_steps
    assert net is not None
    started = time.perf_counter()
    limit = lesson.seconds
    with progress_of(net, lesson.steps):
        adapted = learn_online(
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
    networks = {"segmentation": adapted.state_dict()}
    if key_steps:
        keys = learn_keys_online(
            model.key_encoder,
            model.memory_attention,
            images[0],
            labels[0],
            crop_size=model.config.key_size,
            margin=model.config.crop_margin,
            steps=key_steps,
            peak=lesson.peak,
            device=lesson.device,
            seed=lesson.seed,
            seconds=None if limit is None else limit - (time.perf_counter() - started),
        )
        networks["key_encoder"] = keys.state_dict()
    return networks


@contextlib.contextmanager
def progress_of(net: nn.Module, steps: int) -> Iterator[None]:
    """A bar that advances whenever a network of this kind is run."""
    with tqdm(total=steps, desc="learning the given masks", unit="step", dynamic_ncols=True, disable=None) as bar:

        def advance(module: nn.Module, inputs: Any, output: Any) -> None:
            if type(module) is type(net):
                bar.update()

        hook = register_module_forward_hook(advance)
        try:
            yield
        finally:
            hook.remove()
