"""The loop that all stages share: steps, a progress bar, a history, and a state that is saved while they run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from experiments.common import cli
from experiments.train import process_group
from experiments.train.board import Board
from stg_pyg.errors import InputError
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


def load_scaler(scaler: torch.amp.GradScaler, checkpoint: dict[str, Any]) -> None:
    """The state of a scaler of the loss, if the run that wrote the checkpoint had one."""
    if checkpoint.get("scaler"):
        scaler.load_state_dict(checkpoint["scaler"])


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
