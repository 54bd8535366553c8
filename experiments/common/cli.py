"""What all commands share: arguments, seeds, devices, and one line for bad input."""

from __future__ import annotations

import argparse
import errno
import io
import os
import random
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError

_REMEDIES = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
    errno.EFBIG: "free space",
    errno.EROFS: "choose another --out",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EEXIST: "it is in the way, remove or rename it",
    errno.ENOTDIR: "a file is in the way of a folder, remove or rename it",
    errno.EISDIR: "a folder is in the way of a file, remove or rename it",
    errno.ENAMETOOLONG: "rename it",
    errno.EMFILE: "allow more open files with ulimit -n",
    errno.EIO: "check the disk",
}
"""What to do about errors of the system that no code can avoid."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Names the default of an argument where it has a telling one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        telling = action.default not in (None, []) and action.default is not False
        return super()._get_help_string(action) if telling else action.help


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaints are bad input like any other: one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help lists the arguments")


def make_parser(description: str, out: str | None = None) -> argparse.ArgumentParser:
    """A parser with the arguments that every command has; without ``out``, ``--out`` is required."""
    called = Path(sys.argv[0])
    name = f"python -m experiments.{called.parent.name if called.name == '__main__.py' else called.stem}"
    parser = OneLineParser(prog=name, description=description, formatter_class=HelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where the networks run")
    parser.add_argument("--seed", type=whole, default=0, help="of everything random")
    default = {"required": True} if out is None else {"default": Path(out)}
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for all results", **default)  # type: ignore[arg-type]
    return parser


def whole(text: str) -> int:
    """A whole number that is not negative, as an argument."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return int(text)


def names(text: str) -> list[str]:
    """Names separated by commas, as an argument."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise argparse.ArgumentTypeError("names nothing")
    return found


def add_seeds(parser: argparse._ActionsContainer) -> None:
    """Adds ``--seeds``."""

    def numbers(text: str) -> list[int]:
        return list(dict.fromkeys(whole(name) for name in names(text)))

    text = "seeds of online learning, whose scores are averaged: 0,1,2; default: --seed"
    parser.add_argument("--seeds", type=numbers, metavar="NUMBERS", help=text)


def seconds(text: str) -> float:
    """A number of seconds, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


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
    """Whether convolutions in bfloat16 are worth it on this device.

    On processors with AVX-512 alone that depends on the maker: with its bfloat16 instructions AMD's take half of the
    time of float32, Intel's 1.3 to 1.8 times as long; those with AMX tiles are fast.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if not torch.backends.mkldnn.is_available():
        return False
    tiles, dots = (getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in ("amx_tile", "avx512_bf16"))
    return bool(tiles() or (dots() and not _made_by_intel()))


def _made_by_intel() -> bool:
    info = Path("/proc/cpuinfo")
    return info.is_file() and "GenuineIntel" in info.read_text(errors="replace")[:200]


def add_update_every(parser: argparse._ActionsContainer) -> None:
    """Adds ``--update-every``."""
    parser.add_argument(
        "--update-every",
        type=whole,
        metavar="N",
        help="frames between two updates of the segmentation network on its own trusted results while the video runs, "
        "0 for none; default: the checkpoint's, and none with --online-steps 0",
    )


def with_updates(config: STGConfig, every: int | None, online_steps: int | None) -> STGConfig:
    """The configuration with what ``--update-every`` and ``--online-steps`` say of updates."""
    if every is None:
        every = 0 if online_steps == 0 else config.online.update_every
    return config.replace("online.update_every", every)


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


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2) from None


def run(main: Callable[[], None]) -> None:
    """Runs a command: exit status 0 when done, 2 with one line on stderr for bad input, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may not be in its encoding, or no text
    try:
        main()
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        _fail(f"{error.filename or 'writing'}: {error.strerror}; {_REMEDIES[error.errno]} and start again")
    except (MemoryError, torch.OutOfMemoryError):
        _fail("out of memory; take smaller frames or fewer --processes and start again, finished work is kept")
    except BrokenProcessPool:
        _fail(
            "a process was killed from outside, perhaps for want of memory; start again with fewer --processes, "
            "finished work is kept"
        )
    except KeyboardInterrupt:
        print(
            "interrupted; what was finished is kept (training goes on with --resume, other commands when run again)",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
