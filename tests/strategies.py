"""Strategies of the property tests: files that are nearly sound, and what a reader may do with them."""

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from stg_pyg.errors import InputError

few = settings(max_examples=40, deadline=None, derandomize=True)
some = settings(max_examples=80, deadline=None, derandomize=True)

numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 255, 256, 2**31, 2**63, 10**400, 1e308])
texts = st.text("ab/\\.:\0é猫", max_size=8) | st.sampled_from(
    ["..", "../../x", "/x", "", ".", "\0", "\ud800", "a/b", "9" * 5000]
)
leaves = st.none() | st.booleans() | numbers | texts
anything = st.recursive(leaves, lambda x: st.lists(x, max_size=4) | st.dictionaries(texts, x, max_size=4), max_leaves=8)


def paths_in(value: Any) -> list[tuple[Any, ...]]:
    """Where the parts of a JSON value are, itself first."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *path) for key, part in items for path in paths_in(part))]


@st.composite
def nearly(draw: st.DrawFn, sound: Any) -> Any:
    """A JSON value with one to three parts that are something else, missing or under another name."""
    value = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths_in(value)))
        if not path:
            return draw(anything) if draw(st.booleans()) else value
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        kind = draw(st.sampled_from(["other", "other", "missing", "renamed"]))
        if kind == "other":
            parent[path[-1]] = draw(anything)
        elif kind == "renamed" and isinstance(parent, dict):
            parent[draw(texts)] = parent.pop(path[-1])
        else:
            del parent[path[-1]]
    return value


@st.composite
def damaged(draw: st.DrawFn, sound: bytes) -> bytes:
    """Bytes of a file with some of them changed, lost or added, or cut short."""
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["change", "change", "lose", "add", "cut"]))
        if kind == "change":
            content[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "lose":
            del content[at : at + draw(st.integers(1, 20))]
        elif kind == "add":
            content[at:at] = draw(st.binary(max_size=8))
        else:
            del content[at:]
    return bytes(content)


def to_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def parses(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the reader gives, or nothing where it refuses the file in one line."""
    try:
        return function(*arguments)
    except InputError as error:
        assert "\n" not in str(error) and str(error)
        return None
