"""Trains STG-Net and scores it: python -m experiments.train"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import torch

from datasets.cache import cached
from experiments import checkpoints, cli
from experiments.graph_stage import CLIP_FRAMES, train_graph
from experiments.presets import PRESETS, Preset, find_preset, open_split
from experiments.rows import format_table, table_rows
from experiments.scoring import Job, score_videos, summarize_row
from experiments.segmentation_stage import load_segmentation, train_segmentation
from stg_pyg.errors import InputError
from stg_pyg.io import write_json, write_text

STAGES = ("segmentation", "graph", "table", "all")


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Trains the segmentation network and the spatiotemporal graph and prints the table of what each part adds. "
        "Without arguments: synthetic videos, made from the seed, in minutes on a CPU.",
        out="runs/train",
    )
    parser.add_argument("--preset", default="synthetic", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument("--root", type=Path, help="folder of the data set (not for synthetic)")
    parser.add_argument("--split", help="videos to train on; default: the preset's")
    parser.add_argument("--val-split", help="videos to score on; default: the preset's")
    parser.add_argument("--stage", choices=STAGES, default="all", help="do this stage only")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    parser.add_argument("--segmentation-steps", type=cli.whole, help="length of the first stage; default: the preset's")
    parser.add_argument("--graph-steps", type=cli.whole, help="length of the second stage; default: the preset's")
    parser.add_argument("--online-steps", type=cli.whole, help="steps of online learning on a first frame")
    parser.add_argument("--workers", type=cli.whole, default=1, help="processes that draw training samples")
    parser.add_argument("--processes", type=cli.whole, default=0, help="sequences scored at a time; 0: one a core")
    parser.add_argument("--cache-gb", type=float, default=4.0, help="memory for decoded frames")
    return parser.parse_args()


def preset_of(args: argparse.Namespace) -> Preset:
    preset = find_preset(args.preset)
    changes = {
        "segmentation_steps": args.segmentation_steps,
        "graph_steps": args.graph_steps,
        "train_split": args.split,
        "val_split": args.val_split,
    }
    preset = dataclasses.replace(preset, **{name: value for name, value in changes.items() if value is not None})
    if args.online_steps is not None:
        preset = dataclasses.replace(preset, config=preset.config.with_options(online_steps=args.online_steps))
    if 0 < preset.graph_steps < CLIP_FRAMES:
        raise InputError(
            f"--graph-steps {preset.graph_steps}: a clip has {CLIP_FRAMES} frames, give 0 or at least that"
        )
    return preset


def score_table(args: argparse.Namespace, preset: Preset) -> None:
    """Scores all rows on the validation videos; writes the masks, ``table.json``, ``table.md`` and ``metrics.json``."""
    rows = table_rows(preset.config)
    videos = open_split(preset, preset.val_split, args.root, args.seed)
    checkpoint = args.out / "checkpoint.pt"
    device = cli.choose_device(args.device)
    job = Job(checkpoint, preset, preset.val_split, args.root, tuple(rows), args.out, device.type, args.seed, True)
    results = score_videos(job, [video.name for video in videos], args.processes)
    summaries = {row.name: summarize_row(results, row.name, row.config) for row in rows}
    write_json(args.out / "table.json", summaries)
    write_json(args.out / "metrics.json", summaries["temporal"])
    table = format_table(summaries, rows)
    write_text(args.out / "table.md", table + "\n")
    print(f"\n{preset.val_split} of {preset.dataset}, {len(videos)} videos:\n\n{table}\n")


def main() -> None:
    args = parse()
    preset = preset_of(args)
    device = cli.choose_device(args.device)
    cli.make_folder(args.out)
    cli.seed_everything(args.seed)
    # Threads that wait for a core which draws samples cost more than they bring.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - args.workers))
    mixed_precision = cli.bfloat16_is_fast(device)
    model = checkpoints.build_model(preset)
    assert model.segmentation is not None
    videos = cached(open_split(preset, preset.train_split, args.root, args.seed), args.cache_gb)
    open_split(preset, preset.val_split, args.root, args.seed)  # fails now rather than after hours of training
    segmentation, graph, checkpoint = (args.out / f"{name}.pt" for name in ("segmentation", "graph", "checkpoint"))
    common = {"device": device, "mixed_precision": mixed_precision, "seed": args.seed, "resume": args.resume}
    if args.stage in ("segmentation", "all"):
        log = train_segmentation(model.segmentation, videos, preset, segmentation, workers=args.workers, **common)
        write_json(args.out / "segmentation_log.json", log)
    elif args.stage == "graph":
        load_segmentation(model.segmentation, segmentation)
    if args.stage in ("graph", "all"):
        log = train_graph(model, videos, preset, graph, **common)
        write_json(args.out / "graph_log.json", log)
        checkpoints.save_model(checkpoint, model, preset, args.seed)
    if args.stage in ("table", "all"):
        score_table(args, preset)
        print(f"checkpoint {checkpoint}, masks and overlays in {args.out}/temporal, scores in {args.out}/metrics.json")


if __name__ == "__main__":
    cli.run(main)
