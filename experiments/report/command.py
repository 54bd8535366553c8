"""One HTML page of an output folder, to look at what happened and why: python -m experiments.report"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from tqdm import tqdm

from experiments import cli
from experiments.presets import PRESETS
from experiments.report.budget import Budget
from experiments.report.folder import Origin, Run, choose_run, find_origin, find_runs
from experiments.report.page import assemble
from experiments.report.pictures import Library
from experiments.report.sequence import SequencePage, build_proposals, build_sequence
from experiments.report.tables import collect_curves, collect_plots, collect_tables
from stg_pyg.errors import InputError
from stg_pyg.io import natural_sort_key, write_text
from stg_pyg.proposal_store import META, StoredProposals

MOST_SEQUENCES = 6
"""Sequences on a page where none are named, the worst ones."""
MOST_FRAMES = 600
"""Of all sequences together."""
PICTURE_CHARS, DETAIL_CHARS = 15_000_000, 9_000_000
"""Of all sequences together, so that a page stays below 30 MB."""

DESCRIPTION = """Builds one HTML page from what evaluate, train, segment, tables, ablate or proposals wrote: the video
frame by frame with switchable overlays, the spatial graph and the scores of its nodes, the attention of the memory, J
and F over time with the worst frames first, strips, training curves and tables. The page needs no server and no
network. Proposals, graphs and attention are there where evaluate or segment ran with --trace."""


def parse() -> argparse.Namespace:
    parser = cli.OneLineParser(prog="python -m experiments.report", description=DESCRIPTION)
    parser.add_argument("folder", type=Path, metavar="DIR", help="an output folder of this project")
    parser.add_argument("--out", type=Path, metavar="PATH", help="the page, or its folder; default: DIR/report.html")
    parser.add_argument(
        "--sequence",
        action="append",
        metavar="NAME",
        help=f"sequence to show, may be repeated; default: the {MOST_SEQUENCES} with the lowest G",
    )
    parser.add_argument("--run", metavar="NAME", help="which masks, where the folder holds several sets of them")
    frames = parser.add_argument_group("where the frames are, if the folder does not say it, or they have moved")
    frames.add_argument("--root", type=Path, help="folder of the data set")
    frames.add_argument("--split", help="of the data set")
    frames.add_argument("--preset", help=f"whose data set it is: {', '.join(PRESETS)}")
    frames.add_argument("--video", type=Path, metavar="PATH", help="a video file or a folder of frames")
    frames.add_argument("--seed", type=cli.whole, help="of videos that are made at random; default: the run's")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help=argparse.SUPPRESS)  # as all commands have it
    return parser.parse_args()


def choose_sequences(run: Run, wanted: list[str] | None) -> list[str]:
    """The sequences that are shown.

    Raises:
        InputError: one that is asked for has no masks.
    """
    names = sorted(run.masks, key=natural_sort_key)
    for name in wanted or []:
        if name not in run.masks:
            raise InputError(f"--sequence {name}: {run.folder} has no masks of it; there are: {', '.join(names)}")
    if wanted:
        return list(dict.fromkeys(wanted))
    traced = [name for name in names if run.has_trace(name)]
    return sorted(traced or names, key=lambda name: run.scores.get(name, {}).get("G", 0.0))[:MOST_SEQUENCES]


def budget_of(count: int) -> Budget:
    """What each of ``count`` sequences may take."""
    return Budget(max(8, MOST_FRAMES // count), PICTURE_CHARS // count, DETAIL_CHARS // count)


def build_masks(run: Run, library: Library, wanted: list[str] | None) -> list[SequencePage]:
    """The pages of the sequences of a run."""
    names = choose_sequences(run, wanted)
    budget, bar = budget_of(len(names)), tqdm(names, desc="report", unit="sequence", dynamic_ncols=True, disable=None)
    return [build_sequence(run, name, library.open(name), budget) for name in bar]


def build_stored_proposals(folder: Path, library: Library, wanted: list[str] | None) -> list[SequencePage]:
    """The pages of the sequences of a folder of experiments.proposals."""
    source = StoredProposals(folder)
    for name in wanted or []:
        if name not in source.sequences:
            raise InputError(f"--sequence {name}: {folder} has no proposals of it")
    names = wanted or source.sequences[:MOST_SEQUENCES]
    sizes, budget = source.meta["sizes"], budget_of(max(len(names), 1))
    return [
        build_proposals(source, name, source.frame_names(name), tuple(sizes[name]), library.open(name), budget)
        for name in names
    ]


def notes_of(run: Run | None, runs: list[Run], shown: list[SequencePage], library: Library) -> list[str]:
    """What the reader of the page should know about what is missing."""
    notes = [library.note[:1].upper() + library.note[1:] + "."] if library.note and shown else []
    if run is None:
        return notes
    others = [other.name for other in runs if other is not run]
    if others:
        notes.append(f"Masks of {run.name}; --run shows those of {', '.join(others)}.")
    left = sorted(set(run.masks) - {page.name for page in shown}, key=natural_sort_key)
    if left:
        notes.append(f"Not shown, but with --sequence: {', '.join(left)}.")
    if not any(map(run.has_trace, run.masks)):
        notes.append("Proposals, graphs and attention need a run of evaluate or segment with --trace.")
    return notes


def build(args: argparse.Namespace) -> str:
    """The page.

    Raises:
        InputError: there is no such folder, nothing in it to report, or something in it is broken.
    """
    folder: Path = args.folder
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give an output folder of this project")
    runs = find_runs(folder)
    run = choose_run(runs, args.run)
    stored = run is None and (folder / META).is_file()
    tables, plots, curves = collect_tables(folder, run), collect_plots(folder), collect_curves(folder)
    if not (run or stored or tables or plots or curves):
        raise InputError(f"{folder}: holds nothing to report, no masks, metrics.json, table.json or *_log.json")
    origin = find_origin(folder, run)
    if stored and origin == Origin():
        origin = Origin(preset=StoredProposals(folder).meta.get("settings", {}).get("dataset"))
    if args.seed is not None:
        origin = dataclasses.replace(origin, seed=args.seed)
    library = Library(origin, args.video, args.preset, args.root, args.split)
    shown: list[SequencePage] = []
    if run is not None:
        shown = build_masks(run, library, args.sequence)
    elif stored:
        shown = build_stored_proposals(folder, library, args.sequence)
    notes = notes_of(run, runs, shown, library)
    summary = ", ".join(part for part in (str(folder), _scores_of(run)) if part)
    return assemble(folder.resolve().name, summary, notes, shown, tables, plots, curves)


def _scores_of(run: Run | None) -> str:
    scores = [s["G"] for s in run.scores.values() if "G" in s] if run is not None else []
    return f"mean G of {len(scores)} sequences {sum(scores) / len(scores):.1f}" if len(scores) > 1 else ""


def main() -> None:
    args = parse()
    page = build(args)
    out = args.out or args.folder
    if out.suffix.lower() not in (".html", ".htm"):
        out = out / "report.html"
    write_text(out, page)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
