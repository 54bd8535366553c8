"""The parts of a run that need a video: times of whole frames, and scores of layers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from datasets.base import VideoSequence
from experiments import checkpoints, cli, distributed
from experiments.benchmark.clips import Clip, clip_of_split, synthetic_clip
from experiments.benchmark.frames import run_frames
from experiments.benchmark.layer_scores import find_candidates, score_layers
from experiments.benchmark.options import run_options
from experiments.benchmark.plan import Plan
from experiments.jobs import Job
from experiments.layers_option import exchanged
from experiments.presets import Preset, open_split
from stg_pyg.errors import InputError
from stg_pyg.model import STGNet
from stg_pyg.protocols import check_categories, has_annotations


@dataclass
class VideoSetup:
    """What is run, checked before anything slow begins."""

    checkpoint: Path
    model: STGNet
    preset: Preset
    split: str
    root: Path | None
    frames: int | None
    """Frames of a video; None: those of the plan for times, all for scores."""
    videos: list[VideoSequence]
    """Of the split, if it is opened."""


def make_video_setup(args: argparse.Namespace, scores: bool) -> VideoSetup:
    """The checkpoint and the split.

    Raises:
        InputError: one of them cannot be read, or the split has nothing to be scored.
    """
    checkpoint = args.checkpoint or checkpoints.SHIPPED
    model, preset = checkpoints.load_model(checkpoint)
    if model.segmentation is None:
        raise InputError(f"{checkpoint}: has no segmentation network to make proposals; take another checkpoint")
    split = args.split or preset.val_split
    videos: list[VideoSequence] = []
    if scores or args.root is not None:
        videos = open_split(preset, split, args.root, args.seed)
        if not videos:
            raise InputError(f"--split {split}: has no videos; choose another one")
    if scores:
        if not has_annotations(videos):
            raise InputError(f"--split {split}: leaves no annotation to score; choose another split")
        check_categories(preset.dataset, videos)
    return VideoSetup(checkpoint, model, preset, split, args.root, args.frames, videos)


def measure_frames(setup: VideoSetup, plan: Plan, devices: Sequence[torch.device], seed: int) -> dict[str, Any]:
    """``frames`` and ``options`` of ``benchmark.json``."""
    clip, model = _clip(setup, plan, seed), _model(setup, plan)
    result: dict[str, Any] = {"frames": [], "options": []}
    with tqdm(total=2 * len(devices), desc="frames", unit="group", dynamic_ncols=True) as bar:
        for device in devices:
            result["frames"] += run_frames(clip, model, setup.preset, plan.frame_objects, device)
            bar.update()
            arguments = (plan.option_objects, device, plan.compiles)
            result["options"] += run_options(clip, model, setup.preset, *arguments)
            bar.update()
    where = {"clip": clip.name, "source": clip.source, "checkpoint": setup.checkpoint.name}
    return {key: [row | where for row in rows] for key, rows in result.items()}


def _model(setup: VideoSetup, plan: Plan) -> STGNet:
    """The model with the layers of the plan; what they have not learned takes no other time."""
    names = {"spatial_conv": plan.spatial_layers, "temporal_conv": plan.temporal_layers}
    changes = {key: layers[0] for key, layers in names.items() if layers}
    return exchanged(setup.model, setup.preset, setup.model.config.with_options(**changes)) if changes else setup.model


def _clip(setup: VideoSetup, plan: Plan, seed: int) -> Clip:
    frames, objects = setup.frames or plan.frames, max(plan.frame_objects)
    if setup.root is None:
        return synthetic_clip(frames, plan.frame_size, objects, seed)
    return clip_of_split(setup.videos, setup.split, frames, objects, seed)


def measure_scores(
    setup: VideoSetup, plan: Plan, device: torch.device, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """``scores`` of ``benchmark.json``."""
    config = setup.model.config
    if setup.preset.test_alpha is not None:
        config = config.with_options(alpha=setup.preset.test_alpha)
    steps = config.online_steps if args.online_steps is None else args.online_steps
    config = cli.with_updates(config.with_options(online_steps=steps), None, steps)
    job = Job(
        checkpoint=setup.checkpoint,
        preset=setup.preset,
        split=setup.split,
        root=setup.root,
        rows=(),
        out=args.out,
        device=device.type,
        seed=args.seed,
        online_steps=steps,
        frames=setup.frames,
    )
    names = [video.name for video in setup.videos]
    processes = args.processes or distributed.processes_of_rank(device.type)
    candidates = find_candidates(config, plan.spatial_layers, plan.temporal_layers)
    rows = score_layers(job, names, config, min(processes, len(names)), candidates)
    where = {"split": setup.split, "videos": len(setup.videos), "online_steps": steps}
    return [row | where for row in rows]
