"""The arguments ``--proposals`` and ``--detector``: where the proposals of a frame come from, in every command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from datasets.base import VideoSequence
from experiments.common import checkpoints, cli, distributed
from experiments.common.presets import Preset
from experiments.proposals import ProposalSettings, detect_videos
from experiments.runs.settings import digest, fingerprint, weights_digest
from stg_pyg.errors import InputError
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.proposals.store import open_proposals

DETECTOR, NONE, COCO = "detector", "none", "coco"
BESIDE = "detector.pt"
Spec = str | Path


def spec_of(text: str) -> Spec:
    """A value of ``--proposals`` or ``--detector``: one of the words, or a path."""
    return text if text in (DETECTOR, NONE, COCO) else Path(text)


def add_proposals(parser: argparse.ArgumentParser | argparse._ArgumentGroup, several: bool = False) -> None:
    """Adds ``--proposals``, with several values where a command runs over several data sets, and ``--detector``."""
    parser.add_argument(
        "--proposals",
        type=spec_of,
        nargs="+" if several else None,
        metavar="FILE|DIR|detector|none",
        help="where proposals come from: COCO results JSON, a folder of experiments.proposals, detector (which looks "
        "at every frame first), or none (the segmentation network looks where the object was); default: detector for "
        "the networks of a paper preset, else none",
    )
    parser.add_argument(
        "--detector",
        type=spec_of,
        metavar="detector.pt|coco",
        help="with --proposals detector: a detector of experiments.train, or torchvision's Mask R-CNN of COCO; "
        "default: detector.pt beside the checkpoint, else coco",
    )


def proposals_spec(given: Spec | None, preset: Preset | None) -> Spec | None:
    """What ``--proposals`` says, or else the preset of a checkpoint; None: there are none from outside.

    Raises:
        InputError: a word that is no source of proposals.
    """
    spec = given if given is not None or preset is None else preset.proposals
    if spec == COCO:
        raise InputError(f"--proposals {spec}: give a file, a folder, detector or none")
    return None if spec == NONE else spec


def find_detector(given: Spec | None, checkpoint: Path | None) -> Detector:
    """The detector of ``--detector``, or the one beside a checkpoint, or COCO's.

    Raises:
        InputError: it is missing, damaged, or something else.
    """
    if isinstance(given, str) and given != COCO:
        raise InputError(f"--detector {given}: give a detector.pt of experiments.train, or coco")
    beside = None if checkpoint is None else checkpoint.parent / BESIDE
    if given is None and beside is not None and beside.is_file():
        given = beside
    if isinstance(given, Path):
        content = checkpoints.load(given, "detector")
        try:
            return Detector.from_checkpoint(content)
        except InputError as error:
            raise InputError(f"{given}: {error}") from error
    try:
        return Detector.collapsed("auto").eval()
    except InputError as error:
        missing = "" if given == COCO or beside is None else f"{beside}: no such file, and "
        raise InputError(f"{missing}{error}; or give --detector detector.pt, or --proposals FILE or none") from error


def find_proposals(
    spec: Spec | None,
    detector: Spec | None,
    checkpoint: Path | None,
    videos: Sequence[VideoSequence],
    preset: Preset,
    out: Path,
    device: torch.device,
    seed: int,
) -> Path | None:
    """The file or folder with the proposals of videos, of a spec of :func:`proposals_spec`.

    Those of a detector are made now, in ``out/proposals``, where another run with the same detector finds them.

    Raises:
        InputError: there are none of any of the videos, or there is no detector.
    """
    if isinstance(spec, Path):
        open_proposals(spec).check_any([video.name for video in videos])
        return spec
    if spec is None:
        return None
    device = distributed.device_of_rank(device)
    found = find_detector(detector, checkpoint).to(device)
    score, nms, most = found.limits
    made_of = (preset.dataset, preset.resolution, DETECTOR, weights_digest(found))
    settings = fingerprint(ProposalSettings(*made_of, score, nms, most, seed, device.type), device)
    folder = out / "proposals" / digest(settings)
    cli.make_folder(folder)
    detect_videos(found, videos, settings, folder, device)
    return folder
