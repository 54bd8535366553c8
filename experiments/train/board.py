"""Losses, learning rate, speed and pictures of a training stage for TensorBoard."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import torch
from torch import Tensor

from stg_pyg.errors import InputError

MOST_ROWS = 8


def check_installed() -> None:
    """Raises:
    InputError: the package is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError("--tensorboard: the package tensorboard is not installed; pip install tensorboard")


class Board:
    """Event files of one stage. What an earlier run wrote about later steps is hidden when it goes on.

    Args:
        folder: of the event files.
        done: steps that are behind.
        batch_size: samples a step.
        optimizer: whose learning rate is shown, that of its first group.
    """

    def __init__(self, folder: Path, done: int, batch_size: int, optimizer: torch.optim.Optimizer):
        from torch.utils.tensorboard import SummaryWriter  # imports a package that is optional

        self.writer = SummaryWriter(str(folder), purge_step=done + 1)
        self.batch_size, self.optimizer = batch_size, optimizer
        self.done, self.since = done, time.monotonic()

    def tell(self, entry: dict[str, float], picture: Tensor | None = None) -> None:
        """Writes an entry of the log, and a picture, see :func:`rows_of`."""
        step, now = int(entry["step"]), time.monotonic()
        values = {name: value for name, value in entry.items() if name != "step"}
        values["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        values["samples_per_second"] = (step - self.done) * self.batch_size / max(now - self.since, 1e-9)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        if picture is not None:
            self.writer.add_image("image, Q, result, target", picture, step)
        self.writer.flush()  # what a killed run has not written would be missing for good
        self.done, self.since = step, time.monotonic()


def rows_of(images: Tensor, *maps: Tensor) -> Tensor:
    """A picture [3, N H, (1 + M) W] of images [N, 3, H, W] in [0, 1], with M maps [N, H, W] in [0, 1] beside each."""
    columns = [images[:MOST_ROWS]] + [m[:MOST_ROWS, None].expand(-1, 3, -1, -1) for m in maps]
    return torch.cat([torch.cat(list(column.detach().float().cpu()), dim=1) for column in columns], dim=2)
