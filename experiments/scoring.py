"""Runs models over videos, one process a core, and scores what was written."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from datasets.base import VideoSequence
from experiments import checkpoints, cli
from experiments.oracle import OracleScores, merge_oracles
from experiments.presets import Preset, open_split
from experiments.rows import Row
from stg_pyg.coco import open_proposals
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.flow import FlowEstimator, flow_between, flow_for_sequence, resolve_flow, warp
from stg_pyg.io import overlay, read_label_map, write_image, write_label_map
from stg_pyg.metrics import score_sequence, summarize
from stg_pyg.model import STGNet
from stg_pyg.online import learn_online
from stg_pyg.stream import VideoSegmenter


@dataclasses.dataclass(frozen=True)
class Job:
    """What a process needs to score sequences; small enough to be sent."""

    checkpoint: Path | None
    """None: no learned part, for proposals from outside."""
    preset: Preset
    split: str
    root: Path | None
    rows: tuple[Row, ...]
    out: Path
    """Masks of row r go to ``out``/r, or to ``out`` itself if there is one row only."""
    device: str
    seed: int
    overlays: bool = False
    online_steps: int | None = None
    """Steps of online learning; none: those of the checkpoint."""
    proposals: Path | None = None
    """Proposals from outside."""
    flow: str = "dis"
    """Source of flow, for :func:`stg_pyg.flow.resolve_flow`."""
    oracle: bool = False
    """Also score the best proposal and the best fusion of each frame."""

    def folder(self, row: Row, sequence: str) -> Path:
        return self.out / sequence if len(self.rows) == 1 else self.out / row.name / sequence


def given_masks(video: VideoSequence) -> dict[int, np.ndarray]:
    """By frame, the label map of the objects that first appear there: what semi-supervised segmentation is given."""
    given: dict[int, np.ndarray] = {}
    for obj_id, t in video.first_frame_of.items():
        labels = video.labels(t)
        assert labels is not None
        given.setdefault(t, np.zeros_like(labels))[labels == obj_id] = obj_id
    return given


def run_row(job: Job, row: Row, video: VideoSequence, model: STGNet | None, oracle: OracleScores | None) -> float:
    """Writes the masks of one row for one video; returns the seconds that took, reading and writing apart."""
    folder = job.folder(row, video.name)
    folder.mkdir(parents=True, exist_ok=True)
    given = given_masks(video)
    flow = flow_for_sequence(resolve_flow(job.flow, device=job.device), video.name, video.frame_names)
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
    stream = VideoSegmenter(model, flow, job.preset.crop_size, mixed_precision, first_frame=first)
    source = open_proposals(job.proposals) if job.proposals is not None else None
    if source is not None:
        source.check(video.name, video.frame_names)
    for t in range(video.num_frames):
        image = video.image(t)
        if t < first:
            yield np.zeros(image.shape[:2], np.uint8)
            continue
        proposals = None if source is None else source.frame(video.name, video.frame_names[t], image.shape[:2])
        with torch.no_grad():
            result = stream.step(image, proposals, given.get(t))
        if oracle is not None and 0 < t < video.num_frames - 1:
            oracle.add(result, video.labels(t), model.config.thr)
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


def score_folder(folder: Path, video: VideoSequence) -> dict[int, Any]:
    """J and F of the masks in a folder against the annotations of a video."""

    def read(name: str) -> np.ndarray:
        labels = read_label_map(folder / f"{name}.png")
        if labels.shape != video.size:
            size, wanted = (f"{w} x {h}" for h, w in (labels.shape, video.size))
            raise InputError(f"{folder / name}.png: is {size} pixels and the frame {wanted}; write masks at full size")
        return labels

    frames = (read(name) for name in video.frame_names)
    return score_sequence(frames, (video.labels(t) for t in range(video.num_frames)), list(video.first_frame_of))


def score_video(job: Job, name: str) -> dict[str, Any]:
    """All rows of one video: {row: {"scores", "seconds"}} and the seconds of online learning.

    Runs in a process of its own with one thread, so that results do not depend on how many run beside it.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    video = next(v for v in open_split(job.preset, job.split, job.root, job.seed) if v.name == name)
    if job.checkpoint is not None:
        model, _ = checkpoints.load_model(job.checkpoint)
    else:
        model = checkpoints.untrained_model(job.preset.name)
    device = torch.device(job.device)
    config, segmentation = model.config, model.segmentation
    steps = config.online_steps if job.online_steps is None else job.online_steps
    started = time.perf_counter()
    if steps and segmentation is not None and any(row.config for row in job.rows):
        t, first = next(iter(sorted(given_masks(video).items())))
        segmentation = learn_online(
            segmentation,
            video.image(t),
            first,
            job.preset.lucid,
            steps=steps,
            batch_size=job.preset.online_batch_size,
            peak=job.preset.online_learning_rate,
            device=device,
            mixed_precision=cli.bfloat16_is_fast(device),
            seed=zlib.crc32(name.encode()) ^ job.seed,
        )
    result: dict[str, Any] = {"online_seconds": time.perf_counter() - started, "num_frames": video.num_frames}
    for row in job.rows:
        variant = None
        if row.config is not None:
            variant = with_config(job, model, row.config)
            variant.segmentation = segmentation
            variant.to(device).eval()
        oracle = OracleScores() if job.oracle and variant is not None else None
        seconds = run_row(job, row, video, variant, oracle)
        result[row.name] = {"scores": score_folder(job.folder(row, name), video), "seconds": seconds}
        if oracle is not None:
            result[row.name]["oracle"] = oracle.summary()
    return result


def with_config(job: Job, model: STGNet, config: STGConfig) -> STGNet:
    """The same weights under other constants."""
    if job.checkpoint is None:
        return STGNet.untrained(config)
    variant = checkpoints.build_model(job.preset, config)
    variant.load_state_dict(model.state_dict(), strict=False)
    return variant


def _end_with_parent(parent: int) -> None:
    """Ends this process soon after its parent, also when that was killed, so that none goes on writing."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def score_videos(job: Job, names: Sequence[str], processes: int = 0) -> dict[str, dict[str, Any]]:
    """:func:`score_video` of all names, ``processes`` at a time (0: one a core on the CPU, one on a GPU)."""
    count = processes or (1 if job.device != "cpu" else os.cpu_count() or 1)
    results: dict[str, dict[str, Any]] = {}
    context = get_context("spawn")
    pool = ProcessPoolExecutor(min(count, len(names)), context, initializer=_end_with_parent, initargs=(os.getpid(),))
    bar = tqdm(total=len(names), desc="scoring", unit="video", dynamic_ncols=True, disable=None)
    with pool, bar:
        futures = {pool.submit(score_video, job, name): name for name in names}
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            bar.update()
    return {name: results[name] for name in names}


def summarize_row(results: dict[str, dict[str, Any]], row: str, config: STGConfig | None) -> dict[str, Any]:
    """The content of ``metrics.json`` for one row of :func:`score_videos`."""
    summary = summarize({name: result[row]["scores"] for name, result in results.items()})
    frames, seconds = (sum(r["num_frames"] for r in results.values()), sum(r[row]["seconds"] for r in results.values()))
    online = [result["online_seconds"] for result in results.values()]
    summary["fps"] = frames / max(seconds, 1e-9)
    summary["online_seconds"] = sum(online) / len(online)
    if any("oracle" in result[row] for result in results.values()):
        summary["oracle"] = merge_oracles({name: result[row]["oracle"] for name, result in results.items()})
    summary["config"] = config.to_dict() if config is not None else {"propagation": "flow"}
    return summary
