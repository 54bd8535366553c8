"""Tables 1-3 of the paper with our rows, as far as the data is there: python -m experiments.tables"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets.base import VideoSequence
from experiments.common import checkpoints, cli, distributed
from experiments.common.presets import Preset, benchmark_alpha, open_split
from experiments.common.proposals_option import add_proposals, find_proposals, proposals_spec
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


@dataclass(frozen=True)
class Run:
    """A benchmark with data."""

    target: Target
    split: str
    """That of the paper, or the one in its place."""
    root: Path
    videos: Sequence[VideoSequence]
    preset: Preset

    @property
    def name(self) -> str:
        """Of its folder of results."""
        return f"{self.target.dataset}-{self.split}"


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
    cli.add_seeds(parser)
    add_proposals(parser, several=True)
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
        own = replace(preset, dataset=target.dataset)
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


def proposals_of(args: argparse.Namespace, run: Run) -> Path | None:
    """The proposals of a benchmark: the first of those given that has its videos, or those of the detector."""
    given, names = args.proposals or [None], {video.name for video in run.videos}
    files = [spec for spec in given if isinstance(spec, Path)]
    if files:
        return next((path for path in files if names & set(open_proposals(path).sequences)), None)
    spec, out, device = proposals_spec(given[0], run.preset), args.out / run.name, cli.choose_device(args.device)
    return find_proposals(spec, args.detector, args.checkpoint, run.videos, run.preset, out, device, args.seed)


def make_jobs(args: argparse.Namespace, config: STGConfig, run: Run, steps: int, proposals: Path | None) -> list[Job]:
    """The full model with each seed of online learning, or once without it, where nothing is random."""
    options: dict[str, Any] = {"online.steps": steps, "online.update_every": config.online.update_every if steps else 0}
    if (alpha := benchmark_alpha(run.target.dataset, run.preset.size)) is not None:
        options["spatial.alpha"] = alpha
    job = Job(
        checkpoint=args.checkpoint,
        preset=run.preset,
        split=run.split,
        root=run.root,
        rows=(next(row for row in table_rows(config.replace(options)) if row.name == ROW),),
        out=args.out / run.name / "offline",
        device=cli.choose_device(args.device).type,
        seed=args.seed,
        online_steps=steps,
        proposals=proposals,
        flow=args.flow,
    )
    seeds = (args.seeds or [args.seed]) if steps else []
    return [replace(job, online_seed=seed, out=job.out.with_name(f"online-{seed}")) for seed in seeds] or [job]


def to_result(run: Run, summaries: Sequence[dict[str, Any]], steps: int) -> Result:
    """A row of the tables from the contents of ``metrics.json`` of all seeds: means, and the deviation of the main
    score where there are several."""
    every = [_scores_of(summary) for summary in summaries]
    scores = {
        name: None if None in (found := [s[name] for s in every]) else statistics.fmean(found) for name in every[0]
    }
    main = [found[run.target.main] for found in every]
    frames = sum(video.num_frames for video in run.videos)
    seconds = statistics.fmean(1 / summary["fps"] for summary in summaries)
    online_seconds = statistics.fmean(summary["online_seconds"] for summary in summaries) * len(run.videos) / frames
    return Result(
        run.target.key,
        METHOD,
        steps > 0,
        scores,
        statistics.stdev(main) if len(main) > 1 else None,
        fps=1 / (seconds + online_seconds),
        fps_steps=1 / seconds,
        ours=True,
        note="" if run.split == run.target.split else f"{run.split}, not {run.target.split}: not comparable",
    )


def _scores_of(summary: dict[str, Any]) -> dict[str, Any]:
    groups = summary["protocol"].get("groups", {})
    scores = {"J": summary["J"]["mean"], "F": summary["F"]["mean"], "G": summary["G"]}
    if "seen" in groups:
        scores |= {f"{measure}_{group}": groups[group][measure] for measure in "JF" for group in ("seen", "unseen")}
    return scores


def score_runs(args: argparse.Namespace, config: STGConfig, runs: Sequence[Run]) -> list[Result]:
    """Our rows.

    Raises:
        SystemExit: with status 0 on the ranks that only do their part.
    """
    own_steps = args.online_steps if args.online_steps is not None else config.online.steps or DEFAULT_ONLINE_STEPS
    all_steps = dict.fromkeys({"off": [0], "on": [own_steps], "both": [0, own_steps]}[args.learning])
    found = {run.name: proposals_of(args, run) for run in runs}
    rows = [(run, steps, make_jobs(args, config, run, steps, found[run.name])) for run in runs for steps in all_steps]
    rank, results, records = distributed.world().rank, [], {}
    with distributed.alive(args.out):
        for run, steps, jobs in rows:
            for job in jobs:
                if rank == 0:
                    learning = (
                        f"{steps} steps of online learning, seed {job.learning_seed}" if steps else "no online learning"
                    )
                    print(f"{run.target.title}, {len(run.videos)} videos of {run.split}, {learning}", file=sys.stderr)
                records[job.out] = score_share(job, [video.name for video in run.videos], args.processes)
        if rank > 0:
            raise SystemExit(0)
        for run, steps, jobs in rows:
            summaries = []
            for job in jobs:
                scored = collect(job, [video.name for video in run.videos], records[job.out], args.out)
                summaries.append(summarize_row(scored, ROW, job.rows[0].config))
                write_json(job.out / "metrics.json", summaries[-1])
            results.append(to_result(run, summaries, steps))
    return results


def footnote(args: argparse.Namespace, preset: Preset, device: str) -> str:
    """What the tables must be read with: what the checkpoint is, how many seeds there are, what the speeds hold."""
    checkpoint = f"This checkpoint was trained by the preset {preset.name}"
    if not preset.name.endswith("-paper"):
        other = "networks" if preset.size != "paper" else "constants and training"
        checkpoint += f": its {other} are not the paper's, and the paper's rows cannot be compared with it"
    lines = [f"{checkpoint}."]
    if args.seeds and len(args.seeds) > 1:
        seeds = ", ".join(map(str, args.seeds))
        lines.append(f"Rows with OL are means over the seeds {seeds}, ± the standard deviation of the main score.")
    lines.append(
        "OL: online learning on the first frame. FPS: with its time; FPS of steps: without it, but with the updates "
        f"while a video runs. Those of {METHOD} are of {device}, without the time of proposals from elsewhere; those "
        "of the others are as printed in the paper, of other machines. \\* pre-trained on YouTube-VOS."
    )
    return "\n\n".join(lines)


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
    text = to_markdown(rows, footnote(args, preset, device.type))
    write_text(args.out / "tables.md", text)
    write_text(args.out / "tables.csv", to_csv(rows))
    write_figure(args.out / "tables.png", draw, rows)
    print(text)
