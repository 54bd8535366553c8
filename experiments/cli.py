"""What all commands share: arguments, seeds, devices, and one line for bad input."""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from stg_pyg.errors import InputError


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaints are bad input like any other: one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help lists the arguments")


def make_parser(description: str, out: str | None = None) -> argparse.ArgumentParser:
    """A parser with the arguments that every command has; without ``out``, ``--out`` is required."""
    parser = OneLineParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the networks run")
    parser.add_argument("--seed", type=whole, default=0, help="of everything random")
    if out is None:
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for all results")
    else:
        parser.add_argument("--out", type=Path, default=Path(out), metavar="DIR", help="folder for all results")
    return parser


def whole(text: str) -> int:
    """A whole number that is not negative, as an argument."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return int(text)


def choose_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: CUDA is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no usable GPU; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 are worth it on this device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if not torch.backends.mkldnn.is_available():
        return False
    capability = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(capability())


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_folder(path: Path) -> None:
    """Creates an output folder.

    Raises:
        InputError: it cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be created ({error.strerror}); choose another --out") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"{path}: is read-only; choose another --out")


def run(main: Callable[[], None]) -> None:
    """Runs a command: exit status 0 when done, 2 with one line on stderr for bad input, 130 when interrupted."""
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(
            "interrupted; what was finished is kept (training goes on with --resume, other commands when run again)",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
