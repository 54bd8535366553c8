"""Runs models over videos, one process a core, and scores what was written."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from tqdm import tqdm

from datasets.base import VideoSequence
from datasets.first_frames import first_frames
from experiments.common import checkpoints, cli, distributed
from experiments.common.presets import open_split
from experiments.runs.job import Job, settings_of
from experiments.runs.learning import Learned, learn
from experiments.runs.oracle import OracleScores, merge_oracles
from experiments.runs.rows import Row
from experiments.runs.settings import content_digest, state_digest
from experiments.runs.store import Records
from experiments.runs.streams import flow_labels, flow_of_video, given_masks, stream_labels
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.evaluation.metrics import ObjectScores, score_sequence
from stg_pyg.evaluation.protocols import (
    dataset_scores,
    frames_to_score,
    has_annotations,
    nothing_to_score,
    scored_frames,
)
from stg_pyg.evaluation.submission import check_stored_masks
from stg_pyg.model.stgnet import STGNet
from stg_pyg.utils.images import overlay, remove_leftovers, write_image, write_label_map
from stg_pyg.utils.label_maps import LabelMaps
from stg_pyg.video.trace import forget_traces

T = TypeVar("T")


def run_row(job: Job, row: Row, video: VideoSequence, model: STGNet | None, oracle: OracleScores | None) -> float:
    """Writes the masks of one row for one video; returns the seconds that took, reading and writing apart."""
    folder = job.folder(row, video.name)
    cli.make_folder(folder)
    for killed in (folder, folder / "overlays"):
        remove_leftovers(killed)
    forget_traces(job.trace_folder(video.name))
    given, flow = given_masks(video), flow_of_video(job, video)
    labels_of = (
        flow_labels(video, given, flow) if model is None else stream_labels(job, video, given, model, flow, oracle)
    )
    seconds = 0.0
    for t, name in enumerate(video.frame_names):
        started = time.perf_counter()
        labels = next(labels_of)
        seconds += time.perf_counter() - started
        write_label_map(folder / f"{name}.png", labels)
        if job.overlays:
            write_image(folder / "overlays" / f"{name}.jpg", overlay(video.image(t), labels))
    return seconds


def score_folder(
    folder: Path, video: VideoSequence, dataset: str = "davis2017"
) -> tuple[dict[int, ObjectScores], set[int]]:
    """J and F of the masks in a folder against the annotations of a video, in the frames that the benchmark scores;
    and the ids of masks that are of no object of the video, and so count as background.

    Raises:
        InputError: a frame that is scored is missing, has another size, or is black and white for several objects.
    """
    scored, foreign = set(scored_frames(dataset, video)), set[int]()
    maps = LabelMaps(folder / f"{video.frame_names[t]}.png" for t in sorted(scored))

    def read(name: str) -> np.ndarray:
        labels = maps.read(folder / f"{name}.png")
        if maps.white and len(video.first_frame_of) > 1:
            count = len(video.first_frame_of)
            raise InputError(f"{maps.white}: is black and white, and {video.name} has {count} objects; save their ids")
        foreign.update({int(i) for i in np.flatnonzero(np.bincount(labels.ravel()))} - {0, *video.first_frame_of})
        if labels.shape != video.size:
            size, wanted = (f"{w} x {h}" for h, w in (labels.shape, video.size))
            raise InputError(f"{folder / name}.png: is {size} pixels and the frame {wanted}; write masks at full size")
        return labels

    nothing = np.zeros((0, 0), np.uint8)  # in the place of a frame that is not looked at
    frames = (read(frame) if t in scored else nothing for t, frame in enumerate(video.frame_names))
    labels = (video.labels(t) if t in scored else None for t in range(video.num_frames))
    scores = score_sequence(frames, labels, skip_first_and_last=False, **frames_to_score(dataset, video))
    return scores, foreign


def score_stored(
    folder: Path, videos: Sequence[VideoSequence], dataset: str, processes: int = 0
) -> tuple[dict[str, dict[int, ObjectScores]], dict[str, set[int]]]:
    """:func:`score_folder` of ``<folder>/<video>`` for all videos, ``processes`` at a time (0: one a core): the scores,
    and the ids of no object, where there are any, by video.

    Raises:
        InputError: a mask is missing, unreadable or of another size.
    """
    check_stored_masks(folder, videos, partial(scored_frames, dataset))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    longest_first = sorted(videos, key=lambda video: -video.num_frames)
    calls = {video.name: (folder / video.name, video, dataset) for video in longest_first}
    # Importing PyTorch anew takes longer than scoring a small split, so a process is a copy where that is safe. It is
    # without threads only: a copy of OpenCV's would wait for ever.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        method = "fork" if sys.platform == "linux" else "spawn"
        found = in_processes(score_folder, calls, min(processes or cores, len(videos)), method=method)
    finally:
        cv2.setNumThreads(threads)
    names = [video.name for video in videos]
    return {name: found[name][0] for name in names}, {name: found[name][1] for name in names if found[name][1]}


def in_processes(
    function: Callable[..., T],
    calls: Mapping[str, tuple[Any, ...]],
    count: int,
    desc: str = "scoring",
    method: str = "spawn",
) -> dict[str, T]:
    """Calls a function with each of ``calls``, by the names of videos, in ``count`` processes that end with this one;
    in this one where that is one. A call that fails ends what has not begun."""
    results: dict[str, T] = {}
    quiet = distributed.world().rank > 0 or None
    with tqdm(total=len(calls), desc=desc, unit="video", dynamic_ncols=True, disable=quiet) as bar:
        if count <= 1:
            threads = torch.get_num_threads()
            for name, call in calls.items():
                results[name] = function(*call)
                bar.update()
            torch.set_num_threads(threads)
            return results
        context, parent = get_context(method), (os.getpid(),)
        with ProcessPoolExecutor(count, context, initializer=distributed.end_with_parent, initargs=parent) as pool:
            futures = {pool.submit(function, *call): name for name, call in calls.items()}
            try:
                for future in as_completed(futures):
                    results[futures[future]] = future.result()
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return results


def videos_of(job: Job) -> list[VideoSequence]:
    """The videos of a job's split, with as many frames as it takes."""
    return first_frames(open_split(job.preset, job.split, job.root, job.seed), job.frames)


def score_video(job: Job, name: str, learned: Learned | None = None) -> dict[str, Any]:
    """All rows of one video: {row: {"scores", "seconds"}} and the seconds of online learning.

    One thread does it, so that results do not depend on how many run beside it. ``learned``: what another job with the
    same checkpoint has learned on this video already.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    video = next(v for v in videos_of(job) if v.name == name)
    model = (
        checkpoints.load_model(job.checkpoint)[0] if job.checkpoint else checkpoints.untrained_model(job.preset.name)
    )
    learned = learned or learn(job, model, video)
    result: dict[str, Any] = {
        "online_seconds": learned.seconds,
        "num_frames": video.num_frames,
        "frames": video.frame_names,
        "files": state_digest(video.files),
        "dataset": job.preset.dataset,
        "categories": video.categories,
        "first_frame_of": video.first_frame_of,
        "annotated": has_annotations([video]),
        "root": None if job.root is None else str(job.root.resolve()),  # where reports find the frames
    }
    for row in job.rows:
        variant = None if row.config is None else variant_of(job, model, row.config, learned)
        oracle = OracleScores() if job.oracle and variant is not None else None
        seconds = run_row(job, row, video, variant, oracle)
        scores, _ = score_folder(job.folder(row, name), video, job.preset.dataset)
        result[row.name] = {"scores": scores, "seconds": seconds}
        if oracle is not None:
            result[row.name]["oracle"] = oracle.summary()
    result["written"] = masks_digest(job, video)
    return result


def masks_digest(job: Job, video: VideoSequence) -> str:
    """Of the content of all masks of a video that a job writes, with the overlays, if it writes any."""
    folders = [job.folder(row, video.name) for row in job.rows]
    kinds = [(folder, "png") for folder in folders]
    if job.overlays:
        kinds += [(folder / "overlays", "jpg") for folder in folders]
    if job.trace:
        kinds.append((job.trace_folder(video.name), "npz"))
    return content_digest(folder / f"{frame}.{suffix}" for folder, suffix in kinds for frame in video.frame_names)


def variant_of(job: Job, model: STGNet, config: STGConfig, learned: Learned) -> STGNet:
    """The same weights, and what online learning has made of them, under other constants, ready to run."""
    if job.checkpoint is None:
        variant = STGNet.untrained(config)
    else:
        variant = checkpoints.build_model(job.preset, config)
        variant.load_state_dict(model.state_dict(), strict=False)
    variant.put(learned.networks)
    return variant.to(torch.device(job.device)).eval()


def score_videos(job: Job, names: Sequence[str], processes: int = 0) -> dict[str, dict[str, Any]]:
    """:func:`score_video` of all names, ``processes`` at a time (0: one a core on the CPU, one on a GPU).

    What a run that was interrupted has finished with the same settings is taken over, not done again. Under torchrun
    every rank does its part of the videos; rank 0 waits for the others and returns all results.

    Raises:
        SystemExit: with status 0 on the other ranks, when their part is done.
    """
    with distributed.alive(job.out):
        records = score_share(job, names, processes)
        if distributed.world().rank > 0:
            raise SystemExit(0)
        return collect(job, names, records)


def score_share(job: Job, names: Sequence[str], processes: int = 0) -> Records:
    """The part of :func:`score_videos` that is this rank's; the results are in the records that it returns."""
    videos = {video.name: video for video in videos_of(job)}
    records = Records(job.out / ".done", settings_of(job))
    job = dataclasses.replace(job, device=str(distributed.device_of_rank(torch.device(job.device))))
    mine = distributed.share({name: videos[name].num_frames for name in names}, distributed.world())
    todo = [name for name in mine if finished_result(job, records, videos[name]) is None]
    if len(todo) < len(mine):
        print(f"{len(mine) - len(todo)} of {len(mine)} videos are finished, see {records.folder}", file=sys.stderr)
    count = min(processes or distributed.processes_of_rank(job.device), len(todo))
    in_processes(record_video, {name: (job, records, name) for name in todo}, count)
    return records


def record_video(job: Job, records: Records, name: str, learned: Learned | None = None) -> None:
    """:func:`score_video`, kept in the records; a video that is stopped half-way has none and starts anew."""
    records.forget(name)
    records.save(name, score_video(job, name, learned))


def finished_result(job: Job, records: Records, video: VideoSequence) -> dict[str, Any] | None:
    """The result of a video with a record of the same settings and files, if its masks are what was written."""
    result = records.load(video.name)
    if result is None or (result["frames"], result.get("files")) != (video.frame_names, state_digest(video.files)):
        return None
    return result if result.get("written") == masks_digest(job, video) else None


def collect(job: Job, names: Sequence[str], records: Records, folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """The results of all videos, when all ranks, alive in ``folder`` or ``job.out``, have done their part.

    Raises:
        InputError: other ranks have stopped without doing it.
    """
    videos = {video.name: video for video in videos_of(job)}
    results: dict[str, dict[str, Any]] = {}

    def missing() -> list[str]:
        for name in names:
            if name not in results and (result := finished_result(job, records, videos[name])) is not None:
                results[name] = result
        return [name for name in names if name not in results]

    distributed.wait_for(missing, folder or job.out)
    return {name: results[name] for name in names}


@dataclasses.dataclass
class ScoredVideo:
    """What the scores of a data set need to know of a video, see :class:`stg_pyg.evaluation.protocols.Video`."""

    name: str
    num_frames: int
    categories: dict[int, str]
    first_frame_of: dict[int, int]
    has_annotations: bool

    def annotated(self, t: int) -> bool:
        return self.has_annotations


def summarize_row(
    results: dict[str, dict[str, Any]], row: str, config: STGConfig | None, unseen: Collection[str] | None = None
) -> dict[str, Any]:
    """The content of ``metrics.json`` for one row of :func:`score_videos`, by the protocol of the data set.

    Args:
        results: of the videos of one data set.
        config: of the row.
        unseen: names of the unseen categories of YouTube-VOS; None: those that are known.
    """
    dataset, count = next(iter(results.values()))["dataset"], len(results)
    if any(result["annotated"] for result in results.values()):
        known = ("num_frames", "categories", "first_frame_of", "annotated")
        videos = [ScoredVideo(name, *(result[key] for key in known)) for name, result in results.items()]
        summary = dataset_scores(dataset, {n: result[row]["scores"] for n, result in results.items()}, videos, unseen)
    else:
        summary = nothing_to_score(dataset)
    frames, seconds = (sum(r["num_frames"] for r in results.values()), sum(r[row]["seconds"] for r in results.values()))
    summary["fps"] = frames / max(seconds, 1e-9)
    summary["online_seconds"] = sum(result["online_seconds"] for result in results.values()) / count
    if any("oracle" in result[row] for result in results.values()):
        summary["oracle"] = merge_oracles({name: result[row]["oracle"] for name, result in results.items()})
    summary["config"] = config.to_dict() if config is not None else {"propagation": "flow"}
    return summary
