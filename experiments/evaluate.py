"""Runs a checkpoint over a split and scores it, or scores stored masks: python -m experiments.evaluate"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from datasets.base import VideoSequence
from experiments.common import checkpoints, cli
from experiments.common.constants import add_constants, check_weights, with_constants
from experiments.common.layers_option import add_layers, check_layers, with_layers
from experiments.common.presets import PRESETS, Preset, benchmark_alpha, find_preset, open_split
from experiments.common.proposals_option import NONE, add_proposals, find_proposals, proposals_spec
from experiments.runs.job import Job
from experiments.runs.rows import table_rows
from experiments.runs.scoring import score_stored, score_videos, summarize_row
from stg_pyg.errors import InputError
from stg_pyg.evaluation import protocols
from stg_pyg.evaluation.submission import check_stored_masks, check_submission_path, write_submission
from stg_pyg.flow.sources import resolve_flow
from stg_pyg.utils.images import remove_leftovers, write_json

_OF_RUNS = (
    "proposals",
    "detector",
    "join",
    "online_seconds",
    "spatial_conv",
    "temporal_conv",
    "set",
    "overlays",
    "trace",
    "oracle",
)


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Runs a checkpoint over the videos of a split, writes their masks and metrics.json, and prints the scores by "
        "the benchmark's protocol. With --predictions, scores the masks that are stored there.",
        out="runs/evaluate",
    )
    parser.add_argument(
        "--preset",
        help=f"one of {', '.join(PRESETS)}: the data set and how it is scored; default: the checkpoint's, or davis2016",
    )
    parser.add_argument("--root", type=Path, help="folder of the data set (not for synthetic)")
    parser.add_argument("--split", help="videos to score; default: the preset's, val for most")
    parser.add_argument(
        "--checkpoint",
        type=checkpoints.path_of,
        metavar="C",
        help="checkpoint.pt of experiments.train, or shipped, which comes with the package",
    )
    parser.add_argument("--predictions", type=Path, metavar="D", help="folder with <sequence>/<frame>.png to score")
    add_proposals(parser)
    parser.add_argument(
        "--join",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="with --proposals and --checkpoint: the segmentation network adds its own proposals",
    )
    parser.add_argument("--flow", default="dis", metavar="SPEC", help="dis, raft, or a folder of .flo files")
    parser.add_argument(
        "--weights", default="auto", metavar="auto|none|PATH", help="of RAFT: torchvision's, random, or a local file"
    )
    parser.add_argument("--oracle", action="store_true", help="also the J of the best proposal and of the best fusion")
    parser.add_argument("--row", default="temporal", help="row of the table to run: flow, baseline, motion, ...")
    parser.add_argument("--online-steps", type=cli.whole, help="steps of online learning; default: the checkpoint's")
    parser.add_argument(
        "--online-seconds",
        type=cli.seconds,
        help="most seconds of online learning a video; scores then depend on how fast the machine is",
    )
    cli.add_update_every(parser)
    add_layers(parser, "the checkpoint's")
    add_constants(parser)
    parser.add_argument("--overlays", action="store_true", help="also write the masks drawn over the frames")
    parser.add_argument(
        "--trace",
        action="store_true",
        help="also write OUT/trace/<sequence>/<frame>.npz, how every frame came about, for experiments.report",
    )
    parser.add_argument(
        "--submit",
        type=Path,
        metavar="FILE.zip",
        help="also pack the masks as the evaluation server takes them (DAVIS, YouTube-VOS)",
    )
    parser.add_argument(
        "--unseen",
        type=Path,
        metavar="FILE",
        help="names of the unseen categories of YouTube-VOS, one a line; default: the 26 of its validation set",
    )
    parser.add_argument("--processes", type=cli.whole, default=0, help="sequences at a time; 0: one a core")
    return parser.parse_args()


def evaluate_predictions(
    folder: Path,
    videos: Sequence[VideoSequence],
    dataset: str,
    processes: int = 0,
    unseen: Collection[str] | None = None,
) -> dict:
    """Scores of stored masks in percent, by the protocol of the data set; ``notes`` are what to know of them.

    Raises:
        InputError: a sequence or a frame that is scored is missing, or has another size.
    """
    notes: list[str] = []
    if protocols.has_annotations(videos):
        scores, foreign = score_stored(folder, videos, dataset, processes)
        summary = protocols.dataset_scores(dataset, scores, videos, unseen)
        for name, ids in sorted(foreign.items()):
            listed = ", ".join(map(str, sorted(ids)[:5])) + ", ..." * (len(ids) > 5)
            notes.append(f"{folder / name}: masks have ids that no object has ({listed}); they count as background")
    else:
        check_stored_masks(folder, videos)
        summary = protocols.nothing_to_score(dataset)
    return {**summary, "fps": None, "config": {"predictions": str(folder)}, "notes": notes}


def notes_on_annotations(dataset: str, videos: Sequence[VideoSequence]) -> list[str]:
    """A line on each of the videos of DAVIS of which few frames are annotated, as only those are scored."""
    if not dataset.startswith("davis"):
        return []
    counts = {video.name: sum(map(video.annotated, range(video.num_frames))) for video in videos}
    return [
        f"{video.name}: {counts[video.name]} of {video.num_frames} frames are annotated, and only those count"
        for video in videos
        if 1 < counts[video.name] < video.num_frames
    ]


def choose_preset(args: argparse.Namespace) -> Preset:
    """The checkpoint's preset with the data set of ``--preset``; without a checkpoint, ``--preset`` itself."""
    if args.checkpoint is None:
        return find_preset(args.preset or "davis2016")
    _, preset = checkpoints.load_model(args.checkpoint)
    if args.preset is None:
        return preset
    benchmark = find_preset(args.preset)
    changes = {name: getattr(benchmark, name) for name in ("dataset", "val_split", "resolution")}
    return dataclasses.replace(preset, **changes, test_alpha=benchmark_alpha(benchmark.dataset, preset.size))


def evaluate_model(
    args: argparse.Namespace, preset: Preset, videos: Sequence[VideoSequence], unseen: Collection[str] | None
) -> dict:
    """Runs the checkpoint, or what needs none, and scores it."""
    given = args.checkpoint
    model = checkpoints.untrained_model(preset.name) if given is None else checkpoints.load_model(given)[0]
    changes: dict[str, Any] = {}
    if preset.test_alpha is not None:
        changes["spatial.alpha"] = preset.test_alpha
    spec = proposals_spec(args.proposals, None if given is None else preset)
    if args.join and (spec is None or given is None):
        raise InputError("--join: needs --proposals and a --checkpoint, whose network is to add its own; leave it out")
    if args.join:
        changes["proposals.own_evidence"] = True
    if args.online_steps is not None:
        changes["online.steps"] = args.online_steps
    config = cli.with_updates(model.config.replace(changes), args.update_every, args.online_steps)
    if args.temporal_conv is not None and not config.temporal.enabled:
        where = "without --checkpoint" if given is None else f"in the configuration of {given}"
        raise InputError(f"--temporal-conv: there is no temporal graph {where}")
    config = with_constants(with_layers(config, args.spatial_conv, args.temporal_conv), args.set)
    rows = {row.name: row for row in table_rows(config)}
    if args.row not in rows:
        raise InputError(f"--row {args.row}: choose one of {', '.join(rows)}")
    row = rows[args.row]
    if row.config is not None:
        check_layers(model, row.config, given)
        if args.set:
            check_weights(model, preset, row.config, given)
    device = cli.choose_device(args.device)
    names = [video.name for video in videos]
    resolve_flow(args.flow, weights=args.weights, device=device)  # fails now rather than in every process
    proposals = find_proposals(spec, args.detector, given, videos, preset, args.out, device, args.seed)
    as_given = ("split", "root", "out", "seed", "overlays", "online_seconds", "flow", "weights", "oracle", "trace")
    options = {name: getattr(args, name) for name in as_given} | {"proposals": proposals}
    job = Job(given, preset, rows=(row,), device=device.type, online_steps=config.online.steps, **options)
    return summarize_row(score_videos(job, names, args.processes), args.row, row.config, unseen)


def format_scores(summary: dict) -> str:
    """The scores of every sequence and of all, and what the protocol adds, as text."""
    protocol = summary["protocol"]
    if not protocol["objects"]:
        return (
            f"{protocol['name']}: the split has masks only of the objects that are given, so there is nothing to score"
        )
    groups = protocol.get("groups", {})
    width = max(len(name) for name in [*summary["sequences"], *groups, "mean of the groups"])
    lines = [f"{'sequence':<{width}}      J      F      G"]
    lines += [_line(name, width, s["J"], s["F"]) for name, s in summary["sequences"].items()]
    lines += _protocol_lines(protocol, width)
    j, f = summary["J"], summary["F"]
    lines.append(
        f"J recall {j['recall']:.2f} decay {j['decay']:.2f}, F recall {f['recall']:.2f} decay {f['decay']:.2f}"
    )
    if "oracle" in summary:
        best, fusion, reached = (f"{summary['oracle'][name]:.2f}" for name in ("best", "fusion", "reached"))
        lines.append(f"J of the best proposal {best}, of the best fusion {fusion}, reached {reached}")
    return "\n".join(lines)


def _protocol_lines(protocol: dict[str, Any], width: int) -> list[str]:
    count = f"{protocol['objects']} object" + "s" * (protocol["objects"] != 1)
    lines = [f"{protocol['name']}, {count}:"]
    for name, group in protocol.get("groups", {}).items():
        lines.append(_line(name, width, group["J"], group["F"]) if group["objects"] else f"{name:<{width}} no object")
    last = "mean of the groups" if "groups" in protocol else "all objects"
    return [*lines, _line(last, width, protocol["J"], protocol["F"])]


def _line(name: str, width: int, j: float, f: float) -> str:
    return f"{name:<{width}} {j:6.2f} {f:6.2f} {(j + f) / 2:6.2f}"


def main() -> None:
    args = parse()
    if args.submit is not None:
        check_submission_path(args.submit)
    unseen = protocols.read_categories(args.unseen) if args.unseen is not None else None
    cli.make_folder(args.out)
    if args.predictions is not None and args.checkpoint is not None:
        raise InputError("--checkpoint and --predictions exclude each other: run the one or score the other")
    if args.predictions is not None and (idle := [name for name in _OF_RUNS if getattr(args, name)]):
        option = f"--{idle[0].replace('_', '-')}"
        raise InputError(f"{option}: has no effect with --predictions, which scores stored masks; leave it out")
    if args.predictions is None and args.checkpoint is None and args.proposals in (None, NONE):
        raise InputError("nothing to evaluate: give --checkpoint C, --proposals FILE or --predictions D")
    preset = choose_preset(args)
    args.split = args.split or preset.val_split
    videos = open_split(preset, args.split, args.root, args.seed)
    if protocols.has_annotations(videos):
        protocols.check_categories(preset.dataset, videos)  # fails now rather than after the run
    if args.predictions is not None:
        if args.submit is not None:
            check_stored_masks(args.predictions, videos)
        summary = evaluate_predictions(args.predictions, videos, preset.dataset, args.processes, unseen)
    else:
        summary = evaluate_model(args, preset, videos, unseen)
    notes = notes_on_annotations(preset.dataset, videos)
    summary["notes"] = notes + summary.get("notes", [])
    remove_leftovers(args.out)
    write_json(args.out / "metrics.json", summary)
    print("\n".join([f"note: {note}" for note in summary["notes"]] + [format_scores(summary)]))
    if args.submit is not None:
        count = write_submission(args.submit, args.predictions or args.out, videos, preset.dataset)
        print(f"{args.submit}: {count} masks of {len(videos)} sequences")


if __name__ == "__main__":
    cli.run(main)
