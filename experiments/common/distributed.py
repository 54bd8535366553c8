"""Splits the videos of a run over processes that ``torchrun``, or anything else that sets RANK and WORLD_SIZE, started.

The ranks share nothing but the folder of results, so they may also be started apart, by hand or by a queue, as long as
all see that folder.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from stg_pyg.errors import InputError

BEAT_SECONDS, PATIENCE_SECONDS = 5.0, 300.0


class World(NamedTuple):
    """Which of how many processes this one is."""

    rank: int
    size: int


def world() -> World:
    """``RANK`` and ``WORLD_SIZE`` of the environment; (0, 1) without them.

    Raises:
        InputError: they are not numbers with 0 <= rank < size.
    """
    rank, size = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if not 0 <= rank < size:
        raise InputError(f"RANK={rank} WORLD_SIZE={size}: ranks go from 0 to WORLD_SIZE - 1; start with torchrun")
    return World(rank, size)


def device_of_rank(device: torch.device) -> torch.device:
    """The GPU of this rank, by ``LOCAL_RANK``, where several ranks share a machine with GPUs."""
    if device.type != "cuda" or device.index is not None or world().size == 1:
        return device
    return torch.device("cuda", _number("LOCAL_RANK", 0) % torch.cuda.device_count())


def processes_of_rank(device: str) -> int:
    """Sequences that this process should run at a time: its part of the cores, or one on a GPU."""
    if device != "cpu":
        return 1
    return max(1, (os.cpu_count() or 1) // max(1, _number("LOCAL_WORLD_SIZE", 1)))


def share(lengths: Mapping[str, int], world: World) -> list[str]:
    """Names of the videos of one rank: the longest first, each to the rank with the fewest frames so far.

    ``lengths`` are the frames of every video, the same on every rank; all ranks together have each name once.
    """
    loads = [(0, rank) for rank in range(world.size)]
    mine: list[str] = []
    for name in sorted(lengths, key=lambda name: (-lengths[name], name)):
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + lengths[name], rank))
        if rank == world.rank:
            mine.append(name)
    return mine


@contextlib.contextmanager
def alive(folder: Path) -> Iterator[None]:
    """Shows the other ranks that this one is at work, by a file in ``folder`` that changes every few seconds.

    A rank of torchrun also ends soon after torchrun itself, even when that was killed.
    """
    rank, size = world()
    if size == 1:
        yield
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(os.getppid())
    beats, stop = folder / ".ranks", threading.Event()
    beats.mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=_beat, args=(beats / str(rank), stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        (beats / str(rank)).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are still at work
            beats.rmdir()


def wait_for(missing: Callable[[], list[str]], folder: Path, patience: float = PATIENCE_SECONDS) -> None:
    """Waits until nothing is ``missing`` of what the other ranks do, which are :func:`alive` in ``folder``.

    Raises:
        InputError: there was no sign of the others for ``patience`` seconds.
    """
    last_sign: object = None
    since, told, pause = time.monotonic(), False, 0.1
    while left := missing():
        sign = (len(left), _beats(folder))
        if sign != last_sign:
            last_sign, since = sign, time.monotonic()
        if time.monotonic() - since > patience:
            raise InputError(
                f"{folder}: no sign of the other ranks for {patience:.0f} seconds, {len(left)} videos are missing "
                f"({_shown(left)}); start the same command again, it goes on"
            )
        if not told:
            print(f"waiting for {len(left)} videos of other ranks: {_shown(left)}", file=sys.stderr)
            told = True
        time.sleep(pause)
        pause = min(1.5 * pause, 2.0)


def end_with_parent(parent: int) -> None:
    """Ends this process soon after process ``parent``, also when that was killed, so that none goes on writing."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _beat(path: Path, stop: threading.Event) -> None:
    while True:
        with contextlib.suppress(OSError):  # a full disk ends the run elsewhere, with its own message
            path.write_text(f"{time.time()}\n")
        if stop.wait(BEAT_SECONDS):
            return


def _beats(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in (folder / ".ranks").glob("*"):
        if path.name != str(world().rank):
            with contextlib.suppress(OSError):
                found[path.name] = path.read_text()
    return found


def _shown(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise InputError(f"{variable}={text}: is no whole number; start with torchrun, or unset it")
    return int(text)
