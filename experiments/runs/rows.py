"""The rows of the result table: the same network and proposals with one part more each time."""

from __future__ import annotations

from dataclasses import dataclass, field

from experiments.runs.settings import no_influence
from stg_pyg.config import STGConfig, paths

OF_PROPOSALS = (
    *(f"proposals.{name}" for name in ("crop_margin", "evidence", "own_evidence", "resegment")),
    "warping.gaps",
)


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    label: str = field(metadata=no_influence("is shown in tables"))
    config: STGConfig | None
    """None: the previous mask warped by optical flow, and nothing else."""


def table_rows(config: STGConfig) -> list[Row]:
    """What each part adds, beside what it has to beat.

    ``flow`` is propagation alone; ``baseline`` picks the best proposal by Eq. 6 with the previous box; ``motion``
    predicts the box by Eq. 2; ``spatial`` adds Eqs. 3-5 and ``temporal`` Eqs. 7-8, the full model. Of the same
    proposals, ``greedy`` is the best by Eqs. 2 and 6 and nothing else, ``mean`` is the plain mean, and ``printed`` the
    paper's equations with the paper's constants.
    """
    same_proposals = {
        path: config.get(path)
        for path in (*OF_PROPOSALS, "temporal.key_size", *(p for p in paths() if p.startswith("online.")))
    }
    printed = STGConfig.paper().replace(same_proposals)
    greedy = printed.replace(
        {"spatial.enabled": False, "temporal.enabled": False, "selection.thr": config.selection.thr}
    )
    off = {"motion.enabled": False, "spatial.enabled": False, "temporal.enabled": False}
    mean = {
        "temporal.enabled": False,
        "spatial.conv": "mean",
        "spatial.node_gate": False,
        "selection.quality_weight": 0.0,
    }
    return [
        Row("flow", "flow only", None),
        Row("baseline", "baseline", config.replace(off)),
        Row("motion", "+ motion", config.replace({"spatial.enabled": False, "temporal.enabled": False})),
        Row("spatial", "+ spatial graph", config.replace("temporal.enabled", False)),
        Row("temporal", "+ temporal graph", config),
        Row("greedy", "best proposal by Eq. 6", greedy),
        Row("mean", "plain mean of the proposals", config.replace(mean)),
        Row("printed", "graphs as printed, thr 0.2", printed),
    ]


def format_table(results: dict[str, dict], rows: list[Row]) -> str:
    """The table as Markdown: J, F, G in percent, the change of G to the row before, and frames a second."""
    lines = ["| row | J | F | G | change | frames/s |", "| --- | --- | --- | --- | --- | --- |"]
    previous = None
    for row in rows:
        if row.name not in results:
            continue
        r = results[row.name]
        step = row.name in ("motion", "spatial", "temporal") and previous is not None
        change = f"{r['G'] - previous:+.1f}" if step else ""
        lines.append(
            f"| {row.label} | {r['J']['mean']:.1f} | {r['F']['mean']:.1f} | {r['G']:.1f} | {change} | {r['fps']:.1f} |"
        )
        previous = r["G"]
    return "\n".join(lines)
