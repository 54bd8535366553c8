"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], lines: Iterable[Sequence[Any]], left: int = 1) -> str:
    """A Markdown table whose first ``left`` columns are text."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    rows = [head, rule, *lines]
    return "\n".join("| " + " | ".join("" if c is None else str(c) for c in row) + " |" for row in rows) + "\n"
