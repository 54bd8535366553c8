"""Ways to run the networks faster, each beside the plain one in the same run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from experiments.benchmark.clips import Clip, object_counts
from experiments.benchmark.streams import Stream, first_timed, run_in_turns, variant, warm_up
from experiments.presets import Preset
from stg_pyg.model import STGNet

PLAIN = "plain"
COMPILED = ("segmentation", "key_encoder", "feature_encoder")


def run_options(
    clip: Clip, model: STGNet, preset: Preset, objects: int, device: torch.device, compiles: bool = True
) -> list[dict[str, Any]]:
    """One row an option, with the network's own proposals.

    Returns:
        ``option``, ``objects``, ``ms`` a frame (mean), ``ratio`` of that to the plain run's, with the quartiles of the
        ratios of single frames, ``iou_with_plain`` (mean over frames and objects of the label maps),
        ``prepare_seconds`` (of compiling), and ``skipped``: why there is nothing else, or None.
    """
    (objects,) = object_counts(clip, [objects])
    streams, rows = make_streams(model, preset, compiles)
    prepared: dict[str, float] = {}
    usable = []
    for stream in streams:
        try:
            # Compiled code is made for the sizes that turn up, so all frames are seen once.
            warm_up([stream], clip, objects, device, len(clip.images) if stream.name == "compile" else 3)
        except Exception as error:
            if stream.name != "compile":
                raise
            rows.append(_skipped(stream.name, _first_line(error)))
            continue
        prepared[stream.name] = sum(stream.seconds)
        usable.append(stream)
    run_in_turns(usable, clip, objects, device)
    plain = usable[0]
    measured = [option_row(stream, plain, clip) for stream in usable]
    for row, stream in zip(measured, usable, strict=True):
        if stream.name == "compile":
            row["prepare_seconds"] = max(0.0, prepared[stream.name] - sum(stream.seconds))
    return [{**row, "objects": objects, "device": device.type} for row in [*measured, *rows]]


def make_streams(model: STGNet, preset: Preset, compiles: bool) -> tuple[list[Stream], list[dict[str, Any]]]:
    """The plain stream, then the options, and the rows of those that cannot be had."""

    def stream(name: str, changed: STGNet, mixed_precision: bool = False) -> Stream:
        return Stream(name, changed, preset.crop_size, mixed_precision=mixed_precision)

    skipped: list[dict[str, Any]] = []
    streams = [
        stream(PLAIN, variant(model, preset)),
        stream("plain again", variant(model, preset)),
        stream("channels last", variant(model, preset).to(memory_format=torch.channels_last)),
        stream("bfloat16 segmentation", variant(model, preset), True),
        stream("bfloat16 memory", variant(model, preset, memory_dtype="bfloat16")),
    ]
    if model.config.update_every:
        updated = variant(model, preset, update_every=model.config.update_every)
        streams.append(stream(f"updates every {model.config.update_every} frames", updated))
    if compiles:
        streams.append(stream("compile", compiled(variant(model, preset))))
    else:
        skipped.append(_skipped("compile", "left out by --quick"))
    return streams, skipped


def compiled(model: STGNet) -> STGNet:
    """A copy whose networks are compiled when they are first called, for any number of crops."""
    model = copy.deepcopy(model)
    for name in COMPILED:
        if getattr(model, name) is not None:
            setattr(model, name, torch.compile(getattr(model, name), dynamic=True))
    return model


def option_row(stream: Stream, plain: Stream, clip: Clip) -> dict[str, Any]:
    """The row of a stream that ran in turns with the plain one."""
    first = first_timed(plain.model.config, len(clip.images))
    seconds, base = np.array(stream.seconds[first:]), np.array(plain.seconds[first:])
    low, high = np.percentile(seconds / base, [25, 75]).tolist()
    return {
        "option": stream.name,
        "frames": len(seconds),
        "ms": 1e3 * float(seconds.mean()),
        "fps": 1 / float(seconds.mean()),
        "ratio": float(seconds.sum() / base.sum()),
        "ratio_low": low,
        "ratio_high": high,
        "iou_with_plain": mean_iou(stream.labels[1:], plain.labels[1:]),
        "prepare_seconds": None,
        "skipped": None,
    }


def mean_iou(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """Mean IoU of label maps over frames and the objects that either of them shows there; 1 where both show none."""
    values = []
    for a, b in zip(one, other, strict=True):
        ids = [i for i in np.union1d(a, b) if i]
        values += [float(np.sum((a == i) & (b == i)) / np.sum((a == i) | (b == i))) for i in ids]
    return float(np.mean(values)) if values else 1.0


def _first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:160]


def _skipped(name: str, reason: str) -> dict[str, Any]:
    names = ("frames", "ms", "fps", "ratio", "ratio_low", "ratio_high", "iou_with_plain", "prepare_seconds")
    return {"option": name, **dict.fromkeys(names), "skipped": reason}
