"""Boxes, masks and features of every frame of a split, for later runs: python -m experiments.proposals"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from datasets.base import UInt8Array, VideoSequence
from experiments.common import checkpoints, cli, distributed
from experiments.common.presets import PRESETS, Preset, find_preset, open_split
from experiments.common.weights_option import add_weights_argument
from experiments.runs.settings import fingerprint, state_digest, weights_digest
from stg_pyg.errors import InputError
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.proposals.store import MERGED, ProposalWriter, frame_path


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Detects proposals in every frame of a split and writes D/<sequence>/<frame>.npz with boxes, scores, masks and "
        "features, D/meta.json, and all of them as COCO results in D/proposals.json. Started again after an "
        "interruption, it goes on; under torchrun every process takes its part of the videos. The detector is that of "
        "--detector, or COCO's Mask R-CNN with --weights."
    )
    parser.add_argument("--preset", default="davis2016", help=f"data set, one of {', '.join(PRESETS)}")
    parser.add_argument("--root", type=Path, help="folder of the data set (not for synthetic)")
    parser.add_argument("--split", default="val", help="videos to look at")
    parser.add_argument("--detector", type=Path, metavar="CHECKPOINT", help="detector.pt of experiments.train")
    add_weights_argument(parser, "auto")
    parser.add_argument("--score", type=float, default=0.05, help="least score of a proposal")
    parser.add_argument("--nms", type=float, default=0.6, help="IoU of non-maximum suppression over all classes")
    parser.add_argument("--max-proposals", type=cli.whole, default=50, help="most proposals of a frame")
    return parser.parse_args()


def make_detector(args: argparse.Namespace) -> Detector:
    """The detector that the arguments ask for, in evaluation mode.

    Raises:
        InputError: the checkpoint or the weights are missing or of something else.
    """
    limits = {"confidence": args.score, "nms": args.nms, "max_detections": args.max_proposals}
    if args.detector is None:
        return Detector.collapsed(args.weights, **limits).eval()
    content = checkpoints.load(args.detector, "detector")
    try:
        if isinstance(content.get("network"), dict):
            content["network"] = {**content["network"], **limits}
        return Detector.from_checkpoint(content).eval()
    except InputError as error:
        raise InputError(f"{args.detector}: {error}") from error


@dataclass(frozen=True)
class ProposalSettings:
    """What the proposals of a folder depend on, beside the files of the videos, whose states are kept by video."""

    dataset: str
    resolution: str
    detector: str
    weights: str
    """Digest of those of the detector, so that their file may move between two runs."""
    score: float
    nms: float
    max_proposals: int
    seed: int
    """Which synthetic and composed videos are made from."""
    device: str
    """Its kind."""


def settings_of(args: argparse.Namespace, detector: nn.Module, preset: Preset, device: torch.device) -> dict[str, Any]:
    """What the proposals depend on, as plain values."""
    kind = "COCO's Mask R-CNN, classes collapsed" if args.detector is None else "checkpoint"
    made_of = (preset.dataset, preset.resolution, kind, weights_digest(detector))
    settings = ProposalSettings(*made_of, args.score, args.nms, args.max_proposals, args.seed, device.type)
    return fingerprint(settings, device)


def detect(detector: Detector, image: UInt8Array, device: torch.device) -> EncodedProposals:
    """The proposals of a frame uint8 [H, W, 3]; boxes without extent are dropped."""
    scaled = torch.from_numpy(image).to(device).permute(2, 0, 1).float() / 255
    found = detector.detect(scaled).to("cpu")
    return EncodedProposals.from_proposals(found.select((found.boxes[:, 2:] > found.boxes[:, :2]).all(dim=1)))


def write_proposals(
    detector: Detector, videos: Sequence[VideoSequence], writer: ProposalWriter, device: torch.device
) -> None:
    """Detects in the frames that are not done yet; under torchrun in those of the videos of this rank."""
    world = distributed.world()
    mine = set(distributed.share({video.name: video.num_frames for video in videos}, world))
    frames = [(video, t, name) for video in videos if video.name in mine for t, name in enumerate(video.frame_names)]
    quiet = world.rank > 0 or None
    with tqdm(total=len(frames), desc="proposals", unit="frame", dynamic_ncols=True, disable=quiet) as bar:
        for video, t, name in frames:
            if not writer.has(video.name, name):
                writer.write(video.name, name, detect(detector, video.image(t), device))
            bar.update()


def detect_videos(
    detector: Detector,
    videos: Sequence[VideoSequence],
    settings: dict[str, Any],
    folder: Path,
    device: torch.device,
    everyone_waits: bool = True,
) -> ProposalWriter:
    """Writes the proposals of the videos into a folder, those that are not there yet.

    Under torchrun every rank does its part of the videos; the first one waits for the others, or all do.
    """
    rank, size = distributed.world()
    states = {video.name: state_digest(video.files) for video in videos}
    writer = ProposalWriter(folder, settings, size > 1, states)
    with distributed.alive(folder):
        write_proposals(detector, videos, writer, device)
        if rank == 0 or everyone_waits:
            wait_for_all(videos, folder)
    return writer


def wait_for_all(videos: Sequence[VideoSequence], folder: Path) -> None:
    """Waits for the frames of the other ranks."""
    waiting = list(videos)

    def missing() -> list[str]:
        while waiting and all(frame_path(folder, waiting[0].name, name).is_file() for name in waiting[0].frame_names):
            waiting.pop(0)
        return [video.name for video in waiting]

    distributed.wait_for(missing, folder)


def main() -> None:
    args = parse()
    preset = find_preset(args.preset)
    videos = open_split(preset, args.split, args.root, args.seed)
    if args.max_proposals < 1 or not (0 <= args.score <= 1 and 0 <= args.nms <= 1):
        raise InputError("--max-proposals must be at least 1, --score and --nms from 0 to 1")
    if not videos:
        raise InputError(f"--split {args.split}: has no videos; choose another one")
    cli.make_folder(args.out)
    device = distributed.device_of_rank(cli.choose_device(args.device))
    cli.seed_everything(args.seed)
    detector = make_detector(args).to(device)
    settings = settings_of(args, detector, preset, device)
    try:
        writer = detect_videos(detector, videos, settings, args.out, device, everyone_waits=False)
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on in {args.out}", file=sys.stderr)
        raise SystemExit(130) from None
    if distributed.world().rank > 0:
        return
    writer.merge()
    print(f"{sum(video.num_frames for video in videos)} frames of {len(videos)} videos: {args.out / MERGED}")


if __name__ == "__main__":
    cli.run(main)
