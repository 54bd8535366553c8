"""What the ablation runs, and its results in the form of ``ablation.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.ablate.rows import CURVES, TABLE_4, Case, PaperRow, Value, curve_cases, own_cases, paper_cases
from experiments.ablate.runs import Run, Setup, make_runs, score_runs, summarize_runs

Measured = Mapping[str, dict[str, Any]]
"""By name of the case, what :func:`summarize_runs` returns."""
SETTINGS = ("mo", "sg", "alpha", "l", "lambda1", "tg", "ol", "ft", "ytb")
_NOT_RUN = dict.fromkeys(("J", "F", "G", "G_std", "seconds_per_frame", "online_seconds", "config"))
_NOT_RUN |= {"G_by_seed": [], "sequences": {}, "masks": []}


class Plan(NamedTuple):
    """What is asked for and can be run."""

    own: list[Case]
    curves: dict[str, dict[Value, Case]]
    runs: dict[str, list[Run]]
    """By name of the case."""


def make_plan(setup: Setup) -> Plan:
    """Rows of Table 4, the full model without its parts, curves."""
    args, online, full = setup.args, setup.online_steps > 0, setup.sources["own"].config
    rows = paper_cases(
        [row for row in TABLE_4 if str(row.number) in args.rows and (online or not row.ol)], setup.sources
    )
    own = [case for case in own_cases(setup.sources, online) if case.name in args.own]
    curves = {name: curve_cases(name, full) for name in args.curves}
    runs = {case.name: make_runs(setup, case, args.frames) for case in [*rows.values(), *own]}
    for points in curves.values():
        runs |= {case.name: make_runs(setup, case, args.curve_frames) for case in points.values()}
    return Plan(own, curves, runs)


def measure(setup: Setup, plan: Plan, processes: int) -> Measured:
    """Runs everything and summarizes it."""
    runs = [run for runs in plan.runs.values() for run in runs]
    results = score_runs(runs, setup.videos, processes, setup.args.out)
    return {name: summarize_runs(runs, results) for name, runs in plan.runs.items()}


def to_result(setup: Setup, plan: Plan, measured: Measured) -> dict[str, Any]:
    """The content of ``ablation.json``."""
    own = setup.sources["own"]
    full = measured.get("full")
    return {
        "dataset": own.preset.dataset,
        "split": setup.split,
        "sequences": setup.videos,
        "frames": setup.args.frames,
        "curve_frames": setup.args.curve_frames,
        "seeds": setup.seeds,
        "online_steps": setup.online_steps,
        "as_printed": setup.args.as_printed,
        "checkpoints": {name: source.path for name, source in setup.sources.items()},
        "notes": setup.notes,
        "rows": [_paper_row(row, setup, measured) for row in TABLE_4 if str(row.number) in setup.args.rows],
        "own": [
            {"name": case.name, "label": case.label, **(found := measured[case.name])}
            | {"change": None if full is None or found is full else found["G"] - full["G"]}
            for case in plan.own
        ],
        "curves": {
            name: {
                "parameter": CURVES[name].path,
                "own": CURVES[name].own_value(own.config),
                "points": [{"value": value, **measured[case.name]} for value, case in points.items()],
            }
            for name, points in plan.curves.items()
        },
    }


def _paper_row(row: PaperRow, setup: Setup, measured: Measured) -> dict[str, Any]:
    """One row of Table 4: its settings, what was measured, and the paper's G; nulls if it was not run.

    The change of G is against the row that it is compared to; there is none where both are the same run, as with FT
    when the weights are the same.
    """
    settings = {name: getattr(row, name) for name in SETTINGS}
    if not row.ft and "base" not in setup.sources:
        settings["ft"] = None  # whatever the checkpoint is
    found = measured.get(f"row-{row.number}", _NOT_RUN)
    change = paper_change = None
    if row.compared_to is not None:
        paper_change = round(row.paper_G - TABLE_4[row.compared_to - 1].paper_G, 1)
        before = measured.get(f"row-{row.compared_to}", _NOT_RUN)
        if found["masks"] != before["masks"] and found["masks"] and before["masks"]:
            change = found["G"] - before["G"]
    note = ""
    if found is _NOT_RUN:
        note = "not run: no --ytb-checkpoint" if row.ytb and "ytb" not in setup.sources else "not run: --online-steps 0"
    return (
        {"number": row.number, "name": f"row-{row.number}", "step": row.step, **settings, **found}
        | {"paper_G": row.paper_G, "compared_to": row.compared_to}
        | {"change": change, "paper_change": paper_change, "note": note}
    )
