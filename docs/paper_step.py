"""One frame and one training step of the full-size networks of a paper preset on the CPU, from random weights.

Prints the time of each part of a frame, the memory, the losses of Eq. 9 and the norms of the gradients of X and K. An
untrained detector finds nothing, so its time is taken and boxes near the true ones go on in its place:

    python docs/paper_step.py DAVIS --sequence schoolgirls
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.davis import DAVIS
from experiments.common import checkpoints
from experiments.common.presets import find_preset
from experiments.proposals import detect
from experiments.train.stages.graph import frame_loss
from stg_pyg import STGNet, VideoSegmenter
from stg_pyg.learning.first_frame import freeze_statistics
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.utils.timing import timed_stages


def norm(parameters: list[Tensor]) -> float:
    """Norm of the gradients."""
    found = [p.grad.norm() for p in parameters if p.grad is not None]
    return float(torch.stack(found).norm()) if found else 0.0


def peak_gib() -> float:
    """Most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def gradients(model: STGNet) -> dict[str, float]:
    """Norms of the gradients of X, K and everything else that learns."""
    parts = {"X": list(model.feature_encoder.parameters()), "K": list(model.key_encoder.parameters())}
    known = {id(p) for part in parts.values() for p in part} | {id(p) for p in model.segmentation.parameters()}
    parts["rest"] = [p for p in model.parameters() if id(p) not in known]
    parts["all"] = [p for part in parts.values() for p in part]
    return {name: norm(part) for name, part in parts.items()}


def boxes_near(labels: np.ndarray, count: int, rng: np.random.Generator) -> EncodedProposals:
    """``count`` boxes around every object, moved by a tenth of their size."""
    masks = torch.stack([torch.from_numpy(labels == i) for i in np.unique(labels) if i])
    boxes = masks_to_boxes(masks).repeat(count, 1)
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = boxes + 0.1 * size * torch.from_numpy(rng.standard_normal(boxes.shape)).float()
    return EncodedProposals(moved, torch.ones(len(moved)), [None] * len(moved), labels.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--preset", default="davis2017-paper")
    parser.add_argument("--split", default="train")
    parser.add_argument("--sequence")
    parser.add_argument("--boxes", type=int, default=2, help="of each object")
    args = parser.parse_args()
    torch.manual_seed(0)
    preset = find_preset(args.preset)
    videos = {video.name: video for video in DAVIS(args.root, preset.dataset[-4:], args.split)}
    video = videos[args.sequence] if args.sequence else next(iter(videos.values()))
    frames, labels = [video.image(t) for t in range(3)], [video.labels(t) for t in range(3)]
    model = checkpoints.build_model(preset)
    detector = Detector.one_class("none").eval()
    count = {"model": model, "detector": detector}
    print({name: f"{sum(p.numel() for p in net.parameters()) / 1e6:.0f} M" for name, net in count.items()})
    started = time.perf_counter()
    detect(detector, frames[0], torch.device("cpu"))
    print(f"detector {time.perf_counter() - started:.1f} s a frame")
    rng = np.random.default_rng(0)
    proposals = [boxes_near(found, args.boxes, rng) for found in labels]

    stream = VideoSegmenter(model.eval(), crop_size=preset.crop_size)
    with torch.no_grad():
        stream.step(frames[0], proposals[0], labels[0])
        started = time.perf_counter()
        with timed_stages() as timer:
            result = stream.step(frames[1], proposals[1])
    print(f"frame {time.perf_counter() - started:.1f} s, {len(result.output.scores)} nodes, peak {peak_gib():.1f} GiB")
    with torch.no_grad():
        stream = VideoSegmenter(model, crop_size=preset.crop_size)
        for t in range(2):
            stream.step(frames[t], proposals[t], labels[t])
    print({name: round(seconds, 2) for name, seconds in timer.seconds.items()})

    model.train()
    for encoder in (model.feature_encoder, model.key_encoder):
        freeze_statistics(encoder)
    ids = result.obj_ids
    target = torch.stack([torch.from_numpy(labels[2] == i) for i in ids]).float()
    started = time.perf_counter()
    loss, values = frame_loss(model, stream.step(frames[2], proposals[2], target=target), target)
    loss.backward()
    print(f"training step {time.perf_counter() - started:.1f} s, peak {peak_gib():.1f} GiB")
    print({name: round(value, 4) for name, value in values.items()})
    found = gradients(model)
    print({f"gradient of {name}": f"{value:.3g}" for name, value in found.items()})
    print(f"clipped at 1 they are multiplied by {min(1.0, 1 / found['all']):.3g}")


if __name__ == "__main__":
    main()
