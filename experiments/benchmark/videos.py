"""The model and the videos that whole frames are measured on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.base import UInt8Array, VideoSequence
from datasets.composed.videos import ComposedVideos
from datasets.first_frames import first_frames
from datasets.synthetic.videos import SyntheticVideos
from experiments.common import checkpoints
from experiments.common.layers_option import check_layers, with_layers
from experiments.common.presets import Preset, open_split
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.evaluation.protocols import check_categories, has_annotations
from stg_pyg.model.stgnet import STGNet

TRIES = 60


class Setup(NamedTuple):
    """A checkpoint, its constants with the layers that are asked for, the videos of a split, if it is opened, and how
    many frames are timed."""

    checkpoint: Path
    model: STGNet
    preset: Preset
    config: STGConfig
    split: str
    videos: list[VideoSequence]
    frames: int


def make_setup(args: argparse.Namespace, parts: Sequence[str]) -> Setup:
    """Everything that is needed for some parts, checked before anything slow begins.

    Raises:
        InputError: the checkpoint or the split cannot be read, or does not fit what is to be measured.
    """
    checkpoint = args.checkpoint or checkpoints.SHIPPED
    model, preset = checkpoints.load_model(checkpoint)
    if model.segmentation is None:
        raise InputError(f"{checkpoint}: has no segmentation network to make proposals; take another checkpoint")
    config = with_layers(model.config, args.spatial_conv, args.temporal_conv)
    if "frames" in parts:
        check_layers(model, config, checkpoint)
    split = args.split or preset.val_split
    videos = open_split(preset, split, args.root, args.seed) if args.root is not None or "scores" in parts else []
    if not videos and (args.root is not None or "scores" in parts):
        raise InputError(f"--split {split}: has no videos; choose another one")
    if "scores" in parts:
        if not has_annotations(videos):
            raise InputError(f"--split {split}: leaves no annotation to score; choose another split")
        check_categories(preset.dataset, videos)
    return Setup(checkpoint, model, preset, config, split, videos, args.frames or (5 if args.quick else 20))


def ids_of(labels: UInt8Array | None) -> list[int]:
    """The objects of a label map, ascending."""
    return [] if labels is None else [int(i) for i in np.unique(labels) if i]


def synthetic_video(frames: int, height: int, width: int, objects: int, seed: int) -> VideoSequence:
    """The first generated video that shows ``objects`` objects in its first frame.

    Raises:
        InputError: there is none, or an argument is out of range.
    """
    try:
        videos = SyntheticVideos("test", TRIES, frames, height, width, seed, max_objects=objects)
    except ValueError as error:
        raise InputError(f"--height, --width, --objects or --seed: {error}") from error
    for index in range(TRIES):
        try:
            if len(ids_of(videos[index].labels(0))) == objects:
                return videos[index]
        except RuntimeError:  # so many objects do not fit
            continue
    raise InputError(f"--objects {objects}: no synthetic video shows so many; ask for fewer")


def video_of_split(setup: Setup, objects: int, seed: int) -> VideoSequence:
    """The first frames of the first video of the split that has ``objects`` objects in its first frame.

    Where there is none, objects of other videos of the split are pasted into one (:class:`ComposedVideos`), if all
    frames have masks; else it is the video with the most.

    Raises:
        InputError: there is no object in any first frame.
    """
    videos = [video for video in setup.videos if video.num_frames > 1]
    counts = [min(len(ids_of(video.labels(0))), objects) for video in videos]
    if not any(counts):
        raise InputError(f"--split {setup.split}: no video has an object in its first frame; choose another one")
    masked = [video for video in videos if all(map(video.annotated, range(video.num_frames)))]
    video = videos[counts.index(max(counts))]
    if max(counts) < objects and len(masked) > 1:
        video = ComposedVideos(masked, 1, (objects, objects), seed, setup.split)[0]
    return first_frames([video], setup.frames)[0]
