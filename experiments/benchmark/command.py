"""Measures layers, whole frames, long videos, and what layers score: python -m experiments.benchmark"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
from pathlib import Path

import torch

from experiments.benchmark.frames import run_frames
from experiments.benchmark.growth import run_growth
from experiments.benchmark.layers import SPATIAL, TEMPORAL, Size, run_layers
from experiments.benchmark.measure import Row
from experiments.benchmark.output import write_tables
from experiments.benchmark.scores import run_scores
from experiments.benchmark.videos import Setup, make_setup, synthetic_video, video_of_split
from experiments.common import checkpoints, cli
from experiments.common.layers_option import add_layers, layer_names, on_evidence, with_layers
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.model.layers import make_spatial
from stg_pyg.utils.images import write_json

PARTS = {"growth": ("growth",), "layers": ("rows", "exponents"), "frames": ("frames",), "scores": ("scores",)}
"""What can be measured, with the keys of ``benchmark.json``; growth first, while the process is small."""


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Measures time and memory of the graph layers and their backends, and how they grow (layers); the stages of "
        "whole frames (frames); what each layer scores on a split (scores); and the memory of a long video (growth). "
        "Writes benchmark.json, benchmark.md, a CSV file a table, and pictures. --device auto measures the CPU, and "
        "CUDA if there is a usable GPU. The number of CPU threads is PyTorch's (OMP_NUM_THREADS).",
        out="runs/benchmark",
    )
    text = f"some of {','.join(PARTS)}; what an earlier run has left of the others in --out stays; default: layers and "
    text += "frames, with --root scores; with a layer that is named: layers"
    parser.add_argument("--only", metavar="PARTS", help=text)
    parser.add_argument("--quick", action="store_true", help="small sizes and few of them, about a minute")
    add_layers(parser, "all are measured by layers and scores, frames run with the checkpoint's")
    parser.add_argument("--layers", metavar="A,B", help="these spatial layers, named as in experiments.graphs")
    parser.add_argument("--backward", action="store_true", help="time layers with their gradients")
    text = "of synthetic frames in pixels; default: 480 x 854, or 240 x 427 with --quick"
    numbers = {
        "objects": "of layers, most of frames, of growth; default: 8, 5 and 5, or 4, 2 and 2 with --quick",
        "proposals": "of each object, of layers and growth; default: 20, or 10 with --quick",
        "height": text,
        "width": text,
        "frames": "that are timed, or scored of each video, or streamed; default: 20, all and 500, or 5, all and 50",
        "memory-frames": "in the memory of growth, 0 for all; default: 8",
        "online-steps": "of online learning before scoring, 0 for none; default: the checkpoint's",
        "processes": "videos scored at a time; default: one a core",
    }
    for name, text in numbers.items():
        parser.add_argument(f"--{name}", type=cli.whole, metavar="N", help=text)
    parser.add_argument("--root", type=Path, help="folder of the data set; without it frames are of a synthetic video")
    parser.add_argument("--split", help="of frames and scores; default: the val split of the checkpoint's preset")
    text = "checkpoint.pt of experiments.train; default: the one that ships"
    parser.add_argument("--checkpoint", type=checkpoints.path_of, metavar="C", help=text)
    return parser.parse_args()


def choose_parts(args: argparse.Namespace) -> list[str]:
    """The parts to measure, in order. A layer that is named may have no trained weights, so that whole frames and
    scores have to be asked for then.

    Raises:
        InputError: an argument is out of range.
    """
    for name, least in (("objects", 1), ("proposals", 2), ("height", 1), ("width", 1), ("frames", 3)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise InputError(f"--{name} {value}: must be at least {least}")
    if args.layers is not None and args.spatial_conv is not None:
        raise InputError("--layers and --spatial-conv: give one of them")
    with_layers(STGConfig.small(), args.spatial_conv, args.temporal_conv)
    for name in spatial_layers(args) if args.layers is not None else ():
        try:
            make_spatial(name, STGConfig.small())
        except InputError as error:
            raise InputError(f"--layers: {error}") from error
    named = args.layers or args.spatial_conv or args.temporal_conv
    default = ["layers"] if named else ["layers", "frames", *(() if args.root is None else ["scores"])]
    asked = default if args.only is None else [name.strip() for name in args.only.split(",")]
    for name in asked:
        if name not in PARTS:
            raise InputError(f"--only {args.only}: no part {name!r}, choose some of {','.join(PARTS)}")
    return [name for name in PARTS if name in asked]


def spatial_layers(args: argparse.Namespace) -> tuple[str, ...]:
    """The spatial layers to measure."""
    if args.layers is not None:
        return tuple(map(on_evidence, layer_names(args.layers)))
    return SPATIAL if args.spatial_conv is None else (args.spatial_conv,)


def earlier_result(path: Path, parts: list[str]) -> Row:
    """What an earlier run has left of the parts that are not measured now.

    Raises:
        InputError: the file is broken.
    """
    result: Row = {"machines": {}} | {key: [] for keys in PARTS.values() for key in keys}
    if not path.is_file() or set(parts) == set(PARTS):
        return result
    try:
        before = json.loads(path.read_bytes())
        machines = {part: found for part, found in before["machines"].items() if part not in parts}
        return result | {key: before[key] for part in machines for key in PARTS[part]} | {"machines": machines}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is not of this version or broken; delete it or choose another --out") from error


def options_text(args: argparse.Namespace) -> str:
    """The options that a part is measured with, as they are given on a command line; parts of one file may differ."""
    given = {name: value for name, value in vars(args).items() if name not in ("out", "only")}
    words = [(f"--{name.replace('_', '-')}", value) for name, value in given.items() if value not in (None, False)]
    return " ".join(name if value is True else f"{name} {value}" for name, value in words)


def machine() -> Row:
    """What the times depend on."""
    found: Row = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    found |= {"threads": torch.get_num_threads(), "cores": os.cpu_count(), "dtype": "float32"}
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def run_part(part: str, args: argparse.Namespace, devices: list[torch.device], setup: Setup | None) -> Row:
    """The keys of ``benchmark.json`` that a part fills."""
    objects = {"layers": (8, 4)}.get(part, (5, 2))[args.quick]
    size = Size(objects, *((10, 240, 427) if args.quick else (20, 480, 854)))
    given = {name: getattr(args, name) for name in ("objects", "proposals", "height", "width")}
    size = dataclasses.replace(size, **{name: value for name, value in given.items() if value is not None})
    spatial = spatial_layers(args)
    temporal = TEMPORAL if args.temporal_conv is None else (args.temporal_conv,)
    if part == "growth":
        memory_frames = 8 if args.memory_frames is None else args.memory_frames or None
        return run_growth(size, args.frames or (50 if args.quick else 500), memory_frames, args.seed, devices)
    if part == "layers":
        return run_layers(size, devices, 5 if args.quick else 11, args.quick, args.backward, spatial, temporal)
    assert setup is not None
    if part == "scores":
        return run_scores(setup, args, devices[-1], spatial, temporal)
    if setup.videos:
        video = video_of_split(setup, size.objects, args.seed)
    else:
        video = synthetic_video(setup.frames, size.height, size.width, size.objects, args.seed)
    return run_frames(setup, video, size.objects, devices)


def main() -> None:
    args = parse()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces every start
    parts = choose_parts(args)
    device = cli.choose_device(args.device)
    devices = [torch.device("cpu"), device] if args.device == "auto" and device.type == "cuda" else [device]
    setup = make_setup(args, parts) if {"frames", "scores"} & set(parts) else None
    cli.make_folder(args.out)
    result = earlier_result(args.out / "benchmark.json", parts)
    for part in parts:
        cli.seed_everything(args.seed)
        result |= run_part(part, args, devices, setup)
        result["machines"][part] = machine() | {"options": options_text(args)}
        write_json(args.out / "benchmark.json", result)  # at once, so that an interruption costs one part only
        text = write_tables(args.out, result)
    print(text)
