"""Layers trained on stored graphs and scored on those of other videos, as text, files and a plot."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch_geometric.loader import DataLoader
from torch_geometric.utils import scatter
from tqdm import tqdm

from datasets.proposal_graphs import ProposalGraphs
from experiments.benchmark.measure import first_call
from experiments.common.layers_option import on_evidence
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.learning.steps import learning_rate
from stg_pyg.model.evidence import node_evidence
from stg_pyg.model.selection import region_selection_scores, select_best
from stg_pyg.model.stgnet import STGNet
from stg_pyg.utils.images import write_atomic, write_json, write_text

ORACLES = ("best", "pixels")
CHOICES = ("mean", "argmax", "eq6", "model")
"""What needs no training: the mean of the proposals, the proposal of the highest score, that of Eq. 6, and what the
model chose that the graphs come from."""
RATE = 3e-3
"""Highest learning rate."""
FOLDS = 5
"""Parts that videos are divided into where the graphs are all of one fold."""
COLUMNS = ("layer", "J", "spread", "ms", "train_ms", "peak_mb", "parameters")


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


def learning_parts(model: STGNet) -> list[nn.Module]:
    """What of a model learns on stored graphs."""
    return [model.spatial_conv] + ([model.node_gate] if model.node_gate is not None else [])


def train_layer(
    model: STGNet, graphs: ProposalGraphs, steps: int, batch_size: int, rate: float, seed: int, bar: tqdm
) -> float:
    """Trains the graph part of a model in place; returns the milliseconds of a step."""
    weights = [p for part in learning_parts(model) for p in part.parameters()]
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
        loss = layer_loss(*model.reconstruct(batch), batch, model.node_gate is not None)
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
def score_part(graphs: ProposalGraphs, positions: Sequence[int], batch_size: int, fuse: Any) -> dict[str, float]:
    """Mean J in percent of the masks that ``fuse`` makes of the graphs at ``positions``, by video."""
    values: dict[str, list[float]] = {}
    for batch in DataLoader(graphs[list(positions)], batch_size):
        for video, j in zip(batch.sequence.tolist(), fused_j(fuse(batch), batch).tolist(), strict=True):
            values.setdefault(graphs.sequences[video], []).append(j)
    return {name: 100 * float(np.mean(js)) for name, js in values.items()}


def run_leaderboard(
    graphs: ProposalGraphs,
    layers: Sequence[str],
    seeds: Sequence[int],
    config: STGConfig,
    steps: int = 300,
    batch_size: int = 16,
    rate: float = RATE,
) -> list[dict[str, Any]]:
    """A row for each of the layers by name, trained on all parts but one and scored on that, for all parts.

    Of a row, ``J`` is the mean over seeds of the mean over videos, ``spread`` its deviation over seeds; ``ms`` is of a
    batch forward, the median, ``train_ms`` of a training step, the mean, ``peak_mb`` the most memory of a batch.
    """
    parts, rows = parts_of(graphs), []
    for name in layers:
        if name in CHOICES + ORACLES:
            found: dict[str, float] = {}
            for part in parts:
                found |= score_part(graphs, part, batch_size, lambda batch, name=name: baseline(name, batch))
            by_seed, measured = [found], dict.fromkeys(("ms", "train_ms", "peak_mb"), float("nan")) | {"parameters": 0}
        else:
            by_seed, measured = run_layer(graphs, parts, name, seeds, config, steps, batch_size, rate)
        js = [float(np.mean(list(videos.values()))) for videos in by_seed]
        videos = {video: float(np.mean([found[video] for found in by_seed])) for video in by_seed[0]}
        scores = {"layer": name, "J": float(np.mean(js)), "spread": float(np.std(js)), "seeds": len(js)}
        rows.append({**scores, **measured, "videos": videos})
    return rows


def run_layer(
    graphs: ProposalGraphs,
    parts: list[list[int]],
    name: str,
    seeds: Sequence[int],
    config: STGConfig,
    steps: int,
    batch_size: int,
    rate: float,
) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """J by video of one layer of :func:`run_leaderboard` for every seed, and its times and size."""
    times: list[float] = []

    def fuse(batch: Any) -> Tensor:
        started = time.perf_counter()
        regions, gate = model.reconstruct(batch)
        times.append(1000 * (time.perf_counter() - started))
        return choose(model, batch, regions, gate)

    by_seed = []
    with tqdm(total=len(seeds) * len(parts) * steps, desc=name, unit="step", dynamic_ncols=True, disable=None) as bar:
        for seed in seeds:
            found: dict[str, float] = {}
            for part in parts:
                torch.manual_seed(seed)
                model = make_model(name, config)
                rest = [i for other in parts if other is not part for i in other]
                train_ms = train_layer(model, graphs[rest], steps, batch_size, rate, seed, bar)
                model.eval()
                found |= score_part(graphs, part, batch_size, fuse)
            by_seed.append(found)
    batch = next(iter(DataLoader(graphs, batch_size)))
    with torch.no_grad():
        peak_mb, _ = first_call(lambda: model.reconstruct(batch), batch.x.device)
    count = sum(p.numel() for part in learning_parts(model) for p in part.parameters())
    return by_seed, {"ms": float(np.median(times)), "train_ms": train_ms, "peak_mb": peak_mb, "parameters": count}


def markdown(rows: Sequence[dict[str, Any]], graphs: ProposalGraphs) -> str:
    """The table, one line a layer; times are of a batch."""
    videos = len({entry["name"] for _, entry in graphs.entries})
    lines = [
        f"{len(graphs)} graphs of {videos} videos; J is the mean over videos, ± its deviation over seeds.",
        "",
        "| layer | J | vs mean | ms | ms, trained | MB | parameters |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    mean = next((row["J"] for row in rows if row["layer"] == "mean"), None)
    for row in rows:
        spread = f" ± {row['spread']:.2f}" if row["seeds"] > 1 else ""
        change = "" if mean is None else f"{row['J'] - mean:+.2f}"
        times = [f"{row[key]:.1f}" if row[key] == row[key] else "" for key in ("ms", "train_ms", "peak_mb")]
        cells = (row["layer"], f"{row['J']:.2f}{spread}", change, *times, row["parameters"] or "")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def write_tables(out: Path, rows: Sequence[dict[str, Any]], graphs: ProposalGraphs) -> str:
    """Writes ``leaderboard.json``, ``.csv``, ``.md`` and ``.png``; returns the Markdown."""
    write_json(out / "leaderboard.json", {"graphs": len(graphs), "rows": rows})
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "leaderboard.csv", text.getvalue())
    table = markdown(rows, graphs)
    write_text(out / "leaderboard.md", table + "\n")
    figure = Figure(figsize=(7, 0.4 * len(rows) + 1), layout="constrained")
    axes = figure.add_subplot()
    names, js, spreads = zip(*((row["layer"], row["J"], row["spread"]) for row in reversed(rows)), strict=True)
    axes.barh(names, js)
    axes.errorbar(js, range(len(rows)), xerr=spreads, fmt="none")
    axes.set_xlim(max(0.0, min(js) - 5), 100)
    axes.set_xlabel("J of the fused mask")
    write_atomic(out / "leaderboard.png", lambda file: figure.savefig(file, format="png", dpi=120))
    return table
