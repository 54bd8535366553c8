"""Reading ahead: the next items of an iterator are made in a thread while the caller works on the current one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """An iterator over ``items`` that makes up to ``depth`` of them in advance, in one thread of its own.

    An error of ``items`` is raised where its item would come, with its own traceback, and ends the iteration.
    :meth:`close`, the end of the ``with`` block, an error, or the last reference gone ends the thread, which makes one
    item at a time, so that the end of the program waits for ``depth`` items at most.

    Args:
        items: a generator or another iterable, which nothing else may use from now on.
        depth: most items that are ready but not yet taken, >= 0; 0: no thread, items are made when they are asked for.

    Example:
        >>> with ReadAhead(source.frames()) as frames:
        ...     for name, frame in frames:
        ...         work(frame)
    """

    def __init__(self, items: Iterable[T], depth: int = 2):
        if depth < 0:
            raise ValueError(f"depth must not be negative, as {depth} is")
        self._items: Iterator[T] = iter(items)
        self.depth = depth
        self._pool = ThreadPoolExecutor(1, "read-ahead")
        self._coming: deque[Future[list[T]]] = deque(self._pool.submit(_next, self._items) for _ in range(depth))

    def __iter__(self) -> ReadAhead[T]:
        return self

    def __next__(self) -> T:
        if self.depth == 0:
            return next(self._items)
        if not self._coming:
            raise StopIteration
        try:
            made = self._coming.popleft().result()
        except BaseException:
            self.close()
            raise
        if not made:
            self.close()
            raise StopIteration
        self._coming.append(self._pool.submit(_next, self._items))
        return made.pop()

    def peek(self) -> T | None:
        """The item that comes next, which is waited for; None at the end, for depth 0, and where it raises an error,
        which is kept for ``next``."""
        if not self._coming or self._coming[0].exception() is not None:
            return None
        made = self._coming[0].result()
        return made[0] if made else None

    def close(self) -> None:
        """Ends the thread, after the item that it is making, and closes ``items``."""
        self._coming.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)
        close: Any = getattr(self._items, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> ReadAhead[T]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _next(items: Iterator[T]) -> list[T]:
    """The next item alone, or nothing at the end: StopIteration does not pass through a future."""
    for item in items:
        return [item]
    return []
