"""J, F and G of every layer on a split, all else equal, beside the time of its stage."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from datasets.first_frames import first_frames
from experiments.benchmark.frames import Stream, measure_streams
from experiments.benchmark.measure import Row
from experiments.benchmark.videos import Setup, ids_of
from experiments.common import cli
from experiments.common.layers_option import check_layers
from experiments.runs import rows
from experiments.runs.job import Job
from experiments.runs.scoring import score_videos, summarize_row
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError

STEPS = (1, 2, 3)
Candidate = tuple[str, str, int | None, STGConfig]
"""``spatial`` or ``temporal``, which is the stage that is timed, too; the layer; l; all else as in the checkpoint."""


def find_candidates(config: STGConfig, spatial: Sequence[str], temporal: Sequence[str]) -> list[Candidate]:
    """The layers by name, ``stg`` with several l, and none of the kind."""

    def candidate(part: str, layer: str, steps: int | None = None, **options: Any) -> Candidate:
        if layer != "off":
            options["conv"] = layer
        options["enabled"] = layer != "off"
        return part, layer, steps, config.replace({f"{part}.{name}": value for name, value in options.items()})

    found = [candidate("spatial", "off"), *(candidate("spatial", "stg", n, num_steps=n) for n in STEPS)]
    found += [candidate("spatial", name) for name in spatial]
    return [*found, *(candidate("temporal", name) for name in ("off", *temporal))]


def run_scores(
    setup: Setup, args: argparse.Namespace, device: torch.device, spatial: Sequence[str], temporal: Sequence[str]
) -> dict[str, list[Row]]:
    """``scores`` of ``benchmark.json``: J, F and G in percent; ``ms`` of the stage and ``frame_ms`` of everything, both
    of a frame of the first video, whose first frames all layers segment in turns.

    The masks are in ``OUT/scores``; a video that is finished is not done again. Online learning takes place once a
    video for all layers.
    """
    config = setup.model.config
    if setup.preset.test_alpha is not None:
        config = config.replace("spatial.alpha", setup.preset.test_alpha)
    steps = config.online.steps if args.online_steps is None else args.online_steps
    config = cli.with_updates(config.replace("online.steps", steps), None, steps)
    candidates = find_candidates(config, spatial, temporal)
    reasons = [why_not(setup, one[-1]) for one in candidates]
    usable = [one for one, reason in zip(candidates, reasons, strict=True) if reason is None]
    names = {one[-1]: f"{one[0]}-{one[1]}-{one[2] or ''}".rstrip("-") for one in reversed(usable)}  # the same one once
    scored = tuple(rows.Row(name, "", changed) for changed, name in names.items())
    where = (args.root, scored, args.out / "scores", device.type, args.seed)
    job = Job(setup.checkpoint, setup.preset, setup.split, *where, online_steps=steps, frames=args.frames)
    results = score_videos(job, [video.name for video in setup.videos], args.processes or 0)
    (video,) = first_frames(setup.videos[:1], setup.frames)
    streams = [Stream(name, setup, changed) for changed, name in names.items()]
    times = {row["run"]: row for row in measure_streams(streams, video, len(ids_of(video.labels(0))), device)}
    found = []
    for (part, layer, l_steps, changed), reason in zip(candidates, reasons, strict=True):
        row: Row = {"part": part, "layer": layer, "steps": l_steps, "own": changed == config, "skipped": reason}
        row |= dict.fromkeys(("J", "F", "G", "ms", "frame_ms"))
        if reason is None:
            summary, took = summarize_row(results, names[changed], changed), times[names[changed]]
            row |= {"J": summary["J"]["mean"], "F": summary["F"]["mean"], "G": summary["G"]}
            row |= {"ms": took["stages"].get(part, 0.0), "frame_ms": took["ms"]}
        row |= {"device": device.type, "split": setup.split, "videos": len(setup.videos), "online_steps": steps}
        found.append(row)
    return {"scores": found}


def why_not(setup: Setup, config: STGConfig) -> str | None:
    """Why the checkpoint cannot be scored under a configuration: it has no weights of a layer."""
    try:
        check_layers(setup.model, config, setup.checkpoint)
    except InputError as error:
        return str(error)
    return None
