"""What a run of experiments.segment works with, chosen by its arguments."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from experiments.common import checkpoints, cli
from experiments.common.constants import check_weights, with_constants
from experiments.common.layers_option import check_layers, exchanged, with_layers
from experiments.common.presets import Preset, find_preset
from experiments.segment.given.masks import Given, GivenMasks
from experiments.segment.given.shapes import GivenShapes
from experiments.segment.resume import CONFIDENCE
from stg_pyg.errors import InputError
from stg_pyg.flow.interface import FlowEstimator, flow_for_sequence
from stg_pyg.flow.sources import resolve_flow
from stg_pyg.model.stgnet import STGNet
from stg_pyg.utils.images import is_inside
from stg_pyg.video.frames import FrameSource

PRESET = "davis2016-small"
"""Sizes and constants where there is no checkpoint."""
STEPS_FROM_NOTHING = 400
STEPS_ONLINE = 150
"""Steps of ``--online`` where the checkpoint's own number is 0."""
STATE_FOLDER = ".state"
OTHER_FOLDERS = (STATE_FOLDER, "alpha", "trace", "overlays")
"""What is beside the masks in the folder of results."""
OVERLAY = "overlay.mp4"
RESULTS = "results.json"


def choose_given(args: argparse.Namespace, source: FrameSource) -> Given:
    """Masks, or boxes and points.

    Raises:
        InputError: there is none of them, or masks and others.
    """
    shapes = args.boxes is not None or args.points is not None
    if args.masks is not None and shapes:
        raise InputError("--masks excludes --boxes and --points: give the first mask, or draw it by boxes and points")
    if args.masks is not None:
        return GivenMasks(args.masks, source)
    if not shapes:
        raise InputError("what is to be segmented? give --masks, --boxes or --points; --help tells their forms")
    if args.checkpoint is None:
        name = "--boxes" if args.boxes is not None else "--points"
        raise InputError(f"{name}: needs a trained network to make masks of, a --checkpoint; or give --masks")
    return GivenShapes(source, args.boxes, args.points)


def choose_model(args: argparse.Namespace) -> tuple[STGNet, Preset]:
    """The checkpoint's model, or one that needs no training for proposals, or one to be trained on the first mask."""
    preset = find_preset(PRESET)
    if args.checkpoint is not None:
        model, preset = checkpoints.load_model(args.checkpoint)
    elif args.proposals is not None:
        model = checkpoints.untrained_model(PRESET)
    else:
        weights = "none" if preset.backbone is None else "imagenet"
        model = checkpoints.build_model(preset, preset.config.without_learned_parts(), weights).eval()
    if args.spatial_conv is not None or args.temporal_conv is not None or args.set:
        if args.temporal_conv is not None and not model.config.temporal.enabled:
            where = "without --checkpoint" if args.checkpoint is None else f"in the configuration of {args.checkpoint}"
            raise InputError(f"--temporal-conv: there is no temporal graph {where}; take a checkpoint that has one")
        config = with_constants(with_layers(model.config, args.spatial_conv, args.temporal_conv), args.set)
        check_layers(model, config, args.checkpoint)
        check_weights(model, preset, config, args.checkpoint)
        model = exchanged(model, preset, config)
    if args.memory_frames is not None:
        model.config = model.config.replace("memory.frames", args.memory_frames)
    model.config = cli.with_updates(model.config, args.update_every, args.online_steps)
    return model, preset


def choose_online_steps(args: argparse.Namespace, model: STGNet) -> int:
    """Steps of training on the given frames."""
    if model.segmentation is None:
        if args.online or args.online_steps:
            raise InputError("--online: without --checkpoint and with --proposals there is no network to train")
        return 0
    if args.online_steps is not None:
        return int(args.online_steps)
    if args.checkpoint is None and args.proposals is None:
        return STEPS_FROM_NOTHING
    return model.config.online.steps or (STEPS_ONLINE if args.online else 0)


def choose_flow(args: argparse.Namespace, source: FrameSource, start: str, device: torch.device) -> FlowEstimator:
    """The source of flow; one of stored files is told the frames from ``start`` on, the first the segmenter sees."""
    flow = resolve_flow(args.flow, weights=args.flow_weights, device=device)
    if hasattr(flow, "for_sequence"):
        for option in ("every", "max_size"):
            if getattr(args, option) not in (None, 1):
                name = option.replace("_", "-")
                raise InputError(f"--flow {args.flow}: is of the frames as they are, so it excludes --{name}")
        first = source.position(start) or 0
        names = [source.frame_name(t) for t in range(first, source.count())]
        flow = flow_for_sequence(flow, args.sequence or source.name, names)
    return flow


def output_folder(args: argparse.Namespace, source: FrameSource) -> Path:
    """Where the masks go.

    Raises:
        InputError: the name is none of a folder, or results would replace what was given.
    """
    name = args.sequence or source.name
    if not is_inside(name) or "/" in name or "\\" in name:
        raise InputError(f"--sequence {name}: cannot be the name of a folder; give a plain one with --sequence")
    if name in OTHER_FOLDERS:
        raise InputError(f"--sequence {name}: OUT/{name} holds something else; name the video with --sequence")
    folder: Path = args.out / name
    proposals = args.proposals if isinstance(args.proposals, Path) else None
    for given in (source.path, args.masks, proposals):
        if given is not None and given.is_dir() and given.resolve() == folder.resolve():
            raise InputError(f"{given}: results would be written into this very folder; choose another --out")
    outputs = ["run.json", CONFIDENCE, *[OVERLAY] * args.overlay, *[RESULTS] * args.coco]
    written = {(args.out / file).resolve() for file in outputs}
    for given in (source.path, args.masks, args.boxes, args.points, proposals, args.checkpoint):
        if given is not None and given.resolve() in written:
            raise InputError(f"{given}: results would replace this very file; choose another --out")
    _refuse_results_of_another(args.out, name, source.path)
    cli.make_folder(folder)
    return folder


def _refuse_results_of_another(out: Path, sequence: str, video: Path) -> None:
    """Refuses a folder with results, or the state of a stopped run, of another video, as most files are of one."""
    stopped = [path.name for path in (out / STATE_FOLDER).glob("*") if path.name != sequence]
    if stopped:
        path = out / STATE_FOLDER / stopped[0]
        raise InputError(f"{path}: is of a run over another video that was stopped; choose another --out or remove it")
    for name in ("run.json", CONFIDENCE):
        try:
            content = json.loads((out / name).read_bytes())
            other = content["sequence"], Path(content.get("video", video)).resolve()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # nothing that this command has written
        if other != (sequence, video.resolve()):
            what = f"{other[0]} ({other[1]})" if "video" in content else other[0]
            raise InputError(f"{out / name}: is of another video, {what}; choose another --out or remove the file")
