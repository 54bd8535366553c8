"""How well X and K of a checkpoint tell objects apart: python -m experiments.features"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import mannwhitneyu, spearmanr
from torch import Tensor
from tqdm import tqdm

from datasets.base import VideoSequence
from experiments.common import checkpoints, cli
from experiments.common.constants import add_constants, with_constants
from experiments.common.presets import find_preset, open_split
from stg_pyg.errors import InputError
from stg_pyg.model.stgnet import STGNet
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.ops.crops import crop_resize, crop_windows
from stg_pyg.ops.masks import paired_mask_iou
from stg_pyg.utils.images import write_json
from stg_pyg.video.segmenter import VideoSegmenter

RIGHT, WRONG = 0.7, 0.3
"""A proposal is right when its IoU with the true mask is over the one, and wrong when it is under the other."""


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "X of true masks, same object against others; X and scores of the proposals that the model makes without "
        "online learning, against their IoU with the true mask; and the mask that Eq. 7 retrieves from the first frame "
        "alone. Give videos that the networks were not trained on.",
        out="runs/features",
    )
    parser.add_argument("--preset", default="davis2016", help="data set")
    parser.add_argument("--root", type=Path, help="folder of the data set (not for synthetic)")
    parser.add_argument("--split", default="val", help="videos")
    parser.add_argument("--checkpoint", default="shipped", help="checkpoint, or shipped, the one of the package")
    parser.add_argument("--every", type=cli.whole, default=3, help="every N-th frame is measured")
    add_constants(parser)
    return parser.parse_args()


@dataclass
class Measured:
    """What is gathered over videos."""

    first: list[Tensor] = field(default_factory=list)
    """X of each object in its first frame."""
    later: list[Tensor] = field(default_factory=list)
    """X of its true masks in later frames, [T, F] an object."""
    nodes: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    """Of each graph: IoU with the true mask, cosine with the first frame's X, score of the network."""
    edges: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """Of each graph: the lower IoU of the two ends, the cosine, where one end is right."""
    retrieved: list[float] = field(default_factory=list)
    """IoU of what Eq. 7 retrieves with the true mask on the grid."""


@torch.no_grad()
def measure_video(model: STGNet, video: VideoSequence, every: int, mixed: bool, measured: Measured) -> None:
    """Runs a model over a video and adds what it sees to ``measured``."""
    stream = VideoSegmenter(model, mixed_precision=mixed)
    first: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    later: dict[int, list[Tensor]] = {}
    for t in range(video.num_frames):
        labels, image = video.labels(t), video.image(t)
        given = labels if t == 0 else None
        result = stream.step(image, masks=given)
        if labels is None or t % every:
            continue
        tensor = torch.from_numpy(image).permute(2, 0, 1).float().to(stream.device) / 255
        for obj in [int(i) for i in np.unique(labels) if i]:
            mask = torch.from_numpy(labels == obj).float().to(stream.device)
            if t and obj not in first:
                continue
            x = model.encode(tensor, mask[None], masks_to_boxes(mask[None]))[0]
            window = crop_windows(masks_to_boxes(mask[None]), model.config.proposals.crop_margin)
            keys = model.encode_keys(tensor, window)
            value = crop_resize(mask[None, None], window, keys.shape[-1])[:, 0]
            if t == 0:
                first[obj] = (x, keys, value)
                continue
            later.setdefault(obj, []).append(x)
            measured.retrieved.append(retrieval_iou(keys, value, *first[obj][1:]))
        if result.output is not None and result.output.graphs is not None:
            gather_graphs(result, labels, measured)
    for obj, (x, _, _) in first.items():
        measured.first.append(x)
        measured.later.append(torch.stack(later[obj]) if obj in later else x[None])


def retrieval_iou(keys: Tensor, value: Tensor, memory_keys: Tensor, memory: Tensor, temperature: float = 0.07) -> float:
    """IoU at 0.5 of the mask [1, g, g] with what attention to the memory's keys of unit length retrieves."""
    k, m = (F.normalize(x[0].flatten(1), dim=0) for x in (keys, memory_keys))
    found = ((k.T @ m) / temperature).softmax(dim=1) @ memory.flatten()
    a, b = found > 0.5, value.flatten() > 0.5
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def gather_graphs(result: Any, labels: np.ndarray, measured: Measured) -> None:
    """Adds the nodes and edges of the graphs of a frame."""
    graphs, frame = result.output.graphs, result.frame
    if frame is None or not len(graphs.batch):
        return
    truth = torch.stack([torch.from_numpy(labels == i).float() for i in frame.obj_ids]).to(graphs.feat.device)
    iou = paired_mask_iou((graphs.x[:, 0] > 0.5).float(), truth, graphs.batch).cpu().numpy()
    anchor, score, owner = (x.cpu().numpy() for x in (graphs.anchor, graphs.score, graphs.batch))
    source, target = graphs.edge_index.cpu().numpy()
    cosine = graphs.edge_attr[:, 0].cpu().numpy()
    for k in np.unique(owner):
        own = owner == k
        if not truth[k].any():
            continue
        measured.nodes.append((iou[own], anchor[own], score[own]))
        edges = own[target] & (iou[target] > RIGHT)
        measured.edges.append((iou[source[edges]], cosine[edges]))


def summary(measured: Measured) -> dict[str, float]:
    """AUC, medians, and mean rank correlations inside of a graph."""
    first = F.normalize(torch.stack(measured.first), dim=1)
    same, other = [], []
    for k, x in enumerate(measured.later):
        cosine = F.normalize(x, dim=1) @ first.T
        same += cosine[:, k].tolist()
        other += cosine[:, torch.arange(len(first)) != k].flatten().tolist()
    (iou, anchor), (ends, edge_cosine) = (
        [np.concatenate([row[i] for row in rows]) for i in (0, 1)] for rows in (measured.nodes, measured.edges)
    )
    return {
        "auc_same_other": _auc(same, other),
        "cosine_same": _median(same),
        "cosine_other": _median(other),
        "anchor_right": _median(anchor[iou > RIGHT]),
        "anchor_wrong": _median(anchor[iou < WRONG]),
        "edge_right_right": _median(edge_cosine[ends > RIGHT]),
        "edge_right_wrong": _median(edge_cosine[ends < WRONG]),
        "rank_anchor": _rank(measured.nodes, 1),
        "rank_score": _rank(measured.nodes, 2),
        "retrieval_iou": 100 * float(np.mean(measured.retrieved)) if measured.retrieved else float("nan"),
        "graphs": float(len(measured.nodes)),
    }


def _auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    if not positive or not negative:
        return float("nan")
    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def _median(values: Any) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _rank(graphs: list[tuple[np.ndarray, ...]], column: int) -> float:
    """Mean Spearman correlation with the IoU over the graphs in which both vary."""
    pairs = [(row[0], row[column]) for row in graphs if len(row[0]) > 2]
    values = [float(spearmanr(*pair).statistic) for pair in pairs if np.ptp(pair[0]) > 0 and np.ptp(pair[1]) > 0]
    return float(np.mean(values)) if values else float("nan")


def main() -> None:
    args = parse()
    cli.make_folder(args.out)
    if args.every < 1:
        raise InputError("--every 0: give at least 1")
    device = cli.choose_device(args.device)
    model, _ = checkpoints.load_model(args.checkpoint)
    model.config = with_constants(model.config, args.set).replace({"online.steps": 0, "online.update_every": 0})
    model.to(device)
    measured = Measured()
    for video in tqdm(open_split(find_preset(args.preset), args.split, args.root, args.seed), desc="videos"):
        measure_video(model, video, args.every, cli.bfloat16_is_fast(device), measured)
    values = summary(measured)
    write_json(args.out / "features.json", values)
    print("\n".join(f"{name:18} {value:.3f}" for name, value in values.items()))


if __name__ == "__main__":
    cli.run(main)
