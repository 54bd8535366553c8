"""The table of layers as text, files and a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from datasets.proposal_graphs import ProposalGraphs
from experiments.graphs.leaderboard import Result
from stg_pyg.utils.images import write_atomic, write_json, write_text

COLUMNS = ("layer", "J", "spread", "ms", "train_ms", "peak_mb", "parameters")


def markdown(results: Sequence[Result], graphs: ProposalGraphs) -> str:
    """One line a layer; times are of a batch."""
    videos = len({entry["name"] for _, entry in graphs.entries})
    lines = [
        f"{len(graphs)} graphs of {videos} videos; J is the mean over videos, ± its deviation over seeds.",
        "",
        "| layer | J | vs mean | ms | ms, trained | MB | parameters |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = [result.row() for result in results]
    mean = next((row["J"] for row in rows if row["layer"] == "mean"), float("nan"))
    for row in rows:
        spread = f" ± {row['spread']:.2f}" if row["seeds"] > 1 else ""
        times = [f"{row[key]:.1f}" if row[key] == row[key] else "" for key in ("ms", "train_ms", "peak_mb")]
        cells = (
            row["layer"],
            f"{row['J']:.2f}{spread}",
            f"{row['J'] - mean:+.2f}" if mean == mean else "",
            *times,
            row["parameters"] or "",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def write_tables(out: Path, results: Sequence[Result], graphs: ProposalGraphs) -> str:
    """Writes ``leaderboard.json``, ``.csv``, ``.md`` and ``.png``; returns the Markdown."""
    rows = [result.row() for result in results]
    write_json(out / "leaderboard.json", {"graphs": len(graphs), "rows": rows})
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "leaderboard.csv", text.getvalue())
    table = markdown(results, graphs)
    write_text(out / "leaderboard.md", table + "\n")
    figure = Figure(figsize=(7, 0.4 * len(rows) + 1), layout="constrained")
    axes = figure.add_subplot()
    axes.barh([row["layer"] for row in rows][::-1], [row["J"] for row in rows][::-1])
    axes.errorbar(
        [row["J"] for row in rows][::-1], range(len(rows)), xerr=[row["spread"] for row in rows][::-1], fmt="none"
    )
    low = min(row["J"] for row in rows)
    axes.set_xlim(max(0.0, low - 5), 100)
    axes.set_xlabel("J of the fused mask")
    write_atomic(out / "leaderboard.png", lambda file: figure.savefig(file, format="png", dpi=120))
    return table
