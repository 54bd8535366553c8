"""Layers trained on stored graphs and scored on those of other videos."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.loader import DataLoader
from torch_geometric.utils import scatter
from tqdm import tqdm

from datasets.proposal_graphs import ProposalGraphs
from experiments.benchmark.measure import first_call
from experiments.common.layers_option import on_evidence
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.learning.steps import learning_rate
from stg_pyg.model.selection import region_selection_scores, select_best
from stg_pyg.model.stgnet import STGNet, node_evidence

ORACLES = ("best", "pixels")
CHOICES = ("mean", "argmax", "eq6", "model")
"""What needs no training: the mean of the proposals, the proposal of the highest score, that of Eq. 6, and what the
model chose that the graphs come from."""
RATE = 3e-3
"""Highest learning rate."""
FOLDS = 5
"""Parts that videos are divided into where the graphs are all of one fold."""


@dataclass
class Result:
    """Of one layer."""

    name: str
    j: list[float] = field(default_factory=list)
    """Mean J of the fused masks of all graphs in percent, by seed."""
    by_video: dict[str, list[float]] = field(default_factory=dict)
    ms: float = float("nan")
    """Of a batch, forward, the median;"""
    train_ms: float = float("nan")
    """and with gradients and the step, the mean."""
    peak_mb: float = float("nan")
    """Most memory of a batch, forward."""
    parameters: int = 0

    def row(self) -> dict[str, Any]:
        """Plain values."""
        spread = float(np.std(self.j)) if len(self.j) > 1 else 0.0
        videos = {name: float(np.mean(values)) for name, values in self.by_video.items()}
        return {
            "layer": self.name,
            "J": float(np.mean(self.j)),
            "spread": spread,
            "seeds": len(self.j),
            "ms": self.ms,
            "train_ms": self.train_ms,
            "peak_mb": self.peak_mb,
            "parameters": self.parameters,
            "videos": videos,
        }


def layer_config(name: str, config: STGConfig) -> STGConfig:
    """The configuration with the layer ``name``; the names of PyG's convolutions run on the evidence of nodes. Layers
    with gates of their own need all edges and no second gate."""
    text = on_evidence(name)
    if text.partition(":")[0] in ("evidence", "pixel"):
        config = config.replace({"spatial.node_gate": False, "spatial.min_edge_iou": 0.0})
    return config.replace("spatial.conv", text)


def make_model(name: str, config: STGConfig) -> STGNet:
    """A model that has nothing but the graph part, with the layer ``name``.

    Raises:
        InputError: there is no such layer, or it does not fit.
    """
    return STGNet.untrained(layer_config(name, config))


def fused_j(fused: Tensor, batch: Any) -> Tensor:
    """J [B] of masks [B, S, S] against the true ones, what lies outside of the windows included."""
    found, truth = fused > 0.5, batch.target > 0.5
    overlap = (found & truth).sum(dim=(1, 2)).float()
    either = (found | truth).sum(dim=(1, 2)) + batch.outside
    return torch.where(either >= 1, overlap / either.clamp(min=1), 1.0)


def choose(model: STGNet, batch: Any, regions: Any, gate: Tensor) -> Tensor:
    """The masks [B, S, S] that the model takes, by Eq. 6 with the gate."""
    config = model.config.selection
    scores = region_selection_scores(regions, regions.boxes(config.thr), batch.p, batch.q, config.lambda1, config.thr)
    best = select_best(scores + config.quality_weight * gate, batch.batch, len(batch.p))
    return regions.to_frame()[best, 0]


def baseline(name: str, batch: Any) -> Tensor:
    """The masks [B, S, S] of one of :data:`CHOICES` or :data:`ORACLES`."""
    x, of = batch.x[:, 0], batch.batch
    count = len(batch.p)
    if name == "model":
        return batch.chosen
    if name == "mean":
        return scatter(x, of, dim=0, dim_size=count, reduce="mean")
    if name == "pixels":  # right where some proposal is
        truth = batch.target[of] > 0.5
        hit = ((x > 0.5) == truth).float()
        some = scatter(hit, of, dim=0, dim_size=count, reduce="max") > 0
        return torch.where(some, batch.target > 0.5, batch.target <= 0.5).float()
    if name == "best":
        score = batch.iou
    elif name == "argmax":
        score = batch.score
    else:
        evidence = node_evidence(batch)
        score = 0.4 * evidence[:, 2] + 0.6 * evidence[:, 1]
    return x[select_best(score, of, count)]


def layer_loss(regions: Any, gate: Tensor, batch: Any, gated: bool) -> Tensor:
    """Of every node's mask, as any may be chosen: cross entropy and soft IoU with the true mask; of gates the cross
    entropy with the IoU of the proposal."""
    h = regions.to_frame()[:, 0]
    truth = batch.target[batch.batch]
    bce = F.binary_cross_entropy(h.clamp(1e-4, 1 - 1e-4), truth)
    both, either = (h * truth).sum(dim=(1, 2)), (h + truth - h * truth).sum(dim=(1, 2))
    loss = bce + (1 - both / either.clamp(min=1)).mean()
    return loss + F.binary_cross_entropy(gate, batch.iou.clamp(0, 1)) if gated else loss


def train_layer(
    model: STGNet, graphs: ProposalGraphs, steps: int, batch_size: int, rate: float, seed: int, bar: tqdm
) -> float:
    """Trains the graph part of a model in place; returns the milliseconds of a step."""
    parts = [model.spatial_conv] + ([model.node_gate] if model.node_gate is not None else [])
    weights = [p for part in parts for p in part.parameters()]
    if not weights:
        return float("nan")
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=1e-3)
    generator = torch.Generator().manual_seed(seed)
    batches: Any = iter(())
    model.train()
    spent = 0.0
    for step in range(steps):
        batch = next(batches, None)
        if batch is None:
            batches = iter(DataLoader(graphs, batch_size, shuffle=True, generator=generator))
            batch = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, rate, warmup=20)
        started = time.perf_counter()
        regions, gate = model.reconstruct(batch)
        loss = layer_loss(regions, gate, batch, model.node_gate is not None)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        spent += time.perf_counter() - started
        bar.update()
    model.eval()
    return 1000 * spent / max(steps, 1)


def parts_of(graphs: ProposalGraphs) -> list[list[int]]:
    """Positions of the graphs in parts of whole videos: the folds they come from, or :data:`FOLDS` of one fold."""
    entries = [entry for _, entry in graphs.entries]
    stored = {entry["fold"] for entry in entries}
    names = sorted({entry["name"] for entry in entries})
    if len(stored) > 1:
        part = {entry["name"]: entry["fold"] for entry in entries}
    else:
        part = {name: n % min(FOLDS, len(names)) for n, name in enumerate(names)}
    found: dict[int, list[int]] = {}
    start = 0
    for entry in entries:
        found.setdefault(part[entry["name"]], []).extend(range(start, start + entry["graphs"]))
        start += entry["graphs"]
    if len(found) < 2:
        raise InputError(f"{graphs.folder}: holds graphs of one video; a layer is scored on videos it has not seen")
    return [found[key] for key in sorted(found)]


@torch.no_grad()
def score_parts(graphs: ProposalGraphs, positions: Sequence[int], batch_size: int, fuse: Any) -> dict[int, list[float]]:
    """J of the graphs at ``positions`` by video."""
    values: dict[int, list[float]] = {}
    for batch in DataLoader(graphs[list(positions)], batch_size):
        for video, j in zip(batch.sequence.tolist(), fused_j(fuse(batch), batch).tolist(), strict=True):
            values.setdefault(video, []).append(j)
    return values


def summed(result: Result, graphs: ProposalGraphs, values: dict[int, list[float]]) -> None:
    """Adds the scores of one seed: the mean over videos of their mean J."""
    means: dict[str, list[float]] = {}
    for video, js in values.items():
        means.setdefault(graphs.sequences[video], []).extend(js)
    for name, js in means.items():
        result.by_video.setdefault(name, []).append(100 * float(np.mean(js)))
    result.j.append(float(np.mean([100 * np.mean(js) for js in means.values()])))


def run_leaderboard(
    graphs: ProposalGraphs,
    layers: Sequence[str],
    seeds: Sequence[int],
    config: STGConfig,
    steps: int = 300,
    batch_size: int = 16,
    rate: float = RATE,
) -> list[Result]:
    """The layers by name, each trained on all parts but one and scored on that, for all parts."""
    parts = parts_of(graphs)
    results = []
    for name in layers:
        if name in CHOICES + ORACLES:
            result = Result(name)
            values: dict[int, list[float]] = {}
            for part in parts:
                values |= score_parts(graphs, part, batch_size, lambda batch, name=name: baseline(name, batch))
            summed(result, graphs, values)
            results.append(result)
            continue
        results.append(run_layer(graphs, parts, name, seeds, config, steps, batch_size, rate))
    return results


def run_layer(
    graphs: ProposalGraphs,
    parts: list[list[int]],
    name: str,
    seeds: Sequence[int],
    config: STGConfig,
    steps: int,
    batch_size: int,
    rate: float,
) -> Result:
    """One layer of :func:`run_leaderboard`."""
    result = Result(name)
    bar = tqdm(total=len(seeds) * len(parts) * steps, desc=name, unit="step", dynamic_ncols=True, disable=None)
    times: list[float] = []
    with bar:
        for seed in seeds:
            values: dict[int, list[float]] = {}
            for number, part in enumerate(parts):
                torch.manual_seed(seed)
                model = make_model(name, config)
                rest = [i for other, own in enumerate(parts) if other != number for i in own]
                result.train_ms = train_layer(model, graphs[rest], steps, batch_size, rate, seed, bar)
                model.eval()

                def fuse(batch: Any, model: STGNet = model) -> Tensor:
                    started = time.perf_counter()
                    regions, gate = model.reconstruct(batch)
                    times.append(1000 * (time.perf_counter() - started))
                    return choose(model, batch, regions, gate)

                values |= score_parts(graphs, part, batch_size, fuse)
                trained = [model.spatial_conv, *([model.node_gate] if model.node_gate is not None else [])]
                result.parameters = sum(p.numel() for module in trained for p in module.parameters())
            summed(result, graphs, values)
    batch = next(iter(DataLoader(graphs, batch_size)))
    with torch.no_grad():
        result.peak_mb, _ = first_call(lambda: model.reconstruct(batch), batch.x.device)
    result.ms = float(np.median(times))
    return result
