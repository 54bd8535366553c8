"""What the ablation runs, and its results in the form of ``ablation.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.ablate.rows import CURVES, TABLE_4, Case, PaperRow, curve_cases, own_cases, own_value, paper_cases
from experiments.ablate.runs import Run, Setup, make_runs, score_runs, summarize_runs

Measured = Mapping[str, dict[str, Any]]
"""By name of the case, what :func:`summarize_runs` returns."""
_NOT_RUN: dict[str, Any] = {
    "J": None,
    "F": None,
    "G": None,
    "G_by_seed": [],
    "G_std": None,
    "sequences": {},
    "seconds_per_frame": None,
    "online_seconds": None,
    "masks": [],
    "config": None,
}


@dataclass
class Plan:
    """Everything that is to be run."""

    numbers: Sequence[int]
    """Rows of Table 4 that are asked for."""
    rows: dict[int, Case]
    """Those of them that can be run."""
    own: list[Case]
    curves: dict[str, list[tuple[float | int | str, Case]]]
    runs: dict[str, list[Run]]
    """By name of the case."""

    @property
    def num_runs(self) -> int:
        """Runs of different content."""
        return len({run.job.out for runs in self.runs.values() for run in runs})


def make_plan(setup: Setup, numbers: Sequence[int], own: Sequence[str], curves: Sequence[str]) -> Plan:
    """The cases that are asked for and can be run: rows of Table 4, the full model without its parts, curves."""
    wanted = {row.number: row for row in TABLE_4 if row.number in numbers and (setup.online_steps or not row.ol)}
    rows = paper_cases(wanted, setup.sources)
    cases = [case for case in own_cases(setup.sources, online=setup.online_steps > 0) if case.name in own]
    points = {name: curve_cases(CURVES[name], setup.sources["own"].config) for name in curves}
    runs = {case.name: make_runs(setup, case, setup.frames) for case in [*rows.values(), *cases]}
    for curve in points.values():
        runs |= {case.name: make_runs(setup, case, setup.curve_frames) for _, case in curve}
    return Plan(numbers, rows, cases, points, runs)


def measure(setup: Setup, plan: Plan, processes: int) -> Measured:
    """Runs everything and summarizes it."""
    runs = [run for runs in plan.runs.values() for run in runs]
    results = score_runs(runs, setup.videos, processes, setup.out)
    return {name: summarize_runs(runs, results) for name, runs in plan.runs.items()}


def to_result(setup: Setup, plan: Plan, measured: Measured) -> dict[str, Any]:
    """The content of ``ablation.json``."""
    own = setup.sources["own"]
    return {
        "dataset": own.preset.dataset,
        "split": setup.split,
        "sequences": setup.videos,
        "frames": setup.frames,
        "curve_frames": setup.curve_frames,
        "seeds": setup.online_seeds,
        "online_steps": setup.online_steps,
        "as_printed": setup.as_printed,
        "checkpoints": {name: source.path for name, source in setup.sources.items()},
        "notes": setup.notes,
        "rows": [paper_row(row, setup, plan, measured) for row in TABLE_4 if row.number in plan.numbers],
        "own": [
            {"name": case.name, "label": case.label, **measured[case.name], "change": _change_to_full(case, measured)}
            for case in plan.own
        ],
        "curves": {
            name: {
                "parameter": CURVES[name].path,
                "own": own_value(CURVES[name], own.config),
                "points": [{"value": value, **measured[case.name]} for value, case in points],
            }
            for name, points in plan.curves.items()
        },
    }


def paper_row(row: PaperRow, setup: Setup, plan: Plan, measured: Measured) -> dict[str, Any]:
    """One row of Table 4: its settings, what was measured, and the paper's G; nulls if it was not run."""
    case = plan.rows.get(row.number)
    settings = row.settings()
    if not row.ft and "base" not in setup.sources:
        settings["ft"] = None  # whatever the checkpoint is
    note = ""
    if case is None:
        note = "not run: no --ytb-checkpoint" if row.ytb and "ytb" not in setup.sources else "not run: --online-steps 0"
    return {
        "number": row.number,
        "name": f"row-{row.number}",
        "step": row.step,
        **settings,
        **(_NOT_RUN if case is None else measured[case.name]),
        "paper_G": row.paper_G,
        "compared_to": row.compared_to,
        **_changes(row, plan, measured),
        "note": note,
    }


def _change_to_full(case: Case, measured: Measured) -> float | None:
    if case.name == "full" or "full" not in measured:
        return None
    return float(measured[case.name]["G"] - measured["full"]["G"])


def _changes(row: PaperRow, plan: Plan, measured: Measured) -> dict[str, float | None]:
    """The change of G against the row that it is compared to, here and in the paper.

    There is none here where both are the same run, as with FT when the weights are the same.
    """
    if row.compared_to is None:
        return {"change": None, "paper_change": None}
    change = None
    if row.number in plan.rows and row.compared_to in plan.rows:
        new, old = (measured[plan.rows[number].name] for number in (row.number, row.compared_to))
        change = None if new["masks"] == old["masks"] else new["G"] - old["G"]
    return {"change": change, "paper_change": round(row.paper_G - TABLE_4[row.compared_to - 1].paper_G, 1)}
