"""Times of single layers: all groups of a plan on all devices."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from experiments.benchmark.cases import stg_case
from experiments.benchmark.graphs import Graphs
from experiments.benchmark.groups import GROUPS
from experiments.benchmark.growth import fit_growth
from experiments.benchmark.measure import add_speedups, measure, paired_ratios
from experiments.benchmark.plan import Plan


def run_layers(plan: Plan, devices: Sequence[torch.device]) -> dict[str, Any]:
    """``rows``, ``growth`` and ``paired`` of ``benchmark.json``; the inputs of one group are in memory at a time."""
    rows: list[dict[str, Any]] = []
    growth: list[dict[str, Any]] = []
    jobs = [(device, group) for device in devices for group in GROUPS]
    for device, group in tqdm(jobs, desc="layers", unit="group", dynamic_ncols=True):
        cases = group(plan, device)
        found = measure(cases, plan.repetitions, device)
        add_speedups(found)
        growth += fit_growth(cases, found)
        rows += [row | {"group": group.__name__.removesuffix("_cases")} for row in found]
        del cases
        gc.collect()
    return {"rows": rows, "growth": growth, "paired": [compare_steps(plan, device) for device in devices]}


def compare_steps(plan: Plan, device: torch.device) -> dict[str, Any]:
    """Time of l = 3 over that of l = 1 in the ``region`` backend at the main size."""
    graphs = Graphs.random(plan.objects, plan.proposals, *plan.size, device)
    ratios = paired_ratios(stg_case(graphs, "region", 1), stg_case(graphs, "region", 3), plan.pairs, device)
    return {"name": "l = 3 over l = 1", "layer": "stg", "backend": "region", "device": device.type, **ratios}
