"""What all stages share: steps, a progress bar, a history, and a state that is saved and gone on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from experiments.common import checkpoints, cli
from experiments.common.presets import Preset
from experiments.runs.settings import fingerprint, plain, state_digest
from experiments.train import process_group
from experiments.train.begun import StageSettings, check_begun
from experiments.train.board import Board
from stg_pyg.errors import InputError
from stg_pyg.learning.steps import AveragedWeights, learning_rate
from stg_pyg.lucid.samples import AnnotatedVideo
from stg_pyg.model.losses import check_finite

Log = list[dict[str, float]]
SAVE_EVERY_SECONDS = 120.0
PICTURE_EVERY = 10
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The type of the forward pass: that of :data:`PRECISIONS`, or for ``auto`` bfloat16 where it is fast.

    Raises:
        InputError: float16 is asked for on the CPU.
    """
    if name == "float16" and device.type == "cpu":
        raise InputError("--precision float16: needs a GPU; use bfloat16 or float32 on the CPU")
    if name == "auto":
        name = "bfloat16" if cli.bfloat16_is_fast(device) else "float32"
    return PRECISIONS[name]


@dataclass
class Stage:
    """What is trained and how, as data; :meth:`Trainer.fit` does it."""

    name: str
    net: nn.Module
    optimizer: torch.optim.Optimizer
    """A group of it may have a ``factor``, by which its learning rate differs."""
    steps: int
    rate: float
    """Highest learning rate."""
    batch_size: int
    begin: Callable[[int, torch.amp.GradScaler], Callable[[int], dict[str, float]]]
    """Makes of the first step to do the function that does one: it returns the losses, ``loss`` among them."""
    averaged: bool = True
    """The moving average of the weights is what comes out."""
    average_as: str = "average"
    """Its name in the checkpoint."""
    left_out: str = "-"
    """How the weights begin that are not stored, as they do not learn."""
    content: dict[str, Any] = field(default_factory=dict)
    """Of the checkpoint, beside the state of the training."""
    picture: Callable[[nn.Module], Tensor] | None = None
    """Of the last step and the averaged network, for TensorBoard."""

    def rate_of(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.schedule is not None:
            return self.rate * self.schedule(step)
        return learning_rate(step, self.steps, self.rate, self.warmup)

    warmup: int = 100
    schedule: Callable[[int], float] | None = None
    """The learning rate of a step as a share of the highest one; none: that of
    :func:`stg_pyg.learning.steps.learning_rate`."""
    log_every: int = 50


@dataclass(frozen=True)
class Trainer:
    """How stages are trained. The state is written every two minutes and at the end; with ``resume`` training goes on
    from there, and as all that is drawn in a step depends on nothing but the seed and the step, it ends as if it had
    not stopped. Without dropout, which every process draws for its own samples, that holds on any number of processes.
    """

    device: torch.device
    precision: torch.dtype = torch.float32
    """Of the forward pass."""
    seed: int = 0
    resume: bool = False
    workers: int = 1
    """Processes that draw samples."""
    accumulate: int = 1
    """Parts that a process takes its share of a batch in, one after the other."""
    tensorboard: Path | None = None
    """Folder of event files."""
    origin: Any = None
    """What the weights were before; training that goes on must have begun with the same."""

    def settings(self, stage: str, videos: Sequence[AnnotatedVideo], preset: Preset) -> dict[str, Any]:
        """The fingerprint of :class:`~experiments.train.begun.StageSettings`, for the checkpoint of a stage."""
        settings = StageSettings(
            stage,
            preset,
            self.seed,
            self.precision,
            self.accumulate,
            plain(self.origin),
            state_digest(path for video in videos for path in getattr(video, "files", ())),
            self.device.type,
            torch.get_num_threads(),
        )
        return fingerprint(settings, self.device)

    def fit(self, stage: Stage, videos: Sequence[AnnotatedVideo], preset: Preset, path: Path) -> Log:
        """Trains ``stage.net`` in place, keeps the state in ``path``, and returns means over the losses of every so
        many steps, with the last of these as ``step``. Of several processes only the first saves and shows a bar.

        Raises:
            InputError: a loss is not finite, or the checkpoint to go on from is of something else. What was saved
                before stays.
        """
        net, optimizer, main = stage.net, stage.optimizer, process_group.is_main()
        average = AveragedWeights(net) if stage.averaged else None
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        settings = self.settings(stage.name, videos, preset)
        start = 0
        log: Log = []
        recent: Log = []  # of the steps since the last mean
        if self.resume and path.is_file():
            content = checkpoints.load(path, stage.name)
            fixed = {name: value for name, value in net.state_dict().items() if name.startswith(stage.left_out)}
            checkpoints.load_weights(net, {**fixed, **content["net"]}, path)
            check_begun(path, content["settings"], settings)
            optimizer.load_state_dict(content["optimizer"])
            if content.get("scaler"):
                scaler.load_state_dict(content["scaler"])
            start, log, recent = content["step"], content["log"], content.get("recent", [])
            if average is not None:
                checkpoints.load_weights(average.net, content[stage.average_as], path)
                average.updates = start
        process_group.agree(start, path)
        if start and main:
            print(f"{path}: goes on after step {start} of {stage.steps}")
        step_of = stage.begin(start, scaler)

        def save(step: int) -> None:
            kept = {name: value for name, value in net.state_dict().items() if not name.startswith(stage.left_out)}
            state = {"net": kept, "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
            if average is not None:
                state[stage.average_as] = average.net.state_dict()
            about = {"kind": stage.name, "settings": settings, "step": step, "log": log, "recent": recent}
            checkpoints.save(path, {**about, **stage.content, **state})

        board = None
        if self.tensorboard is not None and start < stage.steps and main:
            board = Board(self.tensorboard / path.stem, start, stage.batch_size, optimizer)
        bar = tqdm(
            total=stage.steps,
            initial=start,
            desc=stage.name,
            unit="step",
            mininterval=2.0,
            dynamic_ncols=True,
            disable=not main or None,
        )
        saved = time.monotonic()
        net.train()
        for number in range(start + 1, stage.steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = stage.rate_of(number - 1) * group.get("factor", 1.0)
            losses = step_of(number - 1)
            if average is not None:
                average.update(net)
            check_finite(losses, f"{stage.name}, step {number}")
            recent.append(losses)
            if number % stage.log_every == 0:
                log.append({"step": number} | {key: float(np.mean([r[key] for r in recent])) for key in recent[0]})
                recent = []
                bar.set_postfix(loss=f"{log[-1]['loss']:.3f}")
                if board is not None:
                    draw = stage.picture if len(log) % PICTURE_EVERY == 1 else None
                    board.tell(log[-1], draw and draw(net if average is None else average.net))
            bar.update()
            if main and time.monotonic() - saved > SAVE_EVERY_SECONDS:
                save(number)
                saved = time.monotonic()
        bar.close()
        if start < stage.steps and main:
            save(stage.steps)
        if board is not None:
            board.writer.close()
        if average is not None:
            net.load_state_dict(average.net.state_dict())
        net.eval()
        return log
