"""Runs a checkpoint over a split and scores it, or scores stored masks: python -m experiments.evaluate"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from tqdm import tqdm

from datasets.base import VideoSequence
from experiments import checkpoints, cli
from experiments.presets import PRESETS, Preset, find_preset, open_split
from experiments.rows import table_rows
from experiments.scoring import Job, score_folder, score_videos, summarize_row
from stg_pyg.coco import open_proposals
from stg_pyg.errors import InputError
from stg_pyg.flow import resolve_flow
from stg_pyg.io import write_json
from stg_pyg.metrics import summarize


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Runs a checkpoint over the videos of a split, writes their masks and metrics.json, and prints J, F and G. "
        "With --predictions, scores the masks that are stored there.",
        out="runs/evaluate",
    )
    parser.add_argument("--preset", help=f"one of {', '.join(PRESETS)}; default: the checkpoint's, or davis2016")
    parser.add_argument("--root", type=Path, help="folder of the data set (not for synthetic)")
    parser.add_argument("--split", default="val", help="videos to score")
    parser.add_argument("--checkpoint", type=Path, metavar="C", help="checkpoint.pt of experiments.train")
    parser.add_argument("--predictions", type=Path, metavar="D", help="folder with <sequence>/<frame>.png to score")
    parser.add_argument(
        "--proposals",
        type=Path,
        metavar="FILE",
        help="proposals from elsewhere: COCO results JSON, or a folder of experiments.proposals; without --checkpoint "
        "they need masks, and nothing learned takes part",
    )
    parser.add_argument(
        "--join",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --proposals and --checkpoint: the segmentation network adds its own proposals",
    )
    parser.add_argument("--flow", default="dis", metavar="SPEC", help="dis, raft, or a folder of .flo files")
    parser.add_argument("--oracle", action="store_true", help="also the J of the best proposal and of the best fusion")
    parser.add_argument("--row", default="temporal", help="row of the table to run: flow, baseline, motion, ...")
    parser.add_argument("--online-steps", type=cli.whole, help="steps of online learning; default: the checkpoint's")
    parser.add_argument("--overlays", action="store_true", help="also write the masks drawn over the frames")
    parser.add_argument("--processes", type=cli.whole, default=0, help="sequences at a time; 0: one a core")
    return parser.parse_args()


def evaluate_predictions(folder: Path, videos: list[VideoSequence]) -> dict:
    """Scores of stored masks in percent.

    Raises:
        InputError: a sequence or a frame is missing, or has another size.
    """
    missing = [video.name for video in videos if not (folder / video.name).is_dir()]
    if missing:
        raise InputError(f"{folder / missing[0]}: no such folder; the masks of {len(missing)} sequence(s) are missing")
    if all(sum(video.labels(t) is not None for t in range(video.num_frames)) < 2 for video in videos):
        raise InputError(f"the split has masks of first frames only: nothing to score {folder} against")
    with tqdm(videos, desc="scoring", unit="video", dynamic_ncols=True, disable=None) as bar:
        summary = summarize({video.name: score_folder(folder / video.name, video) for video in bar})
    return {**summary, "fps": None, "config": {"predictions": str(folder)}}


def evaluate_model(args: argparse.Namespace) -> dict:
    """Runs the checkpoint, or what needs none, and scores it."""
    if args.checkpoint is not None:
        model, preset = checkpoints.load_model(args.checkpoint)
    elif args.proposals is not None:
        preset = find_preset(args.preset or "davis2016")
        model = checkpoints.untrained_model(preset.name)
    else:
        raise InputError("nothing to evaluate: give --checkpoint C, --proposals FILE or --predictions D")
    if args.preset:
        preset = dataclasses.replace(preset, dataset=find_preset(args.preset).dataset)
    config = model.config
    if args.proposals is not None:
        config = config.with_options(own_evidence=args.join and args.checkpoint is not None)
    if args.online_steps is not None:
        config = config.with_options(online_steps=args.online_steps)
    rows = {row.name: row for row in table_rows(config)}
    if args.row not in rows:
        raise InputError(f"--row {args.row}: choose one of {', '.join(rows)}")
    device = cli.choose_device(args.device)
    names = [video.name for video in open_split(preset, args.split, args.root, args.seed)]
    if args.proposals is not None:
        open_proposals(args.proposals).check_any(names)
    resolve_flow(args.flow, device=device)  # fails now rather than in every process
    job = Job(
        args.checkpoint,
        preset,
        args.split,
        args.root,
        (rows[args.row],),
        args.out,
        device.type,
        args.seed,
        args.overlays,
        config.online_steps,
        args.proposals,
        args.flow,
        args.oracle,
    )
    return summarize_row(score_videos(job, names, args.processes), args.row, rows[args.row].config)


def format_scores(summary: dict) -> str:
    """The scores of every sequence and of all, as text."""
    width = max(len(name) for name in [*summary["sequences"], "all objects"])
    lines = [f"{'sequence':<{width}}      J      F      G"]
    for name, s in summary["sequences"].items():
        lines.append(f"{name:<{width}} {s['J']:6.2f} {s['F']:6.2f} {s['G']:6.2f}")
    j, f = summary["J"], summary["F"]
    lines.append(f"{'all objects':<{width}} {j['mean']:6.2f} {f['mean']:6.2f} {summary['G']:6.2f}")
    lines.append(
        f"J recall {j['recall']:.2f} decay {j['decay']:.2f}, F recall {f['recall']:.2f} decay {f['decay']:.2f}"
    )
    if "oracle" in summary:
        oracle = summary["oracle"]
        lines.append(
            f"J of the best proposal {oracle['best']:.2f}, of the best fusion {oracle['fusion']:.2f}, "
            f"reached {oracle['reached']:.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    args = parse()
    cli.make_folder(args.out)
    if args.predictions is not None:
        if args.checkpoint is not None:
            raise InputError("--checkpoint and --predictions exclude each other: run the one or score the other")
        preset: Preset = find_preset(args.preset or "davis2016")
        summary = evaluate_predictions(args.predictions, open_split(preset, args.split, args.root, args.seed))
    else:
        summary = evaluate_model(args)
    write_json(args.out / "metrics.json", summary)
    print(format_scores(summary))


if __name__ == "__main__":
    cli.run(main)
