"""Table 4 of the paper on a split, the full model without its parts, and curves: python -m experiments.ablate"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasets.base import VideoSequence
from datasets.first_frames import first_frames
from experiments.ablate.output import draw, to_markdown
from experiments.ablate.result import make_plan, measure, to_result
from experiments.ablate.rows import CURVES, OWN_NAMES, TABLE_4, Source, printed
from experiments.ablate.runs import Setup
from experiments.common import checkpoints, cli, distributed
from experiments.common.presets import PRESETS, open_split
from experiments.common.proposals_option import add_proposals, find_proposals, proposals_spec
from experiments.common.tabulate import write_figure
from experiments.evaluate import choose_preset
from stg_pyg.config import paths
from stg_pyg.errors import InputError
from stg_pyg.evaluation.protocols import check_categories, has_annotations
from stg_pyg.flow.sources import resolve_flow
from stg_pyg.nn.spatial.registry import own_options
from stg_pyg.utils.images import write_json, write_text

DEFAULT_ONLINE_STEPS = 150


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Scores the eleven rows of Table 4 on a split beside the paper's numbers, the full model without each of its "
        "parts, and G over single constants, and writes D/ablation.json, D/ablation.md and D/ablation.png. Started "
        "again after an interruption, it goes on; equal configurations are run once; under torchrun every process "
        "takes its part. Without arguments: synthetic videos.",
        out="runs/ablate",
    )
    add = parser.add_argument
    text = f"one of {', '.join(PRESETS)}; default: the checkpoint's, or synthetic without --root and --checkpoint"
    add("--preset", help=text)
    add("--root", type=Path, help="folder of the data set (not for synthetic)")
    add("--split", help="videos to score; default: the preset's, val for most")
    add("--sequences", type=cli.names, metavar="NAMES", help="only these videos of the split: a,b,...")
    text = "checkpoint.pt of experiments.train; default: shipped, which comes with the package"
    add("--checkpoint", type=checkpoints.path_of, metavar="C", help=text)
    text = "one that was trained without lucid augmentation, for the rows without FT; default: they take C"
    add("--base-checkpoint", type=Path, metavar="B", help=text)
    text = "one that was pre-trained on YouTube-VOS, for the last row"
    add("--ytb-checkpoint", type=Path, metavar="Y", help=text)
    text = "rows of Table 4: all, none, or 1,2,6"
    add("--rows", type=row_numbers, default="all", metavar="NUMBERS", help=text)
    text = "also the full model with the constants of C, and without each of its parts: all, none, or some of "
    text += ", ".join(OWN_NAMES)
    add("--own", nargs="?", type=own_names, const="all", default="all", metavar="NAMES", help=text)
    add("--no-own", dest="own", action="store_const", const=[], help="the same as --own none")
    text = f"G over single constants of the full model: none, all, or some of {','.join(CURVES)}"
    add("--curves", type=curve_names, default="none", metavar="NAMES", help=text)
    text = "start from the paper's constants, Eq. 3 with boxes, no gate, no re-detection, thr 0.2, instead of C's"
    add("--as-printed", action="store_true", help=text)
    text = "only the first N frames of each video, scored as a short video"
    add("--frames", type=cli.whole, metavar="N", help=text)
    add("--curve-frames", type=cli.whole, metavar="N", help="the same for the curves alone; default: --frames")
    text = "steps of online learning of the full model and of the rows with OL, 0 for none; default: C's, or "
    add("--online-steps", type=cli.whole, metavar="N", help=f"{text}{DEFAULT_ONLINE_STEPS} if it has none")
    cli.add_seeds(parser)
    add_proposals(parser)
    add("--flow", default="dis", metavar="SPEC", help="dis, raft, or a folder of .flo files")
    add("--processes", type=cli.whole, default=0, help="videos at a time; 0: one a core")
    return parser.parse_args()


def _choice_of(known: Sequence[str], what: str) -> Callable[[str], list[str]]:
    def choose(text: str) -> list[str]:
        found = list(known) if text == "all" else [] if text == "none" else cli.names(text)
        unknown = [name for name in found if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {what} {unknown[0]}: all, none, or some of {','.join(known)}")
        return found

    return choose


row_numbers = _choice_of([str(row.number) for row in TABLE_4], "row")
own_names = _choice_of(OWN_NAMES, "configuration")
curve_names = _choice_of(list(CURVES), "curve")


def find_sources(args: argparse.Namespace) -> dict[str, Source]:
    """The weights by role, with the configuration that rows start from."""
    preset_name, own = args.preset, args.checkpoint
    if own is None:
        own, preset_name = checkpoints.SHIPPED, preset_name or ("synthetic" if args.root is None else None)
    sources: dict[str, Source] = {}
    for role, path in (("own", own), ("base", args.base_checkpoint), ("ytb", args.ytb_checkpoint)):
        if path is None:
            continue
        # Each keeps its own networks; the data are those of --preset, or of C.
        preset = choose_preset(argparse.Namespace(checkpoint=path, preset=preset_name))
        preset_name = preset_name or preset.name
        config = checkpoints.load_model(path)[0].config
        if preset.test_alpha is not None:
            config = config.replace("spatial.alpha", preset.test_alpha)
        sources[role] = Source(path, preset, printed(config) if args.as_printed else config)
    return sources


def find_videos(args: argparse.Namespace, source: Source, split: str) -> list[VideoSequence]:
    """The videos to score.

    Raises:
        InputError: there are none, or nothing of them can be scored.
    """
    known = {video.name: video for video in open_split(source.preset, split, args.root, args.seed)}
    for name in args.sequences or []:
        if name not in known:
            raise InputError(f"--sequences {name}: {split} has {', '.join(known)}")
    wanted = [known[name] for name in args.sequences or known]
    for option, count in {"--frames": args.frames, "--curve-frames": args.curve_frames}.items():
        if count is not None and count < 2:
            raise InputError(f"{option} {count}: the first frame is given, so at least 2 are needed")
        if not has_annotations(first_frames(wanted, count)):
            start = f"--split {split}" if count is None else f"{option} {count}"
            raise InputError(f"{start}: leaves no annotation to score; choose another split, or more frames")
    check_categories(source.preset.dataset, wanted)
    return wanted


def notes_on(sources: Mapping[str, Source]) -> list[str]:
    """What the reader of the results must know, and no row says."""
    own, notes = sources["own"], []
    if "base" not in sources:
        notes.append(
            "No --base-checkpoint: the rows without FT run with C like row 10, so their FT is as the checkpoint's, and "
            "row 10 says nothing about FT."
        )
    elif changed := [p for p in paths() if own.config.get(p) != sources["base"].config.get(p) and p != "online.steps"]:
        notes.append(f"Rows without FT start from the constants of B, which differ from C's in {', '.join(changed)}.")
    if not own_options(own.config.spatial.conv, num_steps=1):
        notes.append(f"The spatial layer {own.config.spatial.conv} has no l.")
    return notes


def make_setup(args: argparse.Namespace) -> Setup:
    """Everything that is asked for, checked before anything slow begins."""
    sources = find_sources(args)
    own = sources["own"]
    split = args.split or own.preset.val_split
    if args.curve_frames is None:
        args.curve_frames = args.frames
    device = cli.choose_device(args.device)
    resolve_flow(args.flow, device=device)
    steps = own.config.online.steps or DEFAULT_ONLINE_STEPS if args.online_steps is None else args.online_steps
    videos = find_videos(args, own, split)
    spec = proposals_spec(args.proposals, own.preset)
    proposals = find_proposals(spec, args.detector, own.path, videos, own.preset, args.out, device, args.seed)
    names = tuple(video.name for video in videos)
    return Setup(args, sources, split, names, device.type, steps, notes_on(sources), proposals)


def main() -> None:
    args = parse()
    cli.make_folder(args.out)
    setup = make_setup(args)
    plan = make_plan(setup)
    if not plan.runs:
        raise InputError("nothing to run: give --rows, --own or --curves")
    if distributed.world().rank == 0:
        different = {run.job.out for runs in plan.runs.values() for run in runs}
        print(f"{len(different)} different runs of {len(setup.videos)} videos", file=sys.stderr)
    result = to_result(setup, plan, measure(setup, plan, args.processes))
    text = to_markdown(result)
    write_json(args.out / "ablation.json", result)
    write_text(args.out / "ablation.md", text)
    write_figure(args.out / "ablation.png", draw, result)
    print(text)
