"""Table 4 of the paper on a split, the full model without its parts, and curves: python -m experiments.ablate"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasets.first_frames import first_frames
from experiments.ablate.files import draw, to_markdown
from experiments.ablate.result import make_plan, measure, to_result
from experiments.ablate.rows import CURVES, OWN_NAMES, TABLE_4, Source, printed
from experiments.ablate.runs import Setup
from experiments.common import checkpoints, cli, distributed
from experiments.common.presets import PRESETS, find_preset, open_split
from experiments.evaluate import choose_preset
from experiments.runs.settings import digest, fingerprint, plain
from stg_pyg.config import paths
from stg_pyg.errors import InputError
from stg_pyg.evaluation.protocols import check_categories, has_annotations
from stg_pyg.flow.sources import resolve_flow
from stg_pyg.nn.spatial.registry import own_options
from stg_pyg.utils.images import write_image, write_json, write_text

DEFAULT_ONLINE_STEPS = 150


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Scores the eleven rows of Table 4 on a split beside the paper's numbers, the full model without each of its "
        "parts, and G over single constants, and writes D/ablation.json, D/ablation.md and D/ablation.png. Started "
        "again after an interruption, it goes on; equal configurations are run once; under torchrun every process "
        "takes its part. Without arguments: synthetic videos and a network that has learned nothing but the first "
        "frames.",
        out="runs/ablate",
    )
    parser.add_argument(
        "--preset",
        help=f"one of {', '.join(PRESETS)}; default: the checkpoint's, or davis2016 with --root and synthetic without",
    )
    parser.add_argument("--root", type=Path, help="folder of the data set (not for synthetic)")
    parser.add_argument("--split", help="videos to score; default: the preset's, val for most")
    parser.add_argument("--sequences", type=names, metavar="NAMES", help="only these videos of the split: a,b,...")
    parser.add_argument(
        "--checkpoint",
        type=checkpoints.path_of,
        metavar="C",
        help="checkpoint.pt of experiments.train, or shipped, which comes with the package; default: random weights",
    )
    parser.add_argument(
        "--base-checkpoint",
        type=Path,
        metavar="B",
        help="one that was trained without lucid augmentation, for the rows without FT; default: they take C",
    )
    parser.add_argument(
        "--ytb-checkpoint", type=Path, metavar="Y", help="one that was pre-trained on YouTube-VOS, for the last row"
    )
    parser.add_argument(
        "--rows", type=row_numbers, default="all", metavar="NUMBERS", help="rows of Table 4: all, none, or 1,2,6"
    )
    parser.add_argument(
        "--own",
        nargs="?",
        type=own_names,
        const="all",
        default="all",
        metavar="NAMES",
        help="also the full model with the constants of C, and without each of its parts: all, none, or some of "
        f"{', '.join(OWN_NAMES)}",
    )
    parser.add_argument("--no-own", dest="own", action="store_const", const=[], help="the same as --own none")
    parser.add_argument(
        "--curves",
        type=curve_names,
        default="none",
        metavar="NAMES",
        help=f"G over single constants of the full model: none, all, or some of {','.join(CURVES)}",
    )
    parser.add_argument(
        "--as-printed",
        action="store_true",
        help="start from the paper's constants, Eq. 3 with boxes, no gate, no re-detection, thr 0.2, instead of C's",
    )
    parser.add_argument(
        "--frames", type=cli.whole, metavar="N", help="only the first N frames of each video, scored as a short video"
    )
    parser.add_argument(
        "--curve-frames", type=cli.whole, metavar="N", help="the same for the curves alone; default: --frames"
    )
    parser.add_argument(
        "--online-steps",
        type=cli.whole,
        metavar="N",
        help="steps of online learning of the full model and of the rows with OL, 0 for none; default: C's, or "
        f"{DEFAULT_ONLINE_STEPS} if it has none",
    )
    parser.add_argument(
        "--seeds",
        type=seed_numbers,
        metavar="NUMBERS",
        help="seeds of online learning, whose G is averaged: 0,1,2; default: --seed",
    )
    parser.add_argument("--flow", default="dis", metavar="SPEC", help="dis, raft, or a folder of .flo files")
    parser.add_argument("--processes", type=cli.whole, default=0, help="videos at a time; 0: one a core")
    return parser.parse_args()


def names(text: str) -> list[str]:
    """Names separated by commas, as an argument."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise argparse.ArgumentTypeError("names nothing")
    return found


def _choice_of(known: Sequence[str], what: str) -> Callable[[str], list[str]]:
    def choose(text: str) -> list[str]:
        found = list(known) if text == "all" else [] if text == "none" else names(text)
        unknown = [name for name in found if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {what} {unknown[0]}: all, none, or some of {','.join(known)}")
        return found

    return choose


row_numbers = _choice_of([str(row.number) for row in TABLE_4], "row")
own_names = _choice_of(OWN_NAMES, "configuration")
curve_names = _choice_of(list(CURVES), "curve")


def seed_numbers(text: str) -> list[int]:
    """Whole numbers separated by commas, as an argument."""
    return [cli.whole(name) for name in names(text)]


def find_sources(args: argparse.Namespace) -> dict[str, Source]:
    """The weights by role, with the configuration that rows start from."""
    preset_name, own = args.preset, args.checkpoint
    if own is None:
        preset_name = preset_name or ("synthetic" if args.root is None else "davis2016")
        own = make_untrained(args.out, preset_name, args.seed)
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


def make_untrained(out: Path, preset_name: str, seed: int) -> Path:
    """A checkpoint with random weights, which online learning alone makes useful."""
    preset = find_preset(preset_name)
    path = out / f"untrained-{digest(fingerprint({'preset': plain(preset), 'seed': seed}, 'cpu'))}.pt"
    if not path.is_file():
        cli.seed_everything(seed)
        checkpoints.save_model(path, checkpoints.build_model(preset), preset, seed)
    return path


def find_videos(
    args: argparse.Namespace, source: Source, split: str, limits: Mapping[str, int | None]
) -> tuple[str, ...]:
    """Names of the videos to score.

    Args:
        limits: most frames of a video, by option.

    Raises:
        InputError: there are none, or nothing of them can be scored.
    """
    known = {video.name: video for video in open_split(source.preset, split, args.root, args.seed)}
    for name in args.sequences or []:
        if name not in known:
            raise InputError(f"--sequences {name}: {split} has {', '.join(known)}")
    wanted = [known[name] for name in args.sequences or known]
    for option, count in limits.items():
        if count is not None and count < 2:
            raise InputError(f"{option} {count}: the first frame is given, so at least 2 are needed")
        if not has_annotations(first_frames(wanted, count)):
            start = f"--split {split}" if count is None else f"{option} {count}"
            raise InputError(f"{start}: leaves no annotation to score; choose another split, or more frames")
    check_categories(source.preset.dataset, wanted)
    return tuple(video.name for video in wanted)


def notes_on(args: argparse.Namespace, sources: Mapping[str, Source], steps: int) -> list[str]:
    """What the reader of the results must know."""
    own, notes = sources["own"], []
    if args.checkpoint is None:
        notes.append("No --checkpoint: the networks have random weights, and only online learning has trained them.")
    if "base" not in sources:
        notes.append(
            "No --base-checkpoint: the rows without FT run with C like row 10, so their FT is as the checkpoint's, and "
            "row 10 says nothing about FT."
        )
    elif changed := different_constants(own, sources["base"]):
        notes.append(f"Rows without FT start from the constants of B, which differ from C's in {', '.join(changed)}.")
    if "ytb" not in sources:
        notes.append("No --ytb-checkpoint: row 11 was not run.")
    if not steps:
        notes.append("--online-steps 0: rows with OL were not run, and the full model learns nothing online.")
    elif own.config.online.steps == 0 and args.online_steps is None:
        notes.append(f"The checkpoint has no steps of online learning: {steps} were taken.")
    if not own_options(own.config.spatial.conv, num_steps=1):
        notes.append(f"The spatial layer {own.config.spatial.conv} has no l.")
    return notes


def different_constants(one: Source, other: Source) -> list[str]:
    """Paths of the constants in which two configurations differ, online learning apart."""
    return [path for path in paths() if one.config.get(path) != other.config.get(path) and path != "online.steps"]


def make_setup(args: argparse.Namespace) -> Setup:
    """Everything that is asked for, checked before anything slow begins."""
    sources = find_sources(args)
    own = sources["own"]
    split = args.split or own.preset.val_split
    curve_frames = args.frames if args.curve_frames is None else args.curve_frames
    device = cli.choose_device(args.device)
    resolve_flow(args.flow, device=device)
    steps = own.config.online.steps or DEFAULT_ONLINE_STEPS if args.online_steps is None else args.online_steps
    return Setup(
        sources=sources,
        split=split,
        root=args.root,
        videos=find_videos(args, own, split, {"--frames": args.frames, "--curve-frames": curve_frames}),
        out=args.out,
        device=device.type,
        seed=args.seed,
        online_steps=steps,
        online_seeds=tuple(args.seeds or [args.seed]),
        flow=args.flow,
        frames=args.frames,
        curve_frames=curve_frames,
        as_printed=args.as_printed,
        notes=notes_on(args, sources, steps),
    )


def main() -> None:
    args = parse()
    cli.make_folder(args.out)
    setup = make_setup(args)
    plan = make_plan(setup, [int(number) for number in args.rows], args.own, args.curves)
    if not plan.runs:
        raise InputError("nothing to run: give --rows, --own or --curves")
    if distributed.world().rank == 0:
        print(f"{plan.num_runs} different runs of {len(setup.videos)} videos", file=sys.stderr)
    result = to_result(setup, plan, measure(setup, plan, args.processes))
    text = to_markdown(result)
    write_json(args.out / "ablation.json", result)
    write_text(args.out / "ablation.md", text)
    write_image(args.out / "ablation.png", draw(result))
    print(text)
