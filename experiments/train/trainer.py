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
from experiments.train import process_group
from experiments.train.begun import check_begun, stage_fingerprint
from experiments.train.board import Board, open_board
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
class History:
    """The losses of the steps of a stage so far."""

    log: Log = field(default_factory=list)
    """Means over every so many steps, with the last of these as ``step``."""
    recent: Log = field(default_factory=list)
    """Of the steps since."""

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> History:
        """The history that :meth:`state` gave to a checkpoint."""
        return cls(checkpoint["log"], checkpoint.get("recent", []))

    def state(self) -> dict[str, Log]:
        """Plain values for a checkpoint."""
        return {"log": self.log, "recent": self.recent}

    def add(self, number: int, losses: dict[str, float], log_every: int) -> bool:
        """Takes in the losses of a step; tells whether a mean has been logged."""
        self.recent.append(losses)
        if number % log_every:
            return False
        means = {key: float(np.mean([r[key] for r in self.recent])) for key in self.recent[0]}
        self.log.append({"step": number} | means)
        self.recent = []
        return True


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
    warmup: int = 100
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

    def fit(self, stage: Stage, videos: Sequence[AnnotatedVideo], preset: Preset, path: Path) -> Log:
        """Trains ``stage.net`` in place, keeps the state in ``path``, and returns means over the losses of every so
        many steps, ``{"step", "loss", ...}``.

        Raises:
            InputError: a loss is not finite, or the checkpoint to go on from is of something else.
        """
        net, optimizer = stage.net, stage.optimizer
        average = AveragedWeights(net) if stage.averaged else None
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        options: dict[str, Any] = {"seed": self.seed, "precision": self.precision, "accumulate": self.accumulate}
        settings = stage_fingerprint(stage.name, preset, videos, self.device, origin=self.origin, **options)
        start, history = 0, History()
        if self.resume and path.is_file():
            content = checkpoints.load(path, stage.name)
            checkpoints.load_weights(net, {**self._left_out(stage), **content["net"]}, path)
            check_begun(path, content["settings"], settings)
            optimizer.load_state_dict(content["optimizer"])
            if content.get("scaler"):
                scaler.load_state_dict(content["scaler"])
            start, history = content["step"], History.of(content)
            if average is not None:
                checkpoints.load_weights(average.net, content[stage.average_as], path)
                average.updates = start
        process_group.agree(start, path)
        step_of = stage.begin(start, scaler)

        def train_step(step: int) -> dict[str, float]:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, stage.steps, stage.rate * group.get("factor", 1.0), stage.warmup)
            losses = step_of(step)
            if average is not None:
                average.update(net)
            return losses

        def save(step: int) -> None:
            kept = {name: value for name, value in net.state_dict().items() if not name.startswith(stage.left_out)}
            state = {"net": kept, "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(), **history.state()}
            if average is not None:
                state[stage.average_as] = average.net.state_dict()
            about = {"kind": stage.name, "settings": settings, "step": step}
            checkpoints.save(path, {**about, **stage.content, **state})

        draw, shown = stage.picture, net if average is None else average.net
        picture = None if draw is None else lambda: draw(shown)
        todo = range(start, stage.steps)
        board = open_board(self.tensorboard, path, todo, stage.batch_size, optimizer, picture)
        net.train()
        run_steps(stage.name, todo, train_step, save, history, log_every=stage.log_every, board=board)
        if average is not None:
            net.load_state_dict(average.net.state_dict())
        net.eval()
        return history.log

    @staticmethod
    def _left_out(stage: Stage) -> dict[str, Tensor]:
        return {name: value for name, value in stage.net.state_dict().items() if name.startswith(stage.left_out)}


def run_steps(
    name: str,
    steps: range,
    step: Callable[[int], dict[str, float]],
    save: Callable[[int], None],
    history: History,
    *,
    log_every: int = 50,
    board: Board | None = None,
) -> Log:
    """Calls ``step`` for each of ``steps`` and ``save`` every two minutes and at the end, if there was a step.

    Of several processes that train together only the first saves and shows a bar.

    Args:
        name: of the stage, for the bar.
        steps: those that are left.
        step: does one and returns its losses, ``"loss"`` among them.
        save: keeps the state after that many steps, with the history.
        history: of the steps before, which grows by a mean every ``log_every`` steps.
        board: told of these means.

    Returns:
        The log.

    Raises:
        InputError: a loss is not finite; what was saved before stays.
    """
    main = process_group.is_main()
    bar = tqdm(
        total=steps.stop,
        initial=steps.start,
        desc=name,
        unit="step",
        mininterval=2.0,
        dynamic_ncols=True,
        disable=None if main else True,
    )
    saved = time.monotonic()
    for number in range(steps.start + 1, steps.stop + 1):
        losses = step(number - 1)
        check_finite(losses, f"{name}, step {number}")
        if history.add(number, losses, log_every):
            bar.set_postfix(loss=f"{history.log[-1]['loss']:.3f}")
            if board is not None:
                board.tell(history.log[-1], picture=len(history.log) % PICTURE_EVERY == 1)
        bar.update()
        if main and time.monotonic() - saved > SAVE_EVERY_SECONDS:
            save(number)
            saved = time.monotonic()
    bar.close()
    if steps and main:
        save(steps.stop)
    if board is not None:
        board.close()
    return history.log
