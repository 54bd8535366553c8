"""Stores the spatial graphs of videos, and trains layers on stored ones: python -m experiments.graphs"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from datasets.base import VideoSequence
from datasets.proposal_graphs import INDEX, ProposalGraphs
from experiments.common import checkpoints, cli, distributed
from experiments.common.constants import add_constants, with_constants
from experiments.common.layers_option import exchanged, layer_names
from experiments.common.presets import Preset, find_preset, open_split
from experiments.graphs.harvest import Harvest, describe, finished, harvest_video
from experiments.graphs.leaderboard import (
    CHOICES,
    ORACLES,
    RATE,
    layer_config,
    make_model,
    run_leaderboard,
    train_layer,
    write_tables,
)
from experiments.runs.job import Job
from experiments.runs.rows import table_rows
from experiments.runs.scoring import in_processes
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.utils.images import write_json

LAYERS = "mean,argmax,eq6,model,stg,evidence,pixel,best,pixels"


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "With --root: runs a model over the videos of a split and stores the spatial graphs that it meets, with what "
        "is true, as a dataset of PyG in --out. With a folder of stored graphs: trains layers on them, scores each on "
        "videos that it has not seen, and prints the table.",
        out="runs/graphs",
    )
    parser.add_argument("graphs", nargs="?", type=Path, metavar="DIR", help="stored graphs to train layers on")
    parser.add_argument("--preset", default="davis2016", help="data set, and the recipe of networks trained here")
    parser.add_argument("--root", type=Path, help="folder of the data set (not for synthetic)")
    parser.add_argument("--split", help="videos, as train, train+dev; default: the preset's val split")
    parser.add_argument(
        "--checkpoint",
        metavar="C",
        help="checkpoint.pt of experiments.train, or shipped; with --folds one a fold, as in runs/fold{fold}/"
        "checkpoint.pt, where {fold} stands for its number",
    )
    parser.add_argument(
        "--folds",
        type=cli.whole,
        default=1,
        metavar="K",
        help="parts of the split, each run by a network that was trained on the others (--split S:not0ofK of "
        "experiments.train); without --checkpoint they are trained first, into OUT/folds",
    )
    parser.add_argument("--static", type=Path, metavar="DIR", help="of experiments.train, for networks trained here")
    parser.add_argument("--online-steps", type=cli.whole, default=0, help="of online learning before each video")
    parser.add_argument("--proposals", type=Path, metavar="FILE", help="join proposals from elsewhere")
    parser.add_argument("--every", type=cli.whole, default=2, help="frames between two that are stored")
    parser.add_argument("--size", type=cli.whole, default=128, help="side S of the stored masks")
    parser.add_argument("--processes", type=cli.whole, default=0, help="videos at a time; 0: one a core")
    parser.add_argument(
        "--layers",
        default=LAYERS,
        help=f"rows of the table: {', '.join(CHOICES)} (not trained), {', '.join(ORACLES)} (with the true mask: the "
        "best proposal, and some proposal at every pixel), layers of --spatial-conv, convolutions of PyG, which then "
        "run on the evidence of nodes and give the weights of Eq. 5, package.module:Class; divided by commas, or by "
        "semicolons where arguments have commas",
    )
    parser.add_argument("--seeds", default="0", help="of the training of layers, as 0,1,2")
    parser.add_argument("--steps", type=cli.whole, default=300, help="of the training of a layer")
    parser.add_argument("--batch-size", type=cli.whole, default=16, help="graphs of a step")
    parser.add_argument(
        "--fit",
        metavar="LAYER",
        help="train this layer on all graphs and write OUT/checkpoint.pt, the network of --checkpoint with it",
    )
    parser.add_argument("--only-folds", metavar="F,G", help="graphs of these folds only")
    parser.add_argument("--state", choices=("offline", "online"), help="graphs of these runs only")
    add_constants(parser)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.graphs is None:
        store(args)
    else:
        compare(args)


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers divided by commas, as an argument."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text}: give whole numbers, as 0,1,2") from error


def compare(args: argparse.Namespace) -> None:
    """The table of layers."""
    if args.root is not None or (args.checkpoint is not None) != (args.fit is not None):
        raise InputError(f"{args.graphs}: stored graphs take no --root, and --checkpoint with --fit; leave one out")
    names, seeds = layer_names(args.layers), numbers("--seeds", args.seeds)
    if args.batch_size < 1 or not names:
        raise InputError("--batch-size and --layers: give at least 1 graph and 1 layer")
    folds = None if args.only_folds is None else numbers("--only-folds", args.only_folds)
    config = with_constants(STGConfig.small(), args.set)
    graphs = ProposalGraphs(args.graphs, folds, None if args.state is None else [args.state])
    if args.fit is not None:
        fit(args, graphs, seeds[0])
        return
    for name in names:
        if name not in CHOICES + ORACLES:
            make_model(name, config)  # fails now rather than after the others
    cli.make_folder(args.out)
    cli.seed_everything(args.seed)
    rows = run_leaderboard(graphs, names, seeds, config, args.steps, args.batch_size)
    print(write_tables(args.out, rows, graphs))


def fit(args: argparse.Namespace, graphs: ProposalGraphs, seed: int) -> None:
    """Writes a checkpoint whose spatial layer has learned on stored graphs."""
    checkpoint = checkpoints.path_of(args.checkpoint)
    model, preset = checkpoints.load_model(checkpoint)
    config = layer_config(args.fit, with_constants(model.config, args.set))
    other = exchanged(model, preset, config)
    cli.make_folder(args.out)
    torch.manual_seed(seed)
    reset: Any = getattr(other.spatial_conv, "reset_parameters", None)
    if reset is not None:
        reset()
    with tqdm(total=args.steps, desc=args.fit, unit="step", dynamic_ncols=True, disable=None) as bar:
        train_layer(other, graphs, args.steps, args.batch_size, RATE, seed, bar)
    checkpoints.save_model(args.out / "checkpoint.pt", other, preset, seed)
    print(f"{args.fit} on {len(graphs)} graphs: {args.out / 'checkpoint.pt'}")


def store(args: argparse.Namespace) -> None:
    """Runs the model and stores what it meets."""
    preset = find_preset(args.preset)
    split = args.split or preset.val_split
    open_split(preset, split, args.root, args.seed)
    if args.every < 1 or args.size < 32 or args.size % 4:
        raise InputError("--every and --size: give at least 1, and a multiple of 4 that is at least 32")
    if args.folds < 1:
        raise InputError("--folds 0: give at least 1")
    if args.folds > 1 and ":" in split:
        raise InputError(f"--split {split}: is a fold itself; give the whole split with --folds")
    if args.folds > 1 and args.checkpoint is not None and "{fold}" not in args.checkpoint:
        raise InputError(
            f"--checkpoint {args.checkpoint}: with --folds no graph may come from a network that has seen its video; "
            "give one a fold, with {fold} for its number, or none, and they are trained"
        )
    if args.folds == 1 and args.checkpoint is None:
        raise InputError("--checkpoint C: give the network whose graphs are stored, or --folds K to train some")
    cli.make_folder(args.out)
    state = "online" if args.online_steps else "offline"
    before = other_states(args, state, preset, split)
    todo = [pair for fold in range(args.folds) for pair in harvests_of_fold(args, preset, split, fold, state)]
    run_processes(args, [pair for pair in todo if finished(pair[0], args.out, pair[1]) is None])
    found = [(harvest, video.name, finished(harvest, args.out, video) or 0) for harvest, video in todo]
    index = describe(found)
    index["sequences"] += before
    write_json(args.out / INDEX, index)
    counts = sum(count for _, _, count in found)
    print(f"{counts} graphs of {len(found)} videos, {state}: {args.out / INDEX}")


def run_processes(args: argparse.Namespace, todo: list[tuple[Harvest, VideoSequence]]) -> None:
    """Stores the graphs of the videos, several at a time."""
    calls = {video.name: (harvest, args.out, video.name) for harvest, video in todo}
    count = min(args.processes or distributed.processes_of_rank(args.device), len(calls))
    in_processes(harvest_video, calls, count, "graphs")


def harvests_of_fold(
    args: argparse.Namespace, preset: Preset, split: str, fold: int, state: str
) -> list[tuple[Harvest, VideoSequence]]:
    """What is stored of each video of a fold."""
    part = fold_of(split, fold, args.folds)
    checkpoint = checkpoint_of(args, split, fold)
    model, trained_by = checkpoints.load_model(checkpoint)
    config = with_constants(cli.with_updates(model.config, None, args.online_steps), args.set)
    networks = {name: getattr(trained_by, name) for name in ("crop_size", "size", "width", "backbone", "lucid")}
    own = dataclasses.replace(preset, **networks)
    if args.proposals is not None:
        config = config.replace("proposals.own_evidence", True)
    job = Job(
        checkpoint,
        own,
        part,
        args.root,
        tuple(row for row in table_rows(config) if row.name == "temporal"),
        args.out,
        cli.choose_device(args.device).type,
        args.seed,
        online_steps=args.online_steps,
        proposals=args.proposals,
    )
    harvest = Harvest(job, fold, state, args.every, args.size)
    return [(harvest, video) for video in open_split(own, part, args.root, args.seed)]


def fold_of(split: str, fold: int, folds: int) -> str:
    """The part of a split that is stored by the network of a fold."""
    return split if folds == 1 else f"{split}:{fold}of{folds}"


def other_states(args: argparse.Namespace, state: str, preset: Preset, split: str) -> list[dict[str, Any]]:
    """What an earlier run has stored in the same folder with online learning where this one has none, or without.

    Raises:
        InputError: it does not go with this run.
    """
    if not (args.out / INDEX).is_file():
        return []
    before = ProposalGraphs(args.out).about
    if (before["dataset"], before["size"], before["every"]) != (preset.dataset, args.size, args.every):
        raise InputError(f"{args.out / INDEX}: is of other --preset, --size or --every; choose another --out")
    entries = [entry for entry in before["sequences"] if entry["state"] != state]
    known = {entry["name"]: entry["fold"] for entry in entries}
    for fold in range(args.folds):
        for video in open_split(preset, fold_of(split, fold, args.folds), args.root, args.seed):
            if known.get(video.name, fold) != fold:
                raise InputError(
                    f"{args.out / INDEX}: has {video.name} in another fold; give its --folds or another --out"
                )
    return entries


def checkpoint_of(args: argparse.Namespace, split: str, fold: int) -> Path:
    """The network of a fold, trained where none was given and none is there."""
    if args.checkpoint is not None:
        return checkpoints.path_of(args.checkpoint.replace("{fold}", str(fold)))
    out = args.out / "folds" / str(fold)
    checkpoint = out / "checkpoint.pt"
    if not checkpoint.is_file():
        options = {name: getattr(args, name) for name in ("preset", "root", "static", "seed", "device")}
        options |= {
            "out": out,
            "split": f"{split}:not{fold}of{args.folds}",
            "val-split": f"{split}:{fold}of{args.folds}",
        }
        words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
        for stage in ("segmentation", "graph"):
            command = [sys.executable, "-m", "experiments.train", "--stage", stage, "--resume", *words]
            if status := subprocess.run(command, check=False).returncode:
                raise SystemExit(status)
    return checkpoint
