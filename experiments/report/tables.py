"""Numbers of an output folder as HTML tables, its plots, and its training curves."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from experiments.report.folder import Run, read_json
from stg_pyg.errors import InputError
from stg_pyg.io import natural_sort_key

NO_TABLES = {"meta.json", "proposals.json", "metrics.json", "table.json", "ablation.json"}
NO_TABLES |= {"results.json", "confidence.json"}
LARGEST_JSON, LARGEST_PLOT = 2_000_000, 1_500_000
MOST_ROWS, MOST_COLUMNS = 300, 30
MOST_UNFOLDED = 12
MOST_POINTS = 400
"""Of one training curve."""
_BOTH = ("J", "F")


@dataclass
class Table:
    """A table of plain values."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    folded: bool = False
    """Shown on demand only."""

    def to_html(self) -> str:
        """The table with everything escaped; numbers to the right."""
        numeric = [any(_is_number(row[i]) for row in self.rows) for i in range(len(self.columns))]
        cells = zip(self.columns, numeric, strict=True)
        head = "".join(f"<th{' class=number' * right}>{escape(str(name))}</th>" for name, right in cells)
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in self.rows[:MOST_ROWS])
        more = f"<p class=note>{len(self.rows) - MOST_ROWS} more rows.</p>" if len(self.rows) > MOST_ROWS else ""
        head = f"<thead><tr>{head}</tr></thead>"
        table = f"<div class=scroll><table>{head}<tbody>{body}</tbody></table></div>{more}"
        if self.folded:
            return f"<details><summary>{escape(self.title)}</summary>{table}</details>"
        return f"<div><h3>{escape(self.title)}</h3>{table}</div>"


def collect_tables(folder: Path, run: Run | None) -> list[Table]:
    """All tables of a folder, what sums it up first.

    Raises:
        InputError: a file with numbers is broken.
    """
    tables = [*_rows_of_a_run(folder), *_ablation(folder), *_scores(folder, run), *_csv_files(folder)]
    for path in sorted(folder.glob("*.json"), key=lambda p: natural_sort_key(p.name)):
        if path.name in NO_TABLES or path.name.endswith("_log.json") or path.stat().st_size > LARGEST_JSON:
            continue
        tables += _any_json(path.name, read_json(path))
    return tables


def collect_plots(folder: Path) -> list[tuple[str, str]]:
    """(name, base64) of the PNGs directly in a folder."""
    paths = [path for path in sorted(folder.glob("*.png")) if path.stat().st_size <= LARGEST_PLOT]
    return [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in paths[:4]]


def collect_curves(folder: Path) -> list[dict[str, Any]]:
    """``{"name", "steps", "series": {loss: values}}`` of every ``*_log.json``.

    Raises:
        InputError: a log is broken.
    """
    curves = []
    for path in sorted(folder.glob("*_log.json")):
        log = read_json(path)
        if not isinstance(log, list) or not all(isinstance(entry, dict) for entry in log):
            raise InputError(f"{path}: is no training log, a list of entries; delete it, or train again")
        log = log[:: max(1, len(log) // MOST_POINTS)]
        names = dict.fromkeys(key for entry in log for key, value in entry.items() if _is_number(value))
        steps = [entry.get("step", i) for i, entry in enumerate(log)]
        series = {name: [_finite(entry.get(name)) for entry in log] for name in names if name != "step"}
        if series:
            curves.append({"name": path.name.removesuffix("_log.json"), "steps": steps, "series": series})
    return curves


def _scores(folder: Path, run: Run | None) -> Iterable[Table]:
    place = folder if run is None or (folder / "metrics.json").is_file() else run.folder
    metrics = read_json(place / "metrics.json")
    if not isinstance(metrics, dict):
        return
    rows = [[name, s.get("J"), s.get("F"), s.get("G")] for name, s in (metrics.get("sequences") or {}).items()]
    if rows:
        both = [metrics.get(m, {}) for m in _BOTH]
        rows.sort(key=lambda row: row[3] if _is_number(row[3]) else 0.0)
        rows.append(["all", *(m.get("mean") for m in both), metrics.get("G")])
        yield Table("Scores by sequence, the lowest first", ["sequence", "J", "F", "G"], rows)
        yield Table("Scores of all", ["", "mean", "recall", "decay"], [[m, *_triple(metrics.get(m))] for m in _BOTH])
    if isinstance(metrics.get("config"), dict):
        yield Table("Settings", ["name", "value"], list(_flat(metrics["config"])), folded=True)


def _rows_of_a_run(folder: Path) -> Iterable[Table]:
    table = read_json(folder / "table.json")
    if isinstance(table, dict) and table:
        rows = [
            [name, *_triple(r.get("J")), *_triple(r.get("F")), r.get("G"), r.get("fps")] for name, r in table.items()
        ]
        columns = ["row", "J", "recall", "decay", "F", "recall", "decay", "G", "frames/s"]
        yield Table("What each part adds", columns, rows)


def _ablation(folder: Path) -> Iterable[Table]:
    content = read_json(folder / "ablation.json")
    content = {"rows": content} if isinstance(content, list) else content
    if not isinstance(content, dict):
        return
    wanted = (
        "step",
        "mo",
        "sg",
        "alpha",
        "l",
        "lambda1",
        "tg",
        "ol",
        "ft",
        "ytb",
        "J",
        "F",
        "G",
        "G_std",
        "paper_G",
        "note",
    )
    if rows := content.get("rows"):
        names = [name for name in wanted if any(name in row for row in rows)]
        yield Table("Table 4", names, [[row.get(name) for name in names] for row in rows])
    if own := content.get("own"):
        names = ["label", "J", "F", "G", "change"]
        yield Table("The full model without its parts", names, [[row.get(name) for name in names] for row in own])
    curves = content.get("curves")
    for name, curve in curves.items() if isinstance(curves, dict) else ():
        points = [[p.get("value"), p.get("J"), p.get("F"), p.get("G")] for p in curve.get("points", [])]
        yield Table(f"G over {name}", [name, "J", "F", "G"], points)


def _csv_files(folder: Path) -> Iterable[Table]:
    for path in sorted(folder.glob("*.csv")):
        try:
            lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(f"{path}: cannot be read ({error}); delete it, or run its command again") from error
        if len(lines) > 1:
            yield Table(path.name, lines[0], [[_value(cell) for cell in line] for line in lines[1:]])


def _any_json(name: str, content: Any) -> Iterable[Table]:
    """A list of flat entries, or plain values by name; nothing else makes a table."""
    if isinstance(content, dict) and isinstance(content.get("rows"), list):
        content = content["rows"]
    if isinstance(content, list) and content and all(isinstance(entry, dict) for entry in content):
        columns = list(
            dict.fromkeys(k for entry in content for k, v in entry.items() if not isinstance(v, dict | list))
        )
        columns = columns[:MOST_COLUMNS]
        if columns:
            yield Table(name, columns, [[entry.get(column) for column in columns] for entry in content])
    elif isinstance(content, dict) and (values := list(_flat(content))):
        yield Table(name, ["name", "value"], values, folded=len(values) > MOST_UNFOLDED)


def _flat(content: dict[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key} ")
        elif isinstance(value, list):
            short = len(value) <= 8 and not any(isinstance(item, dict | list) for item in value)
            yield f"{before}{key}", ", ".join(map(str, value)) if short else f"{len(value)} entries"
        else:
            yield f"{before}{key}", value


def _triple(statistics: Any) -> list[Any]:
    statistics = statistics if isinstance(statistics, dict) else {}
    return [statistics.get(name) for name in ("mean", "recall", "decay")]


def _cell(value: Any) -> str:
    if value is None:
        return "<td class=number>–</td>"
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, int | float):
        text = f"{value:.2f}" if isinstance(value, float) and abs(value) >= 0.1 else f"{value:.4g}"
        return f"<td class=number>{text if isinstance(value, float) else value}</td>"
    return f"<td>{escape(str(value))}</td>"


def _value(text: str) -> Any:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _finite(value: Any) -> float | None:
    return float(f"{value:.5g}") if _is_number(value) else None
