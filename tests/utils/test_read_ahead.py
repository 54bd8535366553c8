import gc
import itertools
import subprocess
import sys
import threading
import traceback
import weakref

import pytest

from stg_pyg import InputError
from stg_pyg.utils import read_ahead
from stg_pyg.utils.read_ahead import ReadAhead


class Item:
    """Something that a weak reference may point to."""


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def faulty(count):
    yield from range(count)
    raise InputError("00002.jpg: cannot be decoded")


def endless(closed):
    try:
        yield from itertools.count()
    finally:
        closed.append(True)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    assert not threads()
    yield
    gc.collect()
    for thread in threads():
        thread.join(timeout=60)
    assert not threads()


@pytest.mark.parametrize("depth", [0, 1, 5])
@pytest.mark.parametrize("items", [[], [None], [[], 0], [str(n) for n in range(7)]])
def test_all_items_in_order_from_one_thread(items, depth):
    makers = set()
    ahead = ReadAhead((makers.add(threading.current_thread()) or item for item in items), depth)
    assert list(ahead) == items
    assert next(ahead, "end") == "end" and not threads()
    assert len(makers) == min(len(items), 1) and (threading.current_thread() in makers) == (depth == 0 and items != [])


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_no_more_items_are_held_than_asked_for(depth):
    made = []

    def items():
        for _ in range(20):
            item = Item()
            made.append(weakref.ref(item))
            yield item
            del item

    with ReadAhead(items(), depth) as ahead:
        for taken, item in enumerate(itertools.islice(ahead, 10), start=1):
            ahead._pool.submit(lambda: None).result()  # the thread has made all that it may
            assert len(made) == taken + depth
            assert sum(ref() is not None for ref in made) == depth + 1
            del item


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_an_error_comes_in_its_turn_with_its_traceback(depth):
    ahead = ReadAhead(faulty(2), depth)
    peeked = [ahead.peek(), ahead.peek(), next(ahead), ahead.peek(), next(ahead), ahead.peek()]
    assert peeked == ([0, 0, 0, 1, 1, None] if depth else [None, None, 0, None, 1, None])
    with pytest.raises(InputError, match="cannot be decoded") as caught:
        next(ahead)
    assert "faulty" in [frame.name for frame in traceback.extract_tb(caught.tb)]
    assert ahead.peek() is None and next(ahead, "end") == "end" and not threads()


@pytest.mark.parametrize("depth", [0, 1])
def test_stopping_early_ends_the_thread_and_closes_the_items(depth):
    closed = []
    with ReadAhead(endless(closed), depth) as ahead:
        assert [next(ahead), next(ahead)] == [0, 1] and len(threads()) == depth
    assert closed == [True] and not threads()
    with pytest.raises(ZeroDivisionError), ReadAhead(endless(closed), depth) as ahead:
        1 / next(ahead)
    assert len(closed) == 2 and not threads()
    with pytest.raises(ValueError, match="depth"):
        ReadAhead([1], -1)


def test_forgetting_it_ends_the_thread():
    closed = []
    ahead = ReadAhead(endless(closed))
    assert next(ahead) == 0
    (thread,) = threads()
    del ahead
    gc.collect()
    thread.join(timeout=60)
    assert not thread.is_alive() and closed == [True]


@pytest.mark.parametrize("ending, status", [("raise SystemExit(3)", 3), ("raise KeyboardInterrupt", -2)])
def test_the_program_ends_while_an_item_is_made(ending, status):
    """The module alone: what the package imports takes seconds."""
    program = (
        "import runpy, time\n"
        f"ReadAhead = runpy.run_path({read_ahead.__file__!r})['ReadAhead']\n"
        "def items():\n    yield 0\n    while True:\n        time.sleep(0.3)\n        yield 1\n"
        f"ahead = ReadAhead(items())\nassert next(ahead) == 0\nprint('working', flush=True)\n{ending}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (status, "working\n"), done.stderr
