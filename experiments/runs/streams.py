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
from experiments.runs.job import Job
from experiments.runs.oracle import OracleScores
from stg_pyg.flow.interface import FlowEstimator, flow_between, flow_for_sequence
from stg_pyg.flow.sources import resolve_flow
from stg_pyg.flow.warping import warp
from stg_pyg.model.stgnet import STGNet
from stg_pyg.proposals.outside import ProposalSet
from stg_pyg.proposals.rle import ProposalSource
from stg_pyg.proposals.store import open_proposals
from stg_pyg.video.segmenter import StepResult, VideoSegmenter
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


def flow_of_video(job: Job, video: VideoSequence) -> FlowEstimator:
    """The source of flow of a job, for the frames of a video."""
    flow = resolve_flow(job.flow, weights=job.weights, device=job.device)
    return flow_for_sequence(flow, video.name, video.frame_names)


def segmented(
    job: Job, video: VideoSequence, given: dict[int, np.ndarray], model: STGNet, flow: FlowEstimator
) -> Iterator[tuple[int, VideoSegmenter, StepResult, ProposalSet | None]]:
    """Each frame from the first one with objects on, after its step, with the proposals that came from outside."""
    device, first = torch.device(job.device), min(given, default=video.num_frames)
    mixed_precision = cli.bfloat16_is_fast(device) and device.type == "cpu"
    stream = VideoSegmenter(model, flow, job.preset.crop_size, mixed_precision, first, job.learning_seed)
    source = _opened(job.proposals, job.proposals.stat().st_mtime_ns) if job.proposals is not None else None
    if source is not None and job.frames is None:  # those of whole videos
        source.check(video.name, video.frame_names)
    for t in range(first, video.num_frames):
        image = video.image(t)
        proposals = None if source is None else source.frame(video.name, video.frame_names[t], image.shape[:2])
        with torch.no_grad():
            result = stream.step(image, proposals, given.get(t))
        yield t, stream, result, proposals


def stream_labels(
    job: Job,
    video: VideoSequence,
    given: dict[int, np.ndarray],
    model: STGNet,
    flow: FlowEstimator,
    oracle: OracleScores | None = None,
) -> Iterator[np.ndarray]:
    """Label maps of a video by the model, frame by frame."""
    for t in range(min(given, default=video.num_frames)):
        yield np.zeros(video.image(t).shape[:2], np.uint8)
    with Tracer(model, job.trace_folder(video.name)) if job.trace else contextlib.nullcontext() as tracer:
        for t, _, result, proposals in segmented(job, video, given, model, flow):
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
        if t in given:
            masks |= {int(i): torch.from_numpy((given[t] == i).astype(np.float32)) for i in np.unique(given[t]) if i}
        labels = np.zeros(image.shape[:2], np.uint8)
        for obj_id, mask in masks.items():
            labels[mask.numpy() > 0.5] = obj_id
        previous = image
        yield labels
