"""One HTML page of an output folder, to look at what happened and why: python -m experiments.report"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jinja2
from tqdm import tqdm

from experiments.common import cli
from experiments.common.presets import PRESETS
from experiments.report.beside import build_strip, open_methods
from experiments.report.folder import Pictures, Run, choose_run, find_origin, find_runs, open_pictures
from experiments.report.sequence import build_sequence
from experiments.report.tables import MOST_ROWS, collect_curves, collect_plots, collect_tables, is_number, text_of
from stg_pyg.errors import InputError
from stg_pyg.utils.images import write_text

MOST_SEQUENCES = 6
"""Sequences on a page where none are named, the worst ones."""
ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("data.js", "draw.js", "charts.js", "player.js", "graph.js", "attention.js", "main.js")

DESCRIPTION = """Builds one HTML page from what a command of this project wrote: the video frame by frame with
switchable overlays, the spatial graph and the scores of its nodes, the attention of the memory, J and F over time with
the worst frames first, strips, those beside other methods with --beside, training curves and tables. The page needs no
server and no network. Proposals, graphs and attention are there where evaluate or segment ran with --trace."""


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
    text = "folders of other results, with <sequence>/<frame>.png, whose masks are shown beside these where they differ"
    parser.add_argument("--beside", type=Path, nargs="+", default=[], metavar="OTHER", help=f"{text} most")
    frames = parser.add_argument_group("where the frames are, if the folder does not say it, or they have moved")
    frames.add_argument("--root", type=Path, help="folder of the data set")
    frames.add_argument("--split", help="of the data set")
    frames.add_argument("--preset", help=f"whose data set it is: {', '.join(PRESETS)}")
    frames.add_argument("--video", type=Path, metavar="PATH", help="a video file or a folder of frames")
    frames.add_argument("--seed", type=cli.whole, help="of videos that are made at random; default: the run's")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help=argparse.SUPPRESS)  # as all commands have it
    return parser.parse_args()


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
    tables, plots, curves = collect_tables(folder, run), collect_plots(folder), collect_curves(folder)
    if not (run or tables or plots or curves):
        raise InputError(f"{folder}: holds nothing to report, no masks, metrics.json, table.json or *_log.json")
    options = {name: vars(args)[name] for name in ("video", "preset", "root", "split", "seed")}
    asked = {name: value for name, value in options.items() if value is not None}
    pictures = open_pictures(find_origin(folder, run) if run else {}, asked)
    names = choose_sequences(run, args.sequence) if run else []
    methods = open_methods(folder, run, args.beside, names) if args.beside else {}
    beside = [(name, build_strip(name, methods, pictures)) for name in names if methods]
    bar = tqdm(names, desc="report", unit="sequence", dynamic_ncols=True, disable=None)
    shown = [build_sequence(run, name, pictures, len(names)) for name in bar if run]
    return render(
        title=folder.resolve().name,
        summary=", ".join(filter(None, (str(folder), mean_of(run)))),
        notes=notes_of(run, runs, names, pictures),
        index={"sequences": [{"name": content["name"], "notes": notes} for content, notes in shown], "curves": curves},
        contents=[content for content, _ in shown],
        tables=tables,
        plots=plots,
        beside=beside,
    )


def choose_sequences(run: Run, wanted: list[str] | None) -> list[str]:
    """The sequences that are shown: those asked for, else the worst of those with a trace, else of all.

    Raises:
        InputError: one that is asked for is not there.
    """
    names = run.sequences
    for name in wanted or []:
        if name not in names:
            raise InputError(f"--sequence {name}: {run.folder} has nothing of it; there are: {', '.join(names)}")
    traced = [name for name in names if run.has_trace(name)]
    worst = sorted(traced or names, key=lambda name: run.scores.get(name, {}).get("G", 0.0))[:MOST_SEQUENCES]
    return list(dict.fromkeys(wanted or worst))


def notes_of(run: Run | None, runs: list[Run], shown: list[str], pictures: Pictures) -> list[str]:
    """What the reader of the page should know about what is missing."""
    if run is None:
        return []
    notes = [pictures.note[:1].upper() + pictures.note[1:] + "."] if pictures.note else []
    if unknown := [name for name in shown if pictures.videos and name not in pictures.videos]:
        notes.append(f"The split has no video {', '.join(unknown)}; --split names another one.")
    if others := [other.name for other in runs if other is not run]:
        notes.append(f"Masks of {run.name}; --run shows those of {', '.join(others)}.")
    if left := [name for name in run.sequences if name not in shown]:
        notes.append(f"Not shown, but with --sequence: {', '.join(left)}.")
    if not run.stored and not any(map(run.has_trace, run.sequences)):
        notes.append("Proposals, graphs and attention need a run of evaluate or segment with --trace.")
    return notes


def mean_of(run: Run | None) -> str:
    """The mean G of the run, where it has several sequences."""
    scores = [s["G"] for s in run.scores.values() if "G" in s] if run is not None else []
    return f"mean G of {len(scores)} sequences {sum(scores) / len(scores):.1f}" if len(scores) > 1 else ""


def render(**parts: Any) -> str:
    """The page as text: one file that needs nothing else, with every name escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["text_of"], environment.tests["right_aligned"] = text_of, is_number
    style, *scripts = ((ASSETS / name).read_text(encoding="utf-8") for name in ("style.css", *SCRIPTS))
    page = environment.get_template("page.html")
    return page.render(**parts, style=style, script="\n".join(scripts), most_rows=MOST_ROWS)


def main() -> None:
    args = parse()
    page = build(args)
    out = args.out or args.folder
    if out.suffix.lower() not in (".html", ".htm"):
        out = out / "report.html"
    write_text(out, page)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
