"""Frames a second by stage, with the network's own proposals and with stored ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from experiments.benchmark.clips import Clip, object_counts
from experiments.benchmark.streams import GRAPH_STAGES, Stream, first_timed, run_in_turns, variant, warm_up
from experiments.presets import Preset
from stg_pyg.model import STGNet

STORED = {"own_evidence": False, "min_mask_iou": 0.0, "assemble": 1.0}
"""Constants for proposals from outside alone: every one goes to the object whose box it meets most, as in the paper."""


def run_frames(
    clip: Clip, model: STGNet, preset: Preset, counts: Sequence[int], device: torch.device
) -> list[dict[str, Any]]:
    """One row for each number of objects and source of proposals, see :func:`frame_row`.

    ``own``: the segmentation network makes the proposals. ``stored``: those that it has made in a run before, encoded
    as ``experiments.proposals`` stores them, come from outside; the network does not run. Both take turns.
    """
    rows = []
    for objects in object_counts(clip, counts):
        own = Stream("own", variant(model, preset), preset.crop_size)
        run_in_turns([own], clip, objects, device)
        stored = Stream("stored", variant(model, preset, **STORED), preset.crop_size, list(own.proposals))
        warm_up([stored], clip, objects, device)
        run_in_turns([own, stored], clip, objects, device)
        rows += [frame_row(stream, clip, objects, device) for stream in (own, stored)]
    return rows


def frame_row(stream: Stream, clip: Clip, objects: int, device: torch.device) -> dict[str, Any]:
    """Means over the timed frames of one stream.

    Returns:
        ``proposals`` (the name of the stream), ``objects``, ``nodes`` a frame, ``frames``, ``ms`` with its quartiles
        over the frames, ``fps``, ``stages`` in ms a frame, and ``graph_share``, the share of :data:`GRAPH_STAGES`.
    """
    first = first_timed(stream.model.config, len(clip.images))
    seconds, stages = stream.seconds[first:], stream.stages[first:]
    names = dict.fromkeys(name for frame in stages for name in frame)
    mean = {name: 1e3 * float(np.mean([frame.get(name, 0.0) for frame in stages])) for name in names}
    low, high = (1e3 * np.percentile(seconds, [25, 75])).tolist()
    total = 1e3 * float(np.mean(seconds))
    height, width = clip.labels.shape
    return {
        "proposals": stream.name,
        "device": device.type,
        "objects": objects,
        "nodes": float(np.mean(stream.nodes[first:])),
        "height": height,
        "width": width,
        "frames": len(seconds),
        "ms": total,
        "ms_low": low,
        "ms_high": high,
        "fps": 1e3 / total,
        "stages": dict(sorted(mean.items(), key=lambda item: -item[1])),
        "graph_share": sum(mean.get(name, 0.0) for name in GRAPH_STAGES) / total,
    }
