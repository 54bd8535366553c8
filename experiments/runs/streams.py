"""Label maps of a video, frame by frame, by a model or by optical flow alone."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from datasets.base import VideoSequence
from experiments.common import cli
from experiments.runs.job import Job, learning_seed
from experiments.runs.oracle import OracleScores
from stg_pyg.flow.interface import FlowEstimator, flow_between
from stg_pyg.flow.warping import warp
from stg_pyg.model.stgnet import STGNet
from stg_pyg.proposals.rle import ProposalSource
from stg_pyg.proposals.store import open_proposals
from stg_pyg.video.segmenter import VideoSegmenter
from stg_pyg.video.trace import Tracer


def given_masks(video: VideoSequence) -> dict[int, np.ndarray]:
    """By frame, the label map of the objects that first appear there: what semi-supervised segmentation is given."""
    given: dict[int, np.ndarray] = {}
    for obj_id, t in video.first_frame_of.items():
        labels = video.labels(t)
        assert labels is not None
        given.setdefault(t, np.zeros_like(labels))[labels == obj_id] = obj_id
    return given


@functools.lru_cache(maxsize=1)
def _opened(path: Path, changed: int) -> ProposalSource:
    """A large file is read once a process and not once a video."""
    return open_proposals(path)


def stream_labels(
    job: Job,
    video: VideoSequence,
    given: dict[int, np.ndarray],
    model: STGNet,
    flow: FlowEstimator,
    oracle: OracleScores | None = None,
) -> Iterator[np.ndarray]:
    """Label maps of a video by the model, frame by frame."""
    device = torch.device(job.device)
    mixed_precision = cli.bfloat16_is_fast(device) and device.type == "cpu"
    first = min(given, default=video.num_frames)
    stream = VideoSegmenter(model, flow, job.preset.crop_size, mixed_precision, first, learning_seed(job))
    source = _opened(job.proposals, job.proposals.stat().st_mtime_ns) if job.proposals is not None else None
    if source is not None:
        source.check(video.name, video.frame_names)
    with Tracer(model, job.trace_folder(video.name)) if job.trace else contextlib.nullcontext() as tracer:
        for t in range(video.num_frames):
            image = video.image(t)
            if t < first:
                yield np.zeros(image.shape[:2], np.uint8)
                continue
            proposals = None if source is None else source.frame(video.name, video.frame_names[t], image.shape[:2])
            with torch.no_grad():
                result = stream.step(image, proposals, given.get(t))
            if oracle is not None and 0 < t < video.num_frames - 1:
                oracle.add(result, video.labels(t), proposals)
            if tracer is not None:
                tracer.write(video.frame_names[t], result, given.get(t))
            yield result.labels.numpy()


def flow_labels(video: VideoSequence, given: dict[int, np.ndarray], flow: FlowEstimator) -> Iterator[np.ndarray]:
    """Label maps of a video by warping the previous ones."""
    masks: dict[int, torch.Tensor] = {}
    previous: np.ndarray | None = None
    for t in range(video.num_frames):
        image = video.image(t)
        if masks and previous is not None:
            warped = warp(torch.stack(list(masks.values())), flow_between(flow, image, previous, t, t - 1))
            masks = dict(zip(masks, (warped > 0.5).float(), strict=True))
        new = given.get(t)
        for obj_id in np.unique(new) if new is not None else ():
            if obj_id:
                masks[int(obj_id)] = torch.from_numpy((new == obj_id).astype(np.float32))
        labels = np.zeros(image.shape[:2], np.uint8)
        for obj_id, mask in masks.items():
            labels[mask.numpy() > 0.5] = obj_id
        previous = image
        yield labels
