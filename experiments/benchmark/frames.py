"""Frames a second by stage: several ways to segment a video, frame by frame in turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.benchmark import timer
from tqdm import tqdm

from datasets.base import VideoSequence
from experiments.benchmark.measure import Row
from experiments.benchmark.videos import Setup, ids_of
from experiments.common import checkpoints
from stg_pyg.config import STGConfig
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.utils.timing import timed_stages
from stg_pyg.video.segmenter import VideoSegmenter

GRAPH_STAGES = ("graph", "spatial", "selection", "temporal")
"""Stages of the graph layers: Eqs. 3-8 without the networks that compute features, keys and masks."""
STORED = {"proposals.own_evidence": False, "assignment.min_mask_iou": 0.0, "assignment.assemble": 1.0}
"""Constants for proposals from outside alone: every one goes to the object whose box it meets most, as in the paper."""


class Frame(NamedTuple):
    """What one frame took, and what the graphs were built from, as ``experiments.proposals`` stores it."""

    seconds: float
    stages: dict[str, float]
    labels: np.ndarray
    nodes: int
    proposals: EncodedProposals | None


class Stream:
    """One way to segment a video, without updates while it runs, and what it took.

    Args:
        name: of its row.
        setup: the networks.
        config: constants.
        stored: proposals by frame; None: the network makes its own.
    """

    def __init__(
        self, name: str, setup: Setup, config: STGConfig, stored: Sequence[EncodedProposals | None] | None = None
    ) -> None:
        self.name, self.stored = name, stored
        self.frames: list[Frame] = []
        self.model = checkpoints.build_model(setup.preset, config.replace("online.update_every", 0)).eval()
        self.model.load_state_dict(setup.model.state_dict(), strict=False)

    @property
    def timed(self) -> list[Frame]:
        """The frames whose times count: those with all gaps of the history, or else the second half."""
        return self.frames[max(1, min(max(self.model.config.warping.gaps), len(self.frames) // 2)) :]


def play(streams: Sequence[Stream], video: VideoSequence, objects: int, device: torch.device, frames: int) -> None:
    """Segments the first frames with all streams, each frame by one after the other, in changing order.

    The objects are the first ones of the first frame; the others are background.
    """
    turn = [(one, VideoSegmenter(one.model.to(device), crop_size=one.model.crop_size)) for one in streams]
    for stream in streams:
        stream.frames = []
    labels = np.asarray(video.labels(0))
    given = np.where(np.isin(labels, ids_of(labels)[:objects]), labels, 0)
    for t in range(min(frames, video.num_frames)):
        image = video.image(t)
        for stream, segmenter in turn:
            stored = None if stream.stored is None else stream.stored[t]
            with torch.no_grad(), timed_stages(device) as times:
                started = timer()
                result = segmenter.step(image, stored, None if t else given)
                seconds = timer() - started
            stages = {name: value for name, value in times.seconds.items() if name != "frame"}
            stages["rest"] = seconds - sum(stages.values())
            nodes, encoded = 0, None
            if result.frame is not None:
                used = Proposals.cat(result.frame.proposals).to("cpu")
                nodes, extent = len(used), used.boxes[:, 2:] - used.boxes[:, :2]
                encoded = EncodedProposals.from_proposals(used.select((extent > 0).all(dim=1)))
            stream.frames.append(Frame(seconds, stages, result.labels.cpu().numpy(), nodes, encoded))
        turn.reverse()


def run_frames(setup: Setup, video: VideoSequence, most: int, devices: Sequence[torch.device]) -> dict[str, list[Row]]:
    """``frames`` of ``benchmark.json``: 1, some and ``most`` objects, with own and with stored proposals.

    ``own``: the segmentation network makes the proposals. ``stored``: those that it has made in a run before come from
    outside, and the network does not run.
    """
    most = min(most, len(ids_of(video.labels(0))))
    rows: list[Row] = []
    turns = [(device, count) for device in devices for count in sorted({1, (1 + most) // 2, most})]
    for device, objects in tqdm(turns, desc="frames", unit="group", dynamic_ncols=True):
        own = Stream("own", setup, setup.config)
        play([own], video, objects, device, video.num_frames)
        proposals = [frame.proposals for frame in own.frames]
        stored = Stream("stored", setup, setup.config.replace(STORED), proposals)
        rows += measure_streams([own, stored], video, objects, device)
    where = {"video": video.name, "checkpoint": setup.checkpoint.name}
    where |= {"spatial_conv": setup.config.spatial.conv, "temporal_conv": setup.config.temporal.conv}
    return {"frames": [row | where for row in rows]}


def measure_streams(streams: Sequence[Stream], video: VideoSequence, objects: int, device: torch.device) -> list[Row]:
    """One row a stream, all in turns, after a pass of a few frames that does not count."""
    for frames in (3, video.num_frames):
        play(streams, video, objects, device, frames)
    return [stream_row(stream, streams[0]) | {"device": device.type, "objects": objects} for stream in streams]


def stream_row(stream: Stream, base: Stream) -> Row:
    """Means over the timed frames of a stream that ran in turns with ``base``.

    Returns:
        ``ms`` a frame with the quartiles over the frames, ``stages`` in ms, ``graph_share`` of the graph layers,
        ``ratio`` of the time to that of ``base`` with the quartiles of the ratios of single frames, and
        ``iou_with_own``: that of the label maps with those of ``base``, mean over frames and objects.
    """
    timed = stream.timed
    seconds, others = (np.array([frame.seconds for frame in one.timed]) for one in (stream, base))
    ms, (height, width) = 1e3 * float(seconds.mean()), timed[0].labels.shape
    names = dict.fromkeys(name for frame in timed for name in frame.stages)
    stages = {name: 1e3 * float(np.mean([frame.stages.get(name, 0.0) for frame in timed])) for name in names}
    row: Row = {"run": stream.name, "height": height, "width": width, "frames": len(timed), "ms": ms, "fps": 1e3 / ms}
    row["ratio"] = float(seconds.sum() / others.sum())
    for name, values in (("ms", 1e3 * seconds), ("ratio", seconds / others)):
        row[f"{name}_low"], row[f"{name}_high"] = np.percentile(values, [25, 75]).tolist()
    row |= {"nodes": float(np.mean([frame.nodes for frame in timed]))}
    row |= {"iou_with_own": mean_iou(stream.frames, base.frames)}
    row |= {"graph_share": sum(stages.get(name, 0.0) for name in GRAPH_STAGES) / ms}
    return row | {"stages": dict(sorted(stages.items(), key=lambda item: -item[1]))}


def mean_iou(one: Sequence[Frame], other: Sequence[Frame]) -> float:
    """Mean IoU of label maps over frames and the objects that either of them shows there; 1 where both show none."""
    pairs = [(a.labels, b.labels) for a, b in zip(one[1:], other[1:], strict=True)]
    shown = [(a == i, b == i) for a, b in pairs for i in np.union1d(a, b) if i]
    return float(np.mean([np.sum(a & b) / np.sum(a | b) for a, b in shown])) if shown else 1.0
