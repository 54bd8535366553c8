"""Scores masks that are stored, several videos at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
from tqdm import tqdm

from datasets.base import VideoSequence
from experiments.common.distributed import end_with_parent
from experiments.runs.scoring import score_folder
from stg_pyg.evaluation.metrics import ObjectScores
from stg_pyg.evaluation.protocols import scored_frames
from stg_pyg.evaluation.submission import check_stored_masks

Result = tuple[dict[int, ObjectScores], set[int]]
"""The scores of a video, and the ids in its masks that are of no object."""
_shared: tuple[Path, Sequence[VideoSequence], str] | None = None
"""Of a process of the pool: the folder, the videos and the data set."""


def score_stored(
    folder: Path,
    videos: Sequence[VideoSequence],
    dataset: str,
    processes: int = 0,
    foreign: dict[str, set[int]] | None = None,
) -> dict[str, dict[int, ObjectScores]]:
    """J and F of ``<folder>/<video>`` for all videos, ``processes`` at a time (0: one a core).

    Ids in masks that are of no object go into ``foreign``, by video.

    Raises:
        InputError: a mask is missing, unreadable or of another size.
    """
    check_stored_masks(folder, videos, partial(scored_frames, dataset))
    count = min(processes or _cores(), len(videos))
    bar = tqdm(total=len(videos), desc="scoring", unit="video", dynamic_ncols=True, disable=None)
    with bar:
        if count > 1:
            results = _score_in_processes(folder, videos, dataset, count, bar)
        else:
            results = {}
            for video in videos:
                results[video.name] = _score(folder, video, dataset)
                bar.update()
    if foreign is not None:
        foreign.update({name: ids for name, (_, ids) in results.items() if ids})
    return {name: scores for name, (scores, _) in results.items()}


def _score_in_processes(
    folder: Path, videos: Sequence[VideoSequence], dataset: str, count: int, bar: tqdm
) -> dict[str, Result]:
    # Importing PyTorch anew takes longer than scoring a small split, so a process is a copy where that is safe. It is
    # without threads only: a copy of OpenCV's would wait for ever.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return _score_in_pool(folder, videos, dataset, count, bar)
    finally:
        cv2.setNumThreads(threads)


def _score_in_pool(
    folder: Path, videos: Sequence[VideoSequence], dataset: str, count: int, bar: tqdm
) -> dict[str, Result]:
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    results: dict[str, Result] = {}
    arguments = (os.getpid(), folder, videos, dataset)
    with ProcessPoolExecutor(count, context, initializer=_start, initargs=arguments) as pool:
        longest_first = sorted(range(len(videos)), key=lambda k: -videos[k].num_frames)
        futures = {pool.submit(_score_one, k): videos[k].name for k in longest_first}
        try:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {video.name: results[video.name] for video in videos}


def _start(parent: int, folder: Path, videos: Sequence[VideoSequence], dataset: str) -> None:
    global _shared
    _shared = folder, videos, dataset
    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)
    end_with_parent(parent)


def _score_one(k: int) -> Result:
    assert _shared is not None
    folder, videos, dataset = _shared
    return _score(folder, videos[k], dataset)


def _score(folder: Path, video: VideoSequence, dataset: str) -> Result:
    foreign: set[int] = set()
    return score_folder(folder / video.name, video, dataset, foreign), foreign


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
