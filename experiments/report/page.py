"""Puts the parts of a report into one HTML file that needs nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from experiments.report.sequence import SequencePage
from experiments.report.tables import Table

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("data.js", "draw.js", "charts.js", "player.js", "graph.js", "attention.js", "main.js")


def assemble(
    title: str,
    summary: str,
    notes: Sequence[str],
    sequences: Sequence[SequencePage],
    tables: Sequence[Table],
    plots: Sequence[tuple[str, str]],
    curves: Sequence[dict[str, Any]],
) -> str:
    """The page as text.

    Args:
        title: of the page.
        summary: one line below it.
        notes: what is missing and how to get it.
        sequences: those that are shown.
        tables: all numbers.
        plots: (name, base64 PNG).
        curves: of training.
    """
    parts = {
        "title": escape(title),
        "summary": escape(summary),
        "notes": "".join(f"<li>{escape(note)}</li>" for note in notes),
        "tables": "".join(table.to_html() for table in tables) + "".join(_plot(*plot) for plot in plots),
        "style": _asset("style.css"),
        "script": "\n".join(_asset(name) for name in SCRIPTS),
        "data": embed("index", {"sequences": [{"name": p.name, "notes": p.notes} for p in sequences], "curves": curves})
        + "".join(embed(f"sequence-{i}", page.content) for i, page in enumerate(sequences)),
    }
    # In one pass, so that nothing inside of a part is taken for a mark.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _asset("page.html"))


def embed(name: str, content: Any) -> str:
    """Data as an element that no content can close, as it holds no ``<``."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _plot(name: str, data: str) -> str:
    image = f'<img class=plot alt="{escape(name)}" src="data:image/png;base64,{data}">'
    return f"<div><h3>{escape(name)}</h3>{image}</div>"


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
