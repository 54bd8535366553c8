"""Scores many configurations on the same videos: each one once, and online learning once a video for all of them."""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import cv2
import torch
from tqdm import tqdm

from datasets.base import VideoSequence
from experiments.ablate.rows import Case, Source
from experiments.common import checkpoints, distributed
from experiments.runs.job import Job, learning_part, settings_of
from experiments.runs.learned import learned_once
from experiments.runs.rows import Row
from experiments.runs.scoring import collect, finished_result, record_video, summarize_row, videos_of
from experiments.runs.settings import digest, plain
from experiments.runs.store import Records

ROW = "masks"
REFRESH_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all configurations have in common."""

    sources: Mapping[str, Source]
    """By role: ``own``, and ``base`` and ``ytb`` if they are there."""
    split: str
    root: Path | None
    videos: tuple[str, ...]
    out: Path
    device: str
    seed: int
    online_steps: int
    """Of the full model and of the rows with OL; 0: none learns online."""
    online_seeds: tuple[int, ...]
    flow: str
    frames: int | None
    """First frames of each video that are taken; None: all."""
    curve_frames: int | None
    """The same for curves."""
    as_printed: bool
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Run:
    """One configuration with one seed, and what is finished of it."""

    job: Job
    records: Records

    def is_recorded(self, video: str) -> bool:
        return (self.records.folder / f"{video}.json").is_file()


@dataclasses.dataclass(frozen=True)
class Task:
    """Runs on one video that share their online learning; done by one process, one after the other."""

    video: str
    runs: tuple[Run, ...]
    learned: Path
    """Folder of what they learn online, from which later runs take it."""


def make_runs(setup: Setup, case: Case, frames: int | None) -> list[Run]:
    """One run for each seed of online learning, or a single one where nothing is learned.

    The folder of a run is named by what its results depend on, so equal configurations are the same run, and other
    options of the command do not touch what is finished.
    """
    steps = setup.online_steps if case.online and case.config is not None else 0
    source = setup.sources[case.weights]
    config = case.config
    if config is not None:
        config = config.replace(
            {"online.steps": steps, "online.update_every": config.online.update_every if steps else 0}
        )
    runs = []
    for seed in setup.online_seeds if steps else (None,):
        job = Job(
            checkpoint=source.path,
            preset=source.preset,
            split=setup.split,
            root=setup.root,
            rows=(Row(ROW, "", config),),
            out=setup.out,
            device=setup.device,
            seed=setup.seed,
            online_steps=steps,
            flow=setup.flow,
            frames=frames,
            online_seed=seed,
        )
        job = dataclasses.replace(job, out=setup.out / "runs" / digest(plain(job)))
        runs.append(Run(job, Records(job.out / ".done", settings_of(job))))
    return runs


def score_runs(runs: Sequence[Run], videos: Sequence[str], processes: int, out: Path) -> dict[Path, dict[str, Any]]:
    """Scores all runs on the videos, and returns the results by folder of the run, as :func:`summarize_row` takes them.

    What is finished is taken over. Under torchrun every rank does its part; rank 0 returns the results of all.

    Raises:
        SystemExit: with status 0 on the other ranks, when their part is done.
    """
    unique = list({run.job.out: run for run in runs}.values())
    with distributed.alive(out):
        _score_share(unique, videos, processes, out)
        if distributed.world().rank > 0:
            raise SystemExit(0)
        return {run.job.out: collect(run.job, videos, run.records, out) for run in unique}


def group_runs(runs: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Runs that learn the same online are together; those that do not learn are alone."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        job = run.job
        key = digest(plain(learning_part(job))) if job.online_steps else job.out
        groups.setdefault(key, []).append(run)
    return [tuple(group) for group in groups.values()]


def _score_share(runs: Sequence[Run], videos: Sequence[str], processes: int, out: Path) -> None:
    world = distributed.world()
    by_frames: dict[int | None, dict[str, VideoSequence]] = {}
    for run in runs:
        if run.job.frames not in by_frames:
            by_frames[run.job.frames] = {video.name: video for video in videos_of(run.job)}
    groups = [(group, learned_folder(out, group[0])) for group in group_runs(runs)]
    tasks = {f"{i}/{v}": Task(v, group, folder) for i, (group, folder) in enumerate(groups) for v in videos}
    lengths = {
        name: sum(by_frames[run.job.frames][task.video].num_frames for run in task.runs) for name, task in tasks.items()
    }
    todo = []
    for name in distributed.share(lengths, world):
        task = tasks[name]
        video, group = task.video, task.runs
        left = [r for r in group if finished_result(r.job, r.records, by_frames[r.job.frames][video]) is None]
        for run in left:
            run.records.forget(video)
        if left:
            todo.append(dataclasses.replace(task, runs=tuple(_on_device_of_rank(run) for run in left)))
    if todo:
        _score_in_processes(todo, processes or distributed.processes_of_rank(runs[0].job.device), world.rank > 0)


def learned_folder(out: Path, run: Run) -> Path:
    """Where the networks are kept that a run has in common with others that learn the same online."""
    return out / "learned" / digest(plain(learning_part(run.job)))


def _on_device_of_rank(run: Run) -> Run:
    device = str(distributed.device_of_rank(torch.device(run.job.device)))
    return dataclasses.replace(run, job=dataclasses.replace(run.job, device=device))


def _score_in_processes(tasks: Sequence[Task], processes: int, quiet: bool) -> None:
    context, parent = get_context("spawn"), (os.getpid(),)
    units = [(run, task.video) for task in tasks for run in task.runs]
    bar = tqdm(total=len(units), desc="scoring", unit="run", dynamic_ncols=True, disable=quiet or None)
    count = min(processes, len(tasks))
    with bar, ProcessPoolExecutor(count, context, initializer=distributed.end_with_parent, initargs=parent) as pool:
        futures = {pool.submit(run_task, task) for task in tasks}
        try:
            while futures:
                finished, futures = wait(futures, REFRESH_SECONDS, FIRST_COMPLETED)
                for future in finished:
                    future.result()
                bar.update(sum(run.is_recorded(video) for run, video in units) - bar.n)
        except BaseException:
            for future in futures:
                future.cancel()
            for child in active_children():  # a task has many runs; what is recorded of them stays
                child.terminate()
            raise


def run_task(task: Task) -> None:
    """Scores the runs of a task; each is recorded as soon as it is done."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    learned = None
    if task.runs[0].job.online_steps:
        job = max((run.job for run in task.runs), key=lambda job: float("inf") if job.frames is None else job.frames)
        assert job.checkpoint is not None
        model, _ = checkpoints.load_model(job.checkpoint)
        video = next(video for video in videos_of(job) if video.name == task.video)
        learned = learned_once(task.learned, job, model, video)
    for run in task.runs:
        record_video(run.job, run.records, task.video, learned)


def summarize_runs(runs: Sequence[Run], results: Mapping[Path, dict[str, Any]]) -> dict[str, Any]:
    """J, F and G of a configuration in percent: means over the seeds, with the deviation and G of every video."""
    summaries = [summarize_row(results[run.job.out], ROW, run.job.rows[0].config) for run in runs]
    by_seed = [summary["G"] for summary in summaries]
    return {
        "J": _mean([summary["J"]["mean"] for summary in summaries]),
        "F": _mean([summary["F"]["mean"] for summary in summaries]),
        "G": _mean(by_seed),
        "G_by_seed": by_seed,
        "G_std": statistics.stdev(by_seed) if len(by_seed) > 1 else None,
        "sequences": {
            name: _mean([summary["sequences"][name]["G"] for summary in summaries])
            for name in summaries[0]["sequences"]
        },
        "seconds_per_frame": _mean([1 / summary["fps"] for summary in summaries]),
        "online_seconds": _mean([summary["online_seconds"] for summary in summaries]),
        "masks": [f"runs/{run.job.out.name}" for run in runs],
        "config": None if runs[0].job.rows[0].config is None else summaries[0]["config"],
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
