"""Runs models over videos, one process a core, and scores what was written."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

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
from experiments.runs.streams import flow_labels, given_masks, stream_labels
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.evaluation.metrics import score_sequence
from stg_pyg.evaluation.protocols import (
    dataset_scores,
    frames_to_score,
    has_annotations,
    nothing_to_score,
    scored_frames,
)
from stg_pyg.flow.interface import flow_for_sequence
from stg_pyg.flow.sources import resolve_flow
from stg_pyg.model.stgnet import STGNet
from stg_pyg.utils.images import overlay, remove_leftovers, write_image, write_label_map
from stg_pyg.utils.label_maps import LabelMaps
from stg_pyg.video.trace import forget_traces


def run_row(job: Job, row: Row, video: VideoSequence, model: STGNet | None, oracle: OracleScores | None) -> float:
    """Writes the masks of one row for one video; returns the seconds that took, reading and writing apart."""
    folder = job.folder(row, video.name)
    cli.make_folder(folder)
    for killed in (folder, folder / "overlays"):
        remove_leftovers(killed)
    forget_traces(job.trace_folder(video.name))
    given = given_masks(video)
    flow = resolve_flow(job.flow, weights=job.weights, device=job.device)
    flow = flow_for_sequence(flow, video.name, video.frame_names)
    labels_of = (
        flow_labels(video, given, flow) if model is None else stream_labels(job, video, given, model, flow, oracle)
    )
    seconds = 0.0
    for t in range(video.num_frames):
        started = time.perf_counter()
        labels = next(labels_of)
        seconds += time.perf_counter() - started
        write_label_map(folder / f"{video.frame_names[t]}.png", labels)
        if job.overlays:
            write_image(folder / "overlays" / f"{video.frame_names[t]}.jpg", overlay(video.image(t), labels))
    return seconds


def score_folder(
    folder: Path, video: VideoSequence, dataset: str = "davis2017", foreign: set[int] | None = None
) -> dict[int, Any]:
    """J and F of the masks in a folder against the annotations of a video, in the frames that the benchmark scores.

    The ids of masks that are of no object of the video, and so count as background, are added to ``foreign``.

    Raises:
        InputError: a frame that is scored is missing, has another size, or is black and white for several objects.
    """
    scored = set(scored_frames(dataset, video))
    maps = LabelMaps(folder / f"{video.frame_names[t]}.png" for t in sorted(scored))

    def read(name: str) -> np.ndarray:
        labels = maps.read(folder / f"{name}.png")
        if maps.white and len(video.first_frame_of) > 1:
            count = len(video.first_frame_of)
            raise InputError(f"{maps.white}: is black and white, and {video.name} has {count} objects; save their ids")
        if foreign is not None:
            foreign.update({int(i) for i in np.flatnonzero(np.bincount(labels.ravel()))} - {0, *video.first_frame_of})
        if labels.shape != video.size:
            size, wanted = (f"{w} x {h}" for h, w in (labels.shape, video.size))
            raise InputError(f"{folder / name}.png: is {size} pixels and the frame {wanted}; write masks at full size")
        return labels

    nothing = np.zeros((0, 0), np.uint8)  # in the place of a frame that is not looked at
    frames = (read(frame) if t in scored else nothing for t, frame in enumerate(video.frame_names))
    labels = (video.labels(t) if t in scored else None for t in range(video.num_frames))
    return score_sequence(frames, labels, skip_first_and_last=False, **frames_to_score(dataset, video))


def videos_of(job: Job) -> list[VideoSequence]:
    """The videos of a job's split, with as many frames as it takes."""
    return first_frames(open_split(job.preset, job.split, job.root, job.seed), job.frames)


def score_video(job: Job, name: str, learned: Learned | None = None) -> dict[str, Any]:
    """All rows of one video: {row: {"scores", "seconds"}} and the seconds of online learning.

    Runs in a process of its own with one thread, so that results do not depend on how many run beside it. ``learned``:
    what another job with the same checkpoint has learned on this video already.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    video = next(v for v in videos_of(job) if v.name == name)
    if job.checkpoint is not None:
        model, _ = checkpoints.load_model(job.checkpoint)
    else:
        model = checkpoints.untrained_model(job.preset.name)
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
        variant = None
        if row.config is not None:
            variant = with_config(job, model, row.config)
            learned.put_into(variant)
            variant.to(torch.device(job.device)).eval()
        oracle = OracleScores() if job.oracle and variant is not None else None
        seconds = run_row(job, row, video, variant, oracle)
        result[row.name] = {
            "scores": score_folder(job.folder(row, name), video, job.preset.dataset),
            "seconds": seconds,
        }
        if oracle is not None:
            result[row.name]["oracle"] = oracle.summary()
    result["written"] = masks_digest(job, video)
    return result


def masks_digest(job: Job, video: VideoSequence) -> str:
    """Of the content of all masks of a video that a job writes, with the overlays, if it writes any."""
    folders = [job.folder(row, video.name) for row in job.rows]
    files = [folder / f"{frame}.png" for folder in folders for frame in video.frame_names]
    if job.overlays:
        files += [folder / "overlays" / f"{frame}.jpg" for folder in folders for frame in video.frame_names]
    if job.trace:
        files += [job.trace_folder(video.name) / f"{frame}.npz" for frame in video.frame_names]
    return content_digest(files)


def with_config(job: Job, model: STGNet, config: STGConfig) -> STGNet:
    """The same weights under other constants."""
    if job.checkpoint is None:
        return STGNet.untrained(config)
    variant = checkpoints.build_model(job.preset, config)
    variant.load_state_dict(model.state_dict(), strict=False)
    return variant


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
    world = distributed.world()
    videos = {video.name: video for video in videos_of(job)}
    records = Records(job.out / ".done", settings_of(job))
    job = dataclasses.replace(job, device=str(distributed.device_of_rank(torch.device(job.device))))
    mine = distributed.share({name: videos[name].num_frames for name in names}, world)
    todo = [name for name in mine if finished_result(job, records, videos[name]) is None]
    if len(todo) < len(mine):
        print(f"{len(mine) - len(todo)} of {len(mine)} videos are finished, see {records.folder}", file=sys.stderr)
    count = min(processes or distributed.processes_of_rank(job.device), len(todo))
    bar = tqdm(total=len(todo), desc="scoring", unit="video", dynamic_ncols=True, disable=world.rank > 0 or None)
    with bar:
        if count == 1 and world.size > 1:  # a process of its own would only cost its start
            for name in todo:
                record_video(job, records, name)
                bar.update()
        elif count:
            in_processes(record_video, [(job, records, name) for name in todo], count, bar)
    return records


def in_processes(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], count: int, bar: tqdm) -> None:
    """Calls a function with each of ``calls``, in ``count`` processes that end with this one; a call that fails ends
    what has not begun."""
    context, parent = get_context("spawn"), (os.getpid(),)
    with ProcessPoolExecutor(count, context, initializer=distributed.end_with_parent, initargs=parent) as pool:
        futures = [pool.submit(function, *call) for call in calls]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


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
    """The results of all videos, when all ranks have done their part.

    Args:
        folder: where the ranks are :func:`experiments.common.distributed.alive`; None: ``job.out``.

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
        row: name of the row.
        config: of the row.
        unseen: names of the unseen categories of YouTube-VOS; None: those that are known.
    """
    dataset = next(iter(results.values()))["dataset"]
    if any(result["annotated"] for result in results.values()):
        known = ("num_frames", "categories", "first_frame_of", "annotated")
        videos = [ScoredVideo(name, *(result[key] for key in known)) for name, result in results.items()]
        summary = dataset_scores(dataset, {n: result[row]["scores"] for n, result in results.items()}, videos, unseen)
    else:
        summary = nothing_to_score(dataset)
    frames, seconds = (sum(r["num_frames"] for r in results.values()), sum(r[row]["seconds"] for r in results.values()))
    online = [result["online_seconds"] for result in results.values()]
    summary["fps"] = frames / max(seconds, 1e-9)
    summary["online_seconds"] = sum(online) / len(online)
    if any("oracle" in result[row] for result in results.values()):
        summary["oracle"] = merge_oracles({name: result[row]["oracle"] for name, result in results.items()})
    summary["config"] = config.to_dict() if config is not None else {"propagation": "flow"}
    return summary
