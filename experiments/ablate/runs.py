"""Scores many configurations on the same videos: each one once, and online learning once a video for all of them."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch

from datasets.base import VideoSequence
from experiments.ablate.rows import Case, Source
from experiments.common import checkpoints, distributed
from experiments.runs.job import Job, learning_part, settings_of
from experiments.runs.learning import Learned, learned_once
from experiments.runs.rows import Row
from experiments.runs.scoring import collect, finished_result, in_processes, record_video, summarize_row, videos_of
from experiments.runs.settings import digest, plain
from experiments.runs.store import Records

ROW = "masks"


@dataclass(frozen=True)
class Setup:
    """What all configurations have in common."""

    args: argparse.Namespace
    sources: Mapping[str, Source]
    """By role: ``own``, and ``base`` and ``ytb`` if they are there."""
    split: str
    videos: tuple[str, ...]
    device: str
    online_steps: int
    """Of the full model and of the rows with OL; 0: none learns online."""
    notes: list[str]
    proposals: Path | None = None
    """From outside; none: the network of each row makes its own."""

    @property
    def seeds(self) -> list[int]:
        """Of online learning."""
        return self.args.seeds or [self.args.seed]


class Run(NamedTuple):
    """One configuration with one seed, and what is finished of it."""

    job: Job
    records: Records


def make_runs(setup: Setup, case: Case, frames: int | None) -> list[Run]:
    """One run for each seed of online learning, or a single one where nothing is learned.

    The folder of a run is named by what its results depend on, so equal configurations are the same run, and other
    options of the command do not touch what is finished.
    """
    args, source, config = setup.args, setup.sources[case.weights], case.config
    steps = setup.online_steps if case.online and config is not None else 0
    if config is not None:
        every = config.online.update_every if steps else 0
        config = config.replace({"online.steps": steps, "online.update_every": every})
    runs = []
    for seed in setup.seeds if steps else (None,):
        job = Job(
            checkpoint=source.path,
            preset=source.preset,
            split=setup.split,
            root=args.root,
            rows=(Row(ROW, "", config),),
            out=args.out,
            device=setup.device,
            seed=args.seed,
            online_steps=steps,
            proposals=setup.proposals,
            flow=args.flow,
            frames=frames,
            online_seed=seed,
        )
        job = replace(job, out=args.out / "runs" / digest(plain(job)))
        runs.append(Run(job, Records(job.out / ".done", settings_of(job))))
    return runs


def score_runs(runs: Iterable[Run], videos: Sequence[str], processes: int, out: Path) -> dict[Path, dict[str, Any]]:
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


def _score_share(runs: Sequence[Run], videos: Sequence[str], processes: int, out: Path) -> None:
    """This rank's part: what learns the same online on a video is done by one rank."""
    groups: dict[Path, list[Run]] = {}
    opened: dict[int | None, dict[str, VideoSequence]] = {}
    for run in runs:
        learned = out / "learned" / digest(plain(learning_part(run.job)))
        groups.setdefault(learned if run.job.online_steps else run.job.out, []).append(run)
        if run.job.frames not in opened:
            opened[run.job.frames] = {video.name: video for video in videos_of(run.job)}
    tasks = {f"{i}/{name}": (folder, name) for i, folder in enumerate(groups) for name in videos}
    lengths = {
        key: sum(opened[run.job.frames][name].num_frames for run in groups[folder])
        for key, (folder, name) in tasks.items()
    }
    device = str(distributed.device_of_rank(torch.device(runs[0].job.device)))
    lessons, todo = [], []
    for folder, name in map(tasks.__getitem__, distributed.share(lengths, distributed.world())):
        left = [r for r in groups[folder] if finished_result(r.job, r.records, opened[r.job.frames][name]) is None]
        for run in left:
            run.records.forget(name)
        lesson = None
        if left and left[0].job.online_steps:  # files are known by the frames, so all ask for the most
            longest = max((run.job for run in groups[folder]), key=lambda job: job.frames or float("inf"))
            lesson = replace(longest, device=device), name, folder
            lessons.append(lesson)
        todo += [(run._replace(job=replace(run.job, device=device)), name, lesson) for run in left]
    processes = processes or distributed.processes_of_rank(runs[0].job.device)
    for function, calls, desc in ((_learn, lessons, "learning"), (_score, todo, "scoring")):
        if calls:
            named = {str(i): call for i, call in enumerate(calls)}
            in_processes(function, named, min(processes, len(calls)), desc)


def _learn(job: Job, name: str, folder: Path) -> Learned:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    assert job.checkpoint is not None
    model, _ = checkpoints.load_model(job.checkpoint)
    return learned_once(folder, job, model, next(video for video in videos_of(job) if video.name == name))


def _score(run: Run, name: str, lesson: tuple[Job, str, Path] | None) -> None:
    record_video(run.job, run.records, name, None if lesson is None else _learn(*lesson))


def summarize_runs(runs: Sequence[Run], results: Mapping[Path, dict[str, Any]]) -> dict[str, Any]:
    """J, F and G of a configuration in percent: means over the seeds, with the deviation and G of every video."""
    config = runs[0].job.rows[0].config
    summaries = [summarize_row(results[run.job.out], ROW, run.job.rows[0].config) for run in runs]
    by_seed = [summary["G"] for summary in summaries]
    return {
        "J": _mean(summary["J"]["mean"] for summary in summaries),
        "F": _mean(summary["F"]["mean"] for summary in summaries),
        "G": _mean(by_seed),
        "G_by_seed": by_seed,
        "G_std": statistics.stdev(by_seed) if len(by_seed) > 1 else None,
        "sequences": {
            name: _mean(summary["sequences"][name]["G"] for summary in summaries) for name in summaries[0]["sequences"]
        },
        "seconds_per_frame": _mean(1 / summary["fps"] for summary in summaries),
        "online_seconds": _mean(summary["online_seconds"] for summary in summaries),
        "masks": [f"runs/{run.job.out.name}" for run in runs],
        "config": None if config is None else summaries[0]["config"],
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
