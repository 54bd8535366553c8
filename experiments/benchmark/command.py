"""Measures layers, whole frames, and what layers score: python -m experiments.benchmark"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from experiments import cli
from experiments.benchmark.claims import make_claims
from experiments.benchmark.layers import run_layers
from experiments.benchmark.plan import PLANS, Plan
from experiments.benchmark.plots import draw_layers, draw_stages
from experiments.benchmark.report import markdown
from experiments.benchmark.video_parts import VideoSetup, make_video_setup, measure_frames, measure_scores
from experiments.layers_option import add_layers, with_layers
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.io import write_image, write_json, write_text

PARTS = {
    "layers": ("rows", "growth", "paired"),
    "frames": ("frames", "options"),
    "scores": ("scores",),
}
"""What can be measured, with the keys of ``benchmark.json`` that it fills."""


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Measures time, memory and growth of the graph layers and their backends, the stages of whole frames, and with "
        "--root what each layer scores on a split. Writes benchmark.json, benchmark.md, benchmark.png and stages.png. "
        "--device auto measures the CPU, and CUDA if there is a usable GPU. The number of CPU threads is PyTorch's "
        "(OMP_NUM_THREADS).",
        out="runs/benchmark",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, about a minute")
    parser.add_argument(
        "--only",
        type=part_names,
        metavar="PARTS",
        help=f"some of {','.join(PARTS)}; what an earlier run has left of the others in --out stays; default: layers "
        "and frames, and with --root scores",
    )
    parser.add_argument("--root", type=Path, help="folder of the data set; without it frames are of a synthetic video")
    parser.add_argument(
        "--split", help="videos of frames and scores; default: the val split of the checkpoint's preset"
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="C", help="checkpoint.pt of experiments.train; default: the one that ships"
    )
    parser.add_argument(
        "--frames", type=cli.whole, metavar="N", help="frames of the video that is timed, and of each that is scored"
    )
    parser.add_argument(
        "--online-steps",
        type=cli.whole,
        metavar="N",
        help="steps of online learning before scoring, 0 for none; default: the checkpoint's",
    )
    parser.add_argument(
        "--processes", type=cli.whole, default=0, metavar="N", help="videos scored at a time; 0: one a core"
    )
    add_layers(parser, "none beside those that are always measured, and the checkpoint's for whole frames")
    parser.add_argument("--plan", choices=tuple(PLANS), help=argparse.SUPPRESS)
    return parser.parse_args()


def part_names(text: str) -> list[str]:
    """Parts separated by commas, as an argument."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in found if name not in PARTS]
    if unknown or not found:
        raise argparse.ArgumentTypeError(f"no part {unknown[0] if unknown else text!r}: some of {','.join(PARTS)}")
    return found


def choose_parts(args: argparse.Namespace) -> list[str]:
    """The parts to measure, in order.

    Raises:
        InputError: a part cannot be measured with these arguments.
    """
    parts = args.only or [name for name in PARTS if name != "scores" or args.root is not None]
    if args.frames is not None and args.frames < 3:
        raise InputError(f"--frames {args.frames}: the first frame is given and not timed, so give at least 3")
    return [name for name in PARTS if name in parts]


def earlier_result(path: Path, parts: list[str]) -> dict[str, Any]:
    """What an earlier run has left of the parts that are not measured now.

    Raises:
        InputError: the file is broken.
    """
    empty: dict[str, Any] = {key: [] for keys in PARTS.values() for key in keys}
    result: dict[str, Any] = {"machine": machine(), "machines": {}, "claims": [], **empty}
    if not path.is_file() or set(parts) == set(PARTS):
        return result
    try:
        before = json.loads(path.read_bytes())
        kept = {part: before["machines"][part] for part in PARTS if part not in parts and part in before["machines"]}
        result |= {key: before[key] for part in kept for key in PARTS[part]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not of this version or broken; delete it or choose another --out") from error
    return result | {"machines": kept}


def machine() -> dict[str, Any]:
    """What the times depend on."""
    found: dict[str, Any] = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    found |= {"threads": torch.get_num_threads(), "cores": os.cpu_count(), "dtype": "float32"}
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def measure_part(
    part: str, plan: Plan, devices: list[torch.device], setup: VideoSetup | None, args: argparse.Namespace
) -> dict[str, Any]:
    """The keys of ``benchmark.json`` that a part fills."""
    if part == "layers":
        return run_layers(plan, devices)
    assert setup is not None
    if part == "frames":
        return measure_frames(setup, plan, devices, args.seed)
    return {"scores": measure_scores(setup, plan, devices[-1], args)}


def write_result(out: Path, result: dict[str, Any]) -> str:
    """Writes all files; returns the text of ``benchmark.md``."""
    result["claims"] = make_claims(result)
    text = markdown(result)
    write_json(out / "benchmark.json", result)
    write_text(out / "benchmark.md", text)
    if result["rows"]:
        write_image(out / "benchmark.png", draw_layers(result))
    if result["frames"]:
        write_image(out / "stages.png", draw_stages(result["frames"]))
    return text


def main() -> None:
    args = parse()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces every start
    parts = choose_parts(args)
    device = cli.choose_device(args.device)
    devices = [torch.device("cpu"), device] if args.device == "auto" and device.type == "cuda" else [device]
    plan = PLANS[args.plan or ("quick" if args.quick else "default")]
    with_layers(STGConfig(), args.spatial_conv, args.temporal_conv)
    spatial, temporal = ((name,) if name else () for name in (args.spatial_conv, args.temporal_conv))
    plan = dataclasses.replace(plan, spatial_layers=spatial, temporal_layers=temporal)
    setup = make_video_setup(args, "scores" in parts) if {"frames", "scores"} & set(parts) else None
    cli.make_folder(args.out)
    result = earlier_result(args.out / "benchmark.json", parts)
    text = ""
    for part in parts:
        cli.seed_everything(args.seed)
        result |= measure_part(part, plan, devices, setup, args)
        result["machines"][part] = machine()
        text = write_result(args.out, result)  # at once, so that an interruption costs one part only
    print(text)
