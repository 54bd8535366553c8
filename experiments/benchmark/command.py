"""Measures the graph layers: python -m experiments.benchmark

Layers x backends x sizes, batched over objects, in one run whose repetitions take turns.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from experiments import cli
from experiments.benchmark.cases import Case, Graphs, layer_case, memory_case, stg_case
from experiments.benchmark.measure import add_speedups, fit_growth, measure
from experiments.benchmark.report import draw, markdown
from stg_pyg.io import write_atomic, write_image, write_json

MOST_EDGEWISE_MB = 6 * 1024
"""For the frame sizes; the main group runs edgewise in any case, if there is room."""
LAYERS = ("mean", "symmetric", "attention", "edge_mlp", "gru", "GCNConv", "GraphConv")


@dataclass(frozen=True)
class Plan:
    """Sizes of a run."""

    repetitions: int
    objects: int
    proposals: int
    size: tuple[int, int]
    sizes: tuple[tuple[int, int], ...]
    layer_objects: int
    sweep_objects: tuple[int, ...]
    sweep_proposals: tuple[int, ...]
    sweep_sides: tuple[float, ...]
    sweep_memory: tuple[int, ...]


DEFAULT = Plan(
    repetitions=11,
    objects=8,
    proposals=20,
    size=(480, 854),
    sizes=((240, 427), (480, 854), (1080, 1920)),
    layer_objects=2,
    sweep_objects=(1, 2, 4, 8, 16),
    sweep_proposals=(5, 10, 20, 40),
    sweep_sides=(0.1, 0.2, 0.4, 0.8),
    sweep_memory=(1, 2, 4, 8, 16),
)
QUICK = Plan(7, 4, 10, (240, 427), ((120, 214), (240, 427)), 2, (1, 2, 4), (5, 10, 20), (0.2, 0.4, 0.8), (1, 2, 4))
TINY = Plan(1, 2, 3, (16, 24), ((16, 24),), 1, (1, 2), (2, 3), (0.5, 1.0), (1, 2))
PLANS = {"default": DEFAULT, "quick": QUICK, "tiny": TINY}


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Measures time, memory and growth of the graph layers and their backends, beside the time to copy the tensors "
        "that they read and write, and writes benchmark.json, benchmark.md and benchmark.png. --device auto measures "
        "the CPU, and CUDA if there is a usable GPU. The number of CPU threads is PyTorch's (OMP_NUM_THREADS).",
        out="runs/benchmark",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, less than a minute")
    parser.add_argument("--plan", choices=tuple(PLANS), help=argparse.SUPPRESS)
    return parser.parse_args()


def main_cases(plan: Plan, device: torch.device) -> list[Case]:
    """All backends at the main size, and one to three steps of those that should not mind."""
    graphs = Graphs.random(plan.objects, plan.proposals, *plan.size, device)
    backends = ("edgewise", "fused", "closed", "region", "region+frame", "region+find")
    cases = [stg_case(graphs, backend) for backend in backends]
    return cases + [stg_case(graphs, backend, steps) for steps in (1, 3) for backend in ("closed", "region")]


def layer_cases(plan: Plan, device: torch.device) -> list[Case]:
    """The other layers, with fewer objects."""
    graphs = Graphs.random(plan.layer_objects, plan.proposals, *plan.size, device)
    cases = [stg_case(graphs, backend) for backend in ("edgewise", "closed", "region")]
    for name in LAYERS:
        cases.append(layer_case(graphs, name, "stock" if name.endswith("Conv") else "auto"))
    return cases


def size_cases(plan: Plan, device: torch.device) -> list[Case]:
    """Frames of several sizes."""
    cases = []
    for height, width in plan.sizes:
        graphs = Graphs.random(plan.layer_objects, plan.proposals, height, width, device)
        found = [stg_case(graphs, backend) for backend in ("edgewise", "closed", "region", "region+frame")]
        if found[0].needed_mb > MOST_EDGEWISE_MB:
            found[0].reason = f"forms {found[0].needed_mb / 1024:.0f} GiB of messages, see smaller frames"
        cases += found
    return cases


def object_cases(plan: Plan, device: torch.device) -> list[Case]:
    """Growth in objects with equal windows."""
    graphs = Graphs.random(max(plan.sweep_objects), plan.proposals, *plan.size, device, side=0.3)
    parts = [graphs.first(count) for count in plan.sweep_objects]
    return [stg_case(part, backend, sweeps=["objects"]) for part in parts for backend in ("closed", "region")]


def proposal_cases(plan: Plan, device: torch.device) -> list[Case]:
    """Growth in proposals with equal windows."""
    parts = [Graphs.random(plan.layer_objects, n, *plan.size, device, side=0.3) for n in plan.sweep_proposals]
    return [stg_case(part, backend, sweeps=["proposals"]) for part in parts for backend in ("closed", "region")]


def pixel_cases(plan: Plan, device: torch.device) -> list[Case]:
    """Growth in pixels of the windows in frames of one size."""
    shape = (plan.layer_objects, plan.proposals, *plan.size)
    parts = [Graphs.random(*shape, device, side=side) for side in plan.sweep_sides]
    return [stg_case(part, "region", sweeps=["region_pixels"]) for part in parts]


def memory_cases(plan: Plan, device: torch.device) -> list[Case]:
    """Growth of the temporal graph in memory frames."""
    return [memory_case(plan.layer_objects, frames, device) for frames in plan.sweep_memory]


GROUPS: tuple[Callable[[Plan, torch.device], list[Case]], ...] = (
    main_cases,
    layer_cases,
    size_cases,
    object_cases,
    proposal_cases,
    pixel_cases,
    memory_cases,
)


def run_plan(plan: Plan, devices: list[torch.device]) -> dict[str, Any]:
    """The content of ``benchmark.json``; the inputs of one group are in memory at a time."""
    rows: list[dict[str, Any]] = []
    growth: list[dict[str, Any]] = []
    for device, group in tqdm(list(_jobs(devices)), desc="measuring", unit="group", dynamic_ncols=True):
        cases = group(plan, device)
        found = measure(cases, plan.repetitions, device)
        add_speedups(found)
        growth += fit_growth(cases, found)
        rows += [row | {"group": group.__name__.removesuffix("_cases")} for row in found]
        del cases
        gc.collect()
    machine: dict[str, Any] = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    machine |= {"threads": torch.get_num_threads(), "dtype": "float32"}
    if any(device.type == "cuda" for device in devices):
        machine["gpu"] = torch.cuda.get_device_name()
    return {"machine": machine, "rows": rows, "growth": growth}


def _jobs(devices: list[torch.device]) -> Iterator[tuple[torch.device, Callable[[Plan, torch.device], list[Case]]]]:
    return ((device, group) for device in devices for group in GROUPS)


def main() -> None:
    args = parse()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces every start
    device = cli.choose_device(args.device)
    devices = [torch.device("cpu"), device] if args.device == "auto" and device.type == "cuda" else [device]
    cli.make_folder(args.out)
    cli.seed_everything(args.seed)
    plan = PLANS[args.plan or ("quick" if args.quick else "default")]
    result = run_plan(plan, devices)
    write_json(args.out / "benchmark.json", result)
    text = markdown(result)
    write_atomic(args.out / "benchmark.md", lambda file: file.write(text.encode()))
    write_image(args.out / "benchmark.png", draw(result))
    print(text)
