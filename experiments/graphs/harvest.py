"""The spatial graphs of videos as a model meets them, with what is true."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from datasets.base import VideoSequence
from datasets.proposal_graphs import pack
from experiments.common import checkpoints, cli
from experiments.runs.job import Job, settings_of
from experiments.runs.learning import learn
from experiments.runs.scoring import variant_of, videos_of
from experiments.runs.settings import state_digest
from experiments.runs.store import Records
from experiments.runs.streams import flow_of_video, given_masks, segmented
from stg_pyg.errors import InputError
from stg_pyg.graph.memory import MemoryBank
from stg_pyg.model.stgnet import STGNet
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.ops.crops import crop_resize, crop_windows
from stg_pyg.ops.masks import paired_mask_iou
from stg_pyg.utils.images import write_atomic
from stg_pyg.video.segmenter import StepResult

MARGIN = 0.1
"""Of the window of a graph, share of the box around its proposals and Q."""


@dataclasses.dataclass(frozen=True)
class Harvest:
    """What is stored of which frames: of every ``every``-th, as ``size`` x ``size`` masks, by a ``job`` of one row. Its
    state is ``offline`` or ``online``. Small enough to be sent to a process."""

    job: Job
    fold: int
    state: str
    every: int
    size: int

    def records(self, out: Path) -> Records:
        """What is done already."""
        settings = {"job": settings_of(self.job), "fold": self.fold, "every": self.every, "size": self.size}
        return Records(out / ".done" / self.state, settings)

    def file(self, name: str) -> str:
        return f"{self.state}/{name}.pt"


def harvest_video(harvest: Harvest, out: Path, name: str) -> None:
    """Writes the graphs of one video, and the record that says so. Runs in a process of its own with one thread."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    job, records = harvest.job, harvest.records(out)
    video = next(v for v in videos_of(job) if v.name == name)
    records.forget(name)
    graphs = list(graphs_of_video(harvest, video))
    path = out / harvest.file(name)
    cli.make_folder(path.parent)
    write_atomic(path, lambda file: torch.save(graphs, file))
    records.save(name, {"graphs": len(graphs), "files": state_digest(video.files), "written": state_digest([path])})


def finished(harvest: Harvest, out: Path, video: VideoSequence) -> int | None:
    """How many graphs are stored of a video; None where it has to be done."""
    result = harvest.records(out).load(video.name)
    if result is None or result["files"] != state_digest(video.files):
        return None
    path = out / harvest.file(video.name)
    return result["graphs"] if path.is_file() and result["written"] == state_digest([path]) else None


def graphs_of_video(harvest: Harvest, video: VideoSequence) -> Iterator[dict[str, Tensor]]:
    """Runs the model over a video and yields the graphs of the frames with a true mask."""
    job, given = harvest.job, given_masks(video)
    (row,) = job.rows
    assert job.checkpoint is not None and row.config is not None
    model, _ = checkpoints.load_model(job.checkpoint)
    model = variant_of(job, model, row.config, learn(job, model, video))
    banks: list[MemoryBank] = []
    for t, stream, result, _ in segmented(job, video, given, model, flow_of_video(job, video)):
        truth = video.labels(t)
        if truth is not None and result.frame is not None and (t - min(given)) % harvest.every == 0:
            result.frame.banks = banks
            with torch.no_grad():
                graphs = list(graphs_of_frame(model, result, truth, harvest.size))
            yield from graphs
        banks = [copy.deepcopy(state.bank) for state in stream.objects]  # of the frames before the next one


def graphs_of_frame(model: STGNet, result: StepResult, truth: np.ndarray, size: int) -> Iterator[dict[str, Tensor]]:
    """The fields of :class:`~datasets.proposal_graphs.ProposalGraph` of each object of a frame that has proposals."""
    frame, output = result.frame, result.output
    assert frame is not None and output is not None and output.graphs is not None
    graphs = output.graphs
    masks = graphs.x[:, 0].to(frame.q.dtype)
    targets = torch.stack([torch.from_numpy(truth == i) for i in frame.obj_ids]).to(masks)
    iou = paired_mask_iou((masks > 0.5).to(masks.dtype), targets, graphs.batch)
    windows = torch.stack([_window(masks[graphs.batch == k], frame.q[k], frame.p[k]) for k in range(len(targets))])
    pixel = model.pixel_evidence(frame, windows)
    chosen = output.chosen.detach()
    edge_graph = graphs.batch[graphs.edge_index[0]]
    for k, target in enumerate(targets):
        own = torch.nonzero(graphs.batch == k)[:, 0]
        if not len(own):
            continue
        edges = edge_graph == k
        low, cell = windows[k, :2].repeat(2), ((windows[k, 2:] - windows[k, :2]) / size).repeat(2)

        def cut(maps: Tensor, k: int = k) -> Tensor:
            owner = torch.arange(len(maps), device=maps.device)
            return crop_resize(maps[:, None], windows[k].expand(len(maps), 4), size, owner)[:, 0].clamp(0, 1)

        seen = cut(target[None])[0]
        values = {
            "x": cut(masks[own])[:, None],
            "q": cut(frame.q[k][None])[0],
            "target": seen,
            "chosen": cut(chosen[k][None])[0],
            "outside": (target.sum() / cell[:2].prod() - seen.sum()).clamp(min=0)[None],
            "pixel": pixel[k].clamp(0, 1),
            "anchor": graphs.anchor[own],
            "iou": iou[own],
            "feat": graphs.feat[own],
            "box": (graphs.box[own] - low) / cell,
            "score": graphs.score[own],
            "p": (frame.p[k] - low) / cell,
            "window": torch.tensor([[0, 0, size, size]]),
            "view": windows[k][None],
            "edge_index": graphs.edge_index[:, edges] - own[0],
            "edge_attr": graphs.edge_attr[edges],
            "obj_id": torch.tensor([frame.obj_ids[k]]),
            "frame_idx": torch.tensor([frame.frame_idx]),
        }
        yield pack({key: value.cpu() for key, value in values.items()})


def _window(masks: Tensor, q: Tensor, p: Tensor) -> Tensor:
    """The window [4] around masks [N, H, W] and Q [H, W], or around p where all are empty."""
    boxes = masks_to_boxes(torch.cat([masks, q[None]]))
    boxes = boxes[boxes[:, 2] > boxes[:, 0]]
    hull = torch.cat([boxes[:, :2].amin(dim=0), boxes[:, 2:].amax(dim=0)]) if len(boxes) else p
    return crop_windows(hull[None], MARGIN)[0].to(p.dtype)


def describe(harvests: list[tuple[Harvest, str, int]]) -> dict[str, Any]:
    """The index of the stored graphs of (harvest, video, number of graphs)."""
    stored = [
        {"name": name, "file": h.file(name), "fold": h.fold, "state": h.state, "graphs": count}
        for h, name, count in harvests
        if count
    ]
    if not stored:
        raise InputError("no frame has both proposals and a true mask; choose another --split or a lower --every")
    about = harvests[0][0]
    return {"dataset": about.job.preset.dataset, "size": about.size, "every": about.every, "sequences": stored}
