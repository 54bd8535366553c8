"""Whether memory grows with the length of a video: a synthetic one, with proposals from outside."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import cv2
import numpy as np
import psutil
import torch
from torch.utils.benchmark import timer
from tqdm import tqdm

from experiments.benchmark.layers import Size
from experiments.benchmark.measure import Row
from experiments.benchmark.videos import ids_of, synthetic_video
from stg_pyg.config import STGConfig
from stg_pyg.lucid.degrade import corrupt_mask
from stg_pyg.model.stgnet import STGNet
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.video.segmenter import VideoSegmenter

SCENE = (*range(12), *range(10, 0, -1))
"""Few frames, which are played forwards and backwards, so that making them costs little."""


@torch.no_grad()
def run_growth(
    size: Size, frames: int, memory_frames: int | None, seed: int, devices: Sequence[torch.device]
) -> dict[str, list[Row]]:
    """``growth`` of ``benchmark.json``, a row a device.

    ``used_mb`` are the MiB of the process, or on a GPU of PyTorch's tensors, every 10 frames; ``peak_mb`` the most
    ever; and the growth is the least-squares slope over the second half of the samples.

    Args:
        size: of the frames, with the number of objects, and of proposals of each of them.
        frames: length of the video.
        memory_frames: that the temporal graph keeps; None: all.
    """
    video, rng = synthetic_video(12, size.height, size.width, size.objects, seed), np.random.default_rng(seed)
    scene = [(video.image(t), rough_proposals(video.labels(t), size.proposals, rng)) for t in range(12)]
    config = STGConfig.small().replace("memory.frames", memory_frames)
    rows = []
    for device in devices:
        segmenter = VideoSegmenter(STGNet.small(config).to(device).eval())
        sampled_at, used = [], []
        started = timer()
        for t in tqdm(range(frames), desc="growth", unit="frame", mininterval=2.0, dynamic_ncols=True):
            image, proposals = scene[SCENE[t % len(SCENE)]]
            segmenter.step(image, proposals if t else None, None if t else video.labels(0))
            if (t + 1) % 10 == 0 or t + 1 == frames:
                sampled_at.append(t + 1)
                used.append(used_mb(device))
        half = len(used) // 2
        slope = 100 * float(np.polyfit(sampled_at[half:], used[half:], 1)[0]) if len(used) > 2 else None
        peak = max(used) if device.type == "cuda" else peak_of_process()
        row: Row = {"device": device.type, "objects": size.objects, "proposals": size.proposals, "height": size.height}
        row |= {"width": size.width, "frames": frames, "memory_frames": memory_frames, "peak_mb": peak}
        row |= {"growth_mb_per_100_frames": slope, "seconds_per_frame": (timer() - started) / frames}
        rows.append(row | {"sampled_at": sampled_at, "used_mb": used})
    return {"growth": rows}


def rough_proposals(labels: np.ndarray | None, count: int, rng: np.random.Generator) -> EncodedProposals:
    """``count`` masks of every object, moved and with patches wrong, with their IoU with the true ones as scores."""
    masks, scores = [], []
    for truth in [np.asarray(labels == obj_id, np.float32) for obj_id in ids_of(labels)] * count:
        shift = rng.normal(0, 0.05 * np.sqrt(truth.sum()), 2)
        moved = cv2.warpAffine(truth, np.column_stack([np.eye(2), shift]), truth.shape[::-1])
        masks.append(corrupt_mask(rng, np.asarray(moved)) > 0.5)
        scores.append(np.sum(masks[-1] & (truth > 0)) / np.sum(masks[-1] | (truth > 0)))
    return EncodedProposals.from_proposals(
        Proposals.from_masks(torch.from_numpy(np.stack(masks)), torch.tensor(scores))
    )


def used_mb(device: torch.device) -> float:
    """Resident memory now, or on a GPU the most that was allocated since the last call."""
    if device.type != "cuda":
        return psutil.Process().memory_info().rss / 2**20
    most = torch.cuda.max_memory_allocated(device) / 2**20
    torch.cuda.reset_peak_memory_stats(device)
    return most


def peak_of_process() -> float:
    """The most MiB that were ever resident."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)
