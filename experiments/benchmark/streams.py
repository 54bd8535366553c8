"""Videos that are segmented side by side, frame by frame in turns, with the time of every stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from experiments import checkpoints
from experiments.benchmark.clips import Clip
from experiments.presets import Preset
from stg_pyg.encoded import EncodedProposals
from stg_pyg.model import STGNet
from stg_pyg.proposals import Proposals
from stg_pyg.stages import timed_stages
from stg_pyg.stream import VideoSegmenter

GRAPH_STAGES = ("graph", "spatial", "selection", "temporal")
"""Stages of the graph layers: Eqs. 3-8 without the networks that compute features, keys and masks."""
REST = "rest"


@dataclass
class Stream:
    """One way to segment a clip, and what it took."""

    name: str
    model: STGNet
    crop_size: int
    stored: Sequence[EncodedProposals | None] | None = None
    """Proposals by frame; None: the network makes its own."""
    mixed_precision: bool = False
    seconds: list[float] = field(default_factory=list)
    """Of every frame."""
    stages: list[dict[str, float]] = field(default_factory=list)
    """Seconds by stage of every frame; ``rest`` makes up the sum."""
    labels: list[np.ndarray] = field(default_factory=list)
    proposals: list[EncodedProposals | None] = field(default_factory=list)
    """By frame what the graphs were built from."""
    nodes: list[int] = field(default_factory=list)

    def start(self, device: torch.device) -> VideoSegmenter:
        """Forgets what was measured and begins anew."""
        for measured in (self.seconds, self.stages, self.labels, self.proposals, self.nodes):
            measured.clear()
        self.model.to(device)
        return VideoSegmenter(self.model, crop_size=self.crop_size, mixed_precision=self.mixed_precision)


def variant(model: STGNet, preset: Preset, **changes: Any) -> STGNet:
    """A copy of a model under other constants, without updates while the video runs unless they are asked for."""
    changed = checkpoints.build_model(preset, model.config.with_options(**{"update_every": 0, **changes}))
    changed.load_state_dict(model.state_dict(), strict=False)
    return changed.eval()


def run_in_turns(streams: Sequence[Stream], clip: Clip, objects: int, device: torch.device) -> None:
    """Segments the clip with all streams, each frame by one after the other in changing order."""
    segmenters = [stream.start(device) for stream in streams]
    for t in range(len(clip.images)):
        turn = list(zip(streams, segmenters, strict=True))
        for stream, segmenter in turn if t % 2 == 0 else reversed(turn):
            _step(stream, segmenter, clip, t, objects, device)


def warm_up(streams: Sequence[Stream], clip: Clip, objects: int, device: torch.device, frames: int = 3) -> None:
    """Segments the first frames, so that caches and kernels are ready."""
    run_in_turns(streams, Clip(clip.name, clip.source, clip.images[:frames], clip.labels), objects, device)


def first_timed(config: Any, frames: int) -> int:
    """The frame from which on times count: when all gaps of the history are there, but at most half of the frames."""
    return max(1, min(max(config.gaps), frames // 2))


def _step(stream: Stream, segmenter: VideoSegmenter, clip: Clip, t: int, objects: int, device: torch.device) -> None:
    stored = None if stream.stored is None else stream.stored[t]
    masks = clip.given(objects) if t == 0 else None
    with torch.no_grad(), timed_stages(device) as times:
        started = _now(device)
        result = segmenter.step(clip.images[t], stored, masks)
        elapsed = _now(device) - started
    stages = {name: seconds for name, seconds in times.seconds.items() if name != "frame"}
    stream.seconds.append(elapsed)
    stream.stages.append({**stages, REST: elapsed - sum(stages.values())})
    stream.labels.append(result.labels.numpy())
    used = None if result.frame is None else Proposals.cat(result.frame.proposals)
    stream.nodes.append(0 if used is None else len(used))
    stream.proposals.append(None if used is None or stream.stored is not None else _encoded(used))


def _encoded(proposals: Proposals) -> EncodedProposals:
    """As ``experiments.proposals`` stores them: boxes without extent are dropped."""
    proposals = proposals.to("cpu")
    return EncodedProposals.from_proposals(
        proposals.select((proposals.boxes[:, 2:] > proposals.boxes[:, :2]).all(dim=1))
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
