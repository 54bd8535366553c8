"""Tables 1-3 of the paper with our rows, as far as the data is there: python -m experiments.tables"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets.base import VideoSequence
from experiments.common import checkpoints, cli, distributed
from experiments.common.presets import Preset, benchmark_alpha, open_split
from experiments.common.tabulate import write_figure
from experiments.runs.job import Job
from experiments.runs.rows import table_rows
from experiments.runs.scoring import collect, score_share, summarize_row
from experiments.tables.output import draw, to_csv, to_markdown
from experiments.tables.paper_rows import TARGETS, Result, Target, paper_rows
from experiments.tables.roots import find_roots
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.evaluation.protocols import check_categories, has_annotations
from stg_pyg.flow.sources import resolve_flow
from stg_pyg.proposals.store import open_proposals
from stg_pyg.utils.images import write_json, write_text

METHOD = "STG-PyG (this checkpoint)"
ROW = "temporal"
DEFAULT_ONLINE_STEPS = 150
NO_DATA, NO_ANNOTATIONS = "no data", "no annotations here: pack the masks with evaluate --submit"


@dataclasses.dataclass(frozen=True)
class Run:
    """A benchmark with data."""

    target: Target
    split: str
    """That of the paper, or the one in its place."""
    root: Path
    videos: Sequence[VideoSequence]
    preset: Preset


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Runs a checkpoint on the benchmarks of Tables 1-3 whose data is there, without and with online learning, and "
        "writes its scores beside the paper's: D/tables.md, D/tables.csv and D/tables.png. Started again after an "
        "interruption, it goes on; under torchrun every process takes its part of the videos.",
        out="runs/tables",
    )
    add = parser.add_argument
    text = "folders of data sets, or a folder of such folders; which is which is told by their layouts"
    add("--root", type=Path, nargs="+", required=True, metavar="R", help=text)
    text = "checkpoint.pt of experiments.train, or shipped, which comes with the package"
    add("--checkpoint", type=checkpoints.path_of, required=True, metavar="C", help=text)
    text = "split of DAVIS and YouTube-VOS, such as dev, where the one of the paper is missing or has no annotations; "
    add("--split", metavar="S", help=f"{text}such rows cannot be compared with the paper's and say so")
    text = "rows with online learning, without, or both"
    add("--learning", choices=("both", "off", "on"), default="both", help=text)
    text = f"steps of online learning; default: the checkpoint's, {DEFAULT_ONLINE_STEPS} if it has none"
    add("--online-steps", type=cli.whole, help=text)
    text = "proposals from elsewhere, COCO results JSON or folders of experiments.proposals; each benchmark takes the "
    add("--proposals", type=Path, nargs="+", default=[], metavar="FILE", help=f"{text}first that has its videos")
    add("--flow", default="dis", metavar="SPEC", help="dis, raft, or a folder of .flo files")
    add("--processes", type=cli.whole, default=0, help="sequences at a time; 0: one a core")
    return parser.parse_args()


def find_runs(roots: Sequence[Path], preset: Preset, split: str | None, seed: int) -> tuple[list[Run], list[Result]]:
    """The benchmarks that can be scored, with ``split`` in the place of one of the paper that cannot, and rows that say
    why the others cannot.

    Raises:
        InputError: no benchmark can be scored, or a data set is incomplete.
    """
    found = find_roots(roots)
    runs: list[Run] = []
    notes: list[Result] = []
    substituted: set[str] = set()
    for target in sorted(TARGETS, key=lambda target: target.split == "test-dev"):  # val has the first claim on --split
        own = dataclasses.replace(preset, dataset=target.dataset)
        note = NO_DATA
        for name in dict.fromkeys([target.split, split or target.split]):
            root = found.get((target.dataset, name))
            if root is None or (name != target.split and target.dataset in substituted):
                continue
            videos = open_split(own, name, root, seed)
            if has_annotations(videos):
                check_categories(target.dataset, videos)
                runs.append(Run(target, name, root, videos, own))
                substituted |= {target.dataset} if name != target.split else set()
                break
            note = NO_ANNOTATIONS
        else:
            notes.append(Result(target.key, METHOD, False, ours=True, note=note))
    if not runs:
        there = ", ".join(f"{name} of {dataset}" for dataset, name in sorted(found))
        raise InputError(
            f"{roots[0]}: has nothing to score, no split of the paper with annotations; choose another --split "
            f"(there are {there})"
        )
    return runs, notes


def make_job(args: argparse.Namespace, config: STGConfig, run: Run, steps: int) -> Job:
    """One run of the full model."""
    names = {video.name for video in run.videos}
    proposals = next((path for path in args.proposals if names & set(open_proposals(path).sequences)), None)
    options: dict[str, Any] = {"online.steps": steps, "online.update_every": config.online.update_every if steps else 0}
    if (alpha := benchmark_alpha(run.target.dataset, run.preset.size)) is not None:
        options["spatial.alpha"] = alpha
    if proposals is not None:
        options["proposals.own_evidence"] = True
    return Job(
        checkpoint=args.checkpoint,
        preset=run.preset,
        split=run.split,
        root=run.root,
        rows=(next(row for row in table_rows(config.replace(options)) if row.name == ROW),),
        out=args.out / f"{run.target.dataset}-{run.split}" / ("online" if steps else "offline"),
        device=cli.choose_device(args.device).type,
        seed=args.seed,
        online_steps=steps,
        proposals=proposals,
        flow=args.flow,
    )


def to_result(run: Run, summary: dict[str, Any], steps: int) -> Result:
    """A row of the tables from the content of ``metrics.json``."""
    groups = summary["protocol"].get("groups", {})
    scores: dict[str, float | None] = {"J": summary["J"]["mean"], "F": summary["F"]["mean"], "G": summary["G"]}
    if "seen" in groups:
        scores |= {f"{measure}_{group}": groups[group][measure] for measure in "JF" for group in ("seen", "unseen")}
    frames = sum(video.num_frames for video in run.videos)
    seconds = 1 / summary["fps"] + summary["online_seconds"] * len(run.videos) / frames
    note = "" if run.split == run.target.split else f"{run.split}, not {run.target.split}: not comparable"
    return Result(run.target.key, METHOD, steps > 0, scores, 1 / seconds, ours=True, note=note)


def score_runs(args: argparse.Namespace, config: STGConfig, runs: Sequence[Run]) -> list[Result]:
    """Our rows.

    Raises:
        SystemExit: with status 0 on the ranks that only do their part.
    """
    own_steps = args.online_steps if args.online_steps is not None else config.online.steps or DEFAULT_ONLINE_STEPS
    all_steps = dict.fromkeys({"off": [0], "on": [own_steps], "both": [0, own_steps]}[args.learning])
    jobs = [(run, steps, make_job(args, config, run, steps)) for run in runs for steps in all_steps]
    rank, records, results = distributed.world().rank, [], []
    with distributed.alive(args.out):
        for run, steps, job in jobs:
            if rank == 0:
                learning = f"{steps} steps of online learning" if steps else "no online learning"
                print(f"{run.target.title}, {len(run.videos)} videos of {run.split}, {learning}", file=sys.stderr)
            records.append(score_share(job, [video.name for video in run.videos], args.processes))
        if rank > 0:
            raise SystemExit(0)
        for (run, steps, job), record in zip(jobs, records, strict=True):
            scored = collect(job, [video.name for video in run.videos], record, args.out)
            summary = summarize_row(scored, ROW, job.rows[0].config)
            write_json(job.out / "metrics.json", summary)
            results.append(to_result(run, summary, steps))
    return results


def main() -> None:
    args = parse()
    if args.learning == "on" and args.online_steps == 0:
        raise InputError("--online-steps 0: rows with online learning need at least 1; or give --learning off")
    cli.make_folder(args.out)
    model, preset = checkpoints.load_model(args.checkpoint)
    runs, notes = find_runs(args.root, preset, args.split, args.seed)
    device = cli.choose_device(args.device)
    resolve_flow(args.flow, device=device)  # fails now rather than in every process
    rows = [*paper_rows(), *score_runs(args, model.config, runs), *notes]
    text = to_markdown(
        rows,
        f"OL: online learning on the first frame. FPS of {METHOD}: on {device.type}, with the time of online learning, "
        "without that of proposals from elsewhere; of the others: as printed in the paper, on other machines. "
        "\\* pre-trained on YouTube-VOS.",
    )
    write_text(args.out / "tables.md", text)
    write_text(args.out / "tables.csv", to_csv(rows))
    write_figure(args.out / "tables.png", draw, rows)
    print(text)
