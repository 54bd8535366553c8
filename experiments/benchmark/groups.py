"""The groups of cases that are timed together, each with its inputs in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from experiments.benchmark.cases import Case, layer_case, region_case, stg_case
from experiments.benchmark.graphs import Graphs
from experiments.benchmark.plan import Plan
from experiments.benchmark.temporal_cases import TEMPORAL_LAYERS, memory_case

OTHER_LAYERS = ("mean", "symmetric", "attention", "edge_mlp", "gru", "GCNConv", "GraphConv")
SIDE = 0.3
"""Of windows, as a share of the frame's, where they should be equal."""


def main_cases(plan: Plan, device: torch.device) -> list[Case]:
    """All backends at the main size."""
    graphs = Graphs.random(plan.objects, plan.proposals, *plan.size, device)
    backends = ("edgewise", "fused", "closed", "region", "region+frame", "region+find")
    return [stg_case(graphs, backend) for backend in backends]


def layer_cases(plan: Plan, device: torch.device) -> list[Case]:
    """The other layers on full frames, and inside of windows where they can."""
    graphs = Graphs.random(plan.layer_objects, plan.proposals, *plan.size, device)
    cases = [stg_case(graphs, backend) for backend in ("edgewise", "closed", "region")]
    for name in dict.fromkeys([*OTHER_LAYERS, *plan.spatial_layers]):
        cases.append(layer_case(graphs, name))
        inside = region_case(graphs, name)
        cases += [] if inside is None else [inside]
    return cases


def size_cases(plan: Plan, device: torch.device) -> list[Case]:
    """Frames of several sizes."""
    cases = []
    for height, width in plan.sizes:
        graphs = Graphs.random(plan.layer_objects, plan.proposals, height, width, device, side=SIDE)
        backends = ("edgewise", "fused", "closed", "region", "region+frame")
        cases += [stg_case(graphs, backend, sweeps=["frame_pixels"]) for backend in backends]
    return cases


def step_cases(plan: Plan, device: torch.device) -> list[Case]:
    """Growth in l."""
    graphs = Graphs.random(1, plan.proposals, *plan.size, device, side=SIDE)
    backends = ("edgewise", "fused", "closed", "region")
    return [stg_case(graphs, backend, steps, ["steps"]) for backend in backends for steps in plan.sweep_steps]


def object_cases(plan: Plan, device: torch.device) -> list[Case]:
    """Growth in objects with equal windows."""
    graphs = Graphs.random(max(plan.sweep_objects), plan.proposals, *plan.size, device, side=plan.object_side)
    parts = [graphs.part(0, count) for count in plan.sweep_objects]
    return [stg_case(part, backend, sweeps=["objects"]) for part in parts for backend in ("closed", "region")]


def proposal_cases(plan: Plan, device: torch.device) -> list[Case]:
    """Growth in the proposals of one object."""
    parts = [Graphs.random(1, n, *plan.size, device, side=SIDE) for n in plan.sweep_proposals]
    return [stg_case(part, backend, sweeps=["proposals"]) for part in parts for backend in ("closed", "region")]


def pixel_cases(plan: Plan, device: torch.device) -> list[Case]:
    """Growth in pixels of the window of one object in frames of one size."""
    parts = [Graphs.random(1, plan.proposals, *plan.size, device, side=side) for side in plan.sweep_sides]
    return [stg_case(part, "region", sweeps=["region_pixels"]) for part in parts]


def memory_cases(plan: Plan, device: torch.device) -> list[Case]:
    """Growth of the temporal graph in memory frames."""
    sizes = [(name, n) for name in dict.fromkeys([*TEMPORAL_LAYERS, *plan.temporal_layers]) for n in plan.sweep_memory]
    return [memory_case(name, plan.layer_objects, n, device) for name, n in sizes]


GROUPS: tuple[Callable[[Plan, torch.device], list[Case]], ...] = (
    main_cases,
    layer_cases,
    size_cases,
    step_cases,
    object_cases,
    proposal_cases,
    pixel_cases,
    memory_cases,
)
