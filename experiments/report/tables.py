"""Numbers of an output folder as tables, its plots, and its training curves."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.report.folder import Run, entries, read_json
from stg_pyg.errors import InputError
from stg_pyg.utils.images import natural_sort_key

NO_TABLES = {"meta.json", "proposals.json", "metrics.json", "table.json", "results.json", "confidence.json"}
NO_TABLES |= {"benchmark.json", "leaderboard.json"}  # their tables are there as CSV
LARGEST_JSON, LARGEST_PLOT = 2_000_000, 1_500_000
MOST_ROWS, MOST_COLUMNS = 300, 30
MOST_UNFOLDED = 12
MOST_POINTS = 400
"""Of one training curve."""


@dataclass
class Table:
    """A table of plain values."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    folded: bool = False
    """Shown on demand only."""


def collect_tables(folder: Path, run: Run | None) -> list[Table]:
    """All tables of a folder, what sums it up first.

    Raises:
        InputError: a file with numbers is broken.
    """
    tables = [*_rows_of_a_run(folder), *_scores(folder, run), *_csv_files(folder)]
    for path in sorted(folder.glob("*.json"), key=lambda p: natural_sort_key(p.name)):
        if path.name not in NO_TABLES and not path.name.endswith("_log.json") and path.stat().st_size <= LARGEST_JSON:
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
        names = dict.fromkeys(key for entry in log for key, value in entry.items() if is_number(value))
        steps = [entry.get("step", i) for i, entry in enumerate(log)]
        series = {name: [_finite(entry.get(name)) for entry in log] for name in names if name != "step"}
        if series:
            curves.append({"name": path.name.removesuffix("_log.json"), "steps": steps, "series": series})
    return curves


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def text_of(value: Any) -> str:
    """What a cell shows."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.4g}"
    return str(value)


def _scores(folder: Path, run: Run | None) -> Iterable[Table]:
    own = run is None or (folder / "metrics.json").is_file()
    metrics = entries((folder if own or run is None else run.folder) / "metrics.json")
    if isinstance(sequences := metrics.get("sequences"), dict) and sequences:
        rows = [[name, s.get("J"), s.get("F"), s.get("G")] for name, s in sequences.items()]
        rows.sort(key=lambda row: row[3] if is_number(row[3]) else 0.0)
        both = {m: _statistics(metrics.get(m)) for m in ("J", "F")}
        rows.append(["all", both["J"][0], both["F"][0], metrics.get("G")])
        yield Table("Scores by sequence, the lowest first", ["sequence", "J", "F", "G"], rows)
        yield Table("Scores of all", ["", "mean", "recall", "decay"], [[m, *values] for m, values in both.items()])
    if isinstance(metrics.get("config"), dict):
        yield Table("Settings", ["name", "value"], list(_flat(metrics["config"])), folded=True)


def _rows_of_a_run(folder: Path) -> Iterable[Table]:
    if table := entries(folder / "table.json"):
        parts = ["recall", "decay"]
        rows = [
            [name, *_statistics(r.get("J")), *_statistics(r.get("F")), r.get("G"), r.get("fps")]
            for name, r in table.items()
        ]
        yield Table("What each part adds", ["row", "J", *parts, "F", *parts, "G", "frames/s"], rows)


def _csv_files(folder: Path) -> Iterable[Table]:
    for path in sorted(folder.glob("*.csv")):
        try:
            lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        except (OSError, ValueError, csv.Error) as error:
            raise InputError(f"{path}: cannot be read ({error}); delete it, or run its command again") from error
        if len(lines) > 1:
            yield Table(path.name, lines[0], [[_value(cell) for cell in line] for line in lines[1:]])


def _any_json(name: str, content: Any) -> Iterable[Table]:
    """Lists of entries, or plain values by name; nothing else makes a table."""
    if isinstance(content, dict) and "rows" not in content:
        if values := list(_flat(content)):
            yield Table(name, ["name", "value"], values, folded=len(values) > MOST_UNFOLDED)
        return
    for key, rows in content.items() if isinstance(content, dict) else [("", content)]:
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            continue
        names = dict.fromkeys(name for row in rows for name in row)
        plain = [name for name in names if not any(isinstance(row.get(name), dict | list) for row in rows)]
        if columns := plain[:MOST_COLUMNS]:
            yield Table(f"{name} {key}".rstrip(), columns, [[row.get(column) for column in columns] for row in rows])


def _flat(content: dict[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key} ")
        elif isinstance(value, list):
            short = len(value) <= 8 and not any(isinstance(item, dict | list) for item in value)
            yield f"{before}{key}", ", ".join(map(str, value)) if short else f"{len(value)} entries"
        else:
            yield f"{before}{key}", value


def _statistics(measure: Any) -> list[Any]:
    measure = measure if isinstance(measure, dict) else {}
    return [measure.get(name) for name in ("mean", "recall", "decay")]


def _value(text: str) -> Any:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _finite(value: Any) -> float | None:
    return float(f"{value:.5g}") if is_number(value) else None
