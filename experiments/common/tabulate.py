"""Rows of results as Markdown, as CSV, and as a picture."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from stg_pyg.utils.images import write_atomic

Row = Mapping[str, Any]


def columns_of(text: str) -> dict[str, str]:
    """Heads and cells of ``"head: {cell} | head: {cell:.1f} | ..."``."""
    return dict(column.split(": ", 1) for column in text.split(" | "))


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """A table whose cells are formats, by head, that are filled with the values of a row.

    A cell without a value is empty; those of a row with a true ``bold`` are bold; numbers stand on the right.
    """
    cells = [[_filled(template, row) for template in columns.values()] for row in rows]
    sides = ["---:" if ":" in template else "---" for template in columns.values()]
    return "\n".join(f"| {' | '.join(line)} |" for line in [[*columns], sides, *cells])


def _filled(template: str, row: Row) -> str:
    shown = {name: "✓✗"[not value] if isinstance(value, bool) else value for name, value in row.items()}
    try:
        text = template.format(**shown)
    except (KeyError, TypeError):
        return ""
    return f"**{text}**" if row.get("bold") and text else text


def csv_text(rows: Sequence[Row]) -> str:
    """A line a row with all numbers as they are, empty where there is none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_figure(path: Path, draw: Callable[..., Figure], *content: Any) -> None:
    """Writes what ``draw`` makes of some content as a PNG."""
    with matplotlib.rc_context({"font.size": 9, "figure.constrained_layout.use": True}):
        write_atomic(path, functools.partial(draw(*content).savefig, dpi=110))
