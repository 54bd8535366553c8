"""G, J and F of every layer on a split, with the same proposals and networks, beside the time of its stage."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import cv2
import torch
from tqdm import tqdm

from datasets.base import VideoSequence
from experiments import checkpoints
from experiments.benchmark.groups import OTHER_LAYERS
from experiments.benchmark.temporal_cases import TEMPORAL_LAYERS
from experiments.distributed import end_with_parent
from experiments.jobs import Job, settings_of
from experiments.learned_files import learned_once
from experiments.records import Records
from experiments.rows import Row
from experiments.scoring import finished_result, score_video, summarize_row, videos_of
from experiments.settings import digest, plain
from stg_pyg.config import STGConfig
from stg_pyg.model import STGNet
from stg_pyg.stages import timed_stages

ROW = "masks"
STAGES = "stage_seconds"
STEPS = (1, 2, 3)


@dataclass(frozen=True)
class Candidate:
    """A layer of the spatial or the temporal graph, all else as in the checkpoint."""

    part: str
    """``spatial`` or ``temporal``, which is the stage that is timed, too."""
    layer: str
    steps: int | None
    config: STGConfig


def find_candidates(
    config: STGConfig, spatial_layers: Sequence[str] = (), temporal_layers: Sequence[str] = ()
) -> list[Candidate]:
    """All layers by name, those that are given, and none of the kind."""
    found = [Candidate("spatial", "off", None, config.with_options(use_spatial=False))]
    spatial = config.with_options(use_spatial=True)
    for steps in STEPS:
        found.append(Candidate("spatial", "stg", steps, spatial.with_options(spatial_conv="stg", num_steps=steps)))
    for name in dict.fromkeys([*OTHER_LAYERS, *spatial_layers]):
        found.append(Candidate("spatial", name, None, spatial.with_options(spatial_conv=name)))
    found.append(Candidate("temporal", "off", None, config.with_options(use_temporal=False)))
    temporal = config.with_options(use_temporal=True)
    names = dict.fromkeys([*TEMPORAL_LAYERS, *temporal_layers])
    return found + [Candidate("temporal", n, None, temporal.with_options(temporal_conv=n)) for n in names]


def untrained_parts(model: STGNet, candidate: Candidate, job: Job) -> list[str]:
    """Parameters of the candidate that the checkpoint has no values for."""
    built = checkpoints.build_model(job.preset, candidate.config)
    return list(built.load_state_dict(model.state_dict(), strict=False).missing_keys)


def score_layers(
    job: Job,
    names: Sequence[str],
    config: STGConfig,
    processes: int = 1,
    candidates: Sequence[Candidate] | None = None,
) -> list[dict[str, Any]]:
    """Scores all candidates on the videos, ``processes`` videos at a time with one thread each.

    What is finished is kept: the result of a candidate on a video in ``OUT/scores/<configuration>``, and the networks
    of online learning, once a video for all of them, in ``OUT/learned/<video>.pt``.

    Args:
        job: what all candidates have in common; its rows are not used, and ``out`` is OUT.
        names: of the videos.
        config: of the checkpoint, or what it is changed to.
        candidates: None: those of :func:`find_candidates`.

    Returns:
        Rows with ``part``, ``layer``, ``steps``, ``J``, ``F`` and ``G`` in percent, ``ms`` of the stage ``part`` and
        ``frame_ms`` of everything, both a frame, ``own`` (whether it is the layer of the checkpoint), and ``skipped``:
        why it has no scores, or None.
    """
    assert job.checkpoint is not None
    model, _ = checkpoints.load_model(job.checkpoint)
    videos = {video.name: video for video in videos_of(job)}
    candidates = find_candidates(config) if candidates is None else candidates
    untrained = {candidate: untrained_parts(model, candidate, job) for candidate in candidates}
    scored = [candidate for candidate in candidates if not untrained[candidate]]
    jobs = {candidate: _job_of(job, candidate.config) for candidate in scored}
    different = list({one.out: one for one in jobs.values()}.values())
    with _threads_kept(), tqdm(total=len(names), desc="scores", unit="video", dynamic_ncols=True) as bar:
        if processes == 1:
            for name in names:
                score_video_once(different, job, name)
                bar.update()
        else:
            context, parent = get_context("spawn"), (os.getpid(),)
            with ProcessPoolExecutor(processes, context, initializer=end_with_parent, initargs=parent) as pool:
                for future in as_completed([pool.submit(score_video_once, different, job, name) for name in names]):
                    future.result()
                    bar.update()
    rows = []
    for candidate in candidates:
        row = {"part": candidate.part, "layer": candidate.layer, "steps": candidate.steps, "device": job.device}
        row |= {"own": candidate.config == config, "J": None, "F": None, "G": None, "ms": None, "frame_ms": None}
        if untrained[candidate]:
            rows.append(row | {"skipped": f"untrained: no values for {untrained[candidate][0]}"})
        else:
            results = {name: score_once(jobs[candidate], model, videos[name], job) for name in names}
            rows.append(row | _summary(results, candidate))
    return rows


def score_video_once(jobs: Sequence[Job], common: Job, name: str) -> None:
    """All jobs on one video, those that are not finished."""
    assert common.checkpoint is not None
    model, _ = checkpoints.load_model(common.checkpoint)
    video = next(video for video in videos_of(common) if video.name == name)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for job in jobs:
        score_once(job, model, video, common)


def score_once(job: Job, model: STGNet, video: VideoSequence, common: Job) -> dict[str, Any]:
    """The result of :func:`score_video` with the seconds of its stages; one that is finished is not done again."""
    records = Records(job.out / ".done", settings_of(job))
    finished = finished_result(job, records, video)
    if finished is not None:
        return finished
    learned = learned_once(common.out / "learned", job, model, video)
    records.forget(video.name)
    with timed_stages(job.device) as times:
        result = score_video(job, video.name, learned)
    result[STAGES] = dict(times.seconds)
    records.save(video.name, result)
    return result


def _job_of(job: Job, config: STGConfig) -> Job:
    folder = job.out / "scores" / digest(plain(config))
    return replace(job, rows=(Row(ROW, "", config),), out=folder)


def _summary(results: dict[str, dict[str, Any]], candidate: Candidate) -> dict[str, Any]:
    summary = summarize_row(results, ROW, candidate.config)
    frames = sum(max(1, result["num_frames"] - 1) for result in results.values())
    seconds = sum(result[STAGES].get(candidate.part, 0.0) for result in results.values())
    scores = {"J": summary["J"]["mean"], "F": summary["F"]["mean"], "G": summary["G"]} if "G" in summary else {}
    whole = sum(result[ROW]["seconds"] for result in results.values())
    reason = None if scores else "the split has nothing to score"
    return {**scores, "ms": 1e3 * seconds / frames, "frame_ms": 1e3 * whole / frames, "skipped": reason}


@contextmanager
def _threads_kept() -> Any:
    """Scoring takes one thread; what comes after it gets back those that there were."""
    threads, others = torch.get_num_threads(), cv2.getNumThreads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(others)
