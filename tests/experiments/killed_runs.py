"""Commands that are killed half-way, as by ``kill -9`` or a machine that runs out of memory."""

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A process that forks may have no threads of OpenCV's, of which the copy has none."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def run_killed(run: Callable[[], int | None], at: int, after: bool = False) -> bool:
    """Calls ``run`` in a process that is killed when its ``at``-th file, counted from 1, gets its name.

    Args:
        after: just after that, instead of just before.

    Returns:
        Whether it was killed; False when it wrote fewer files and so came to its end.
    """
    with one_thread():
        child = os.fork()
        if child == 0:
            _run_and_die(run, at, after)
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the command failed before it was killed"
    return False


def _run_and_die(run: Callable[[], int | None], at: int, after: bool) -> None:
    replace, count, status = os.replace, itertools.count(1), 1

    def replacing(source: str, target: str) -> None:
        number = next(count)
        if number == at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replacing  # type: ignore[assignment]
    try:
        status = int(run() or 0)
    finally:
        os._exit(status)


def files_in(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
