"""Says whether the pretrained weights that a run starts from are there and whole: python -m experiments.weights"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.common import cli
from experiments.common.presets import PRESETS, Preset, find_preset
from stg_pyg.errors import InputError
from stg_pyg.utils.images import write_json
from stg_pyg.utils.pretrained import PAPER_PARTS, PaperPart, hub_folder, load_torchvision, weights_file


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Says of every file of pretrained weights whether it is there, whole, readable, and of the right names and "
        "shapes. Nothing is downloaded. Exit status 2 when training by --preset could not start.",
        out="runs/weights",
    )
    parser.add_argument(
        "--check",
        nargs="?",
        type=Path,
        metavar="FOLDER",
        help="folder that train gets as --weights; default: that of torch.hub, from which --weights auto takes them",
    )
    parser.add_argument("--preset", default="davis2017-paper", help=f"what is to run, one of {', '.join(PRESETS)}")
    return parser.parse_args()


def check(part: PaperPart, folder: Path | None) -> dict[str, str]:
    """The state of a part's weights, ``ok``, ``missing`` or ``wrong``, and the file or what there is to say of it."""
    try:
        path = weights_file(part.network, folder or "auto")
    except InputError:
        path = None
    if path is None or not path.is_file():
        return {"state": "missing", "about": wanted_of(part, folder)}
    try:
        load_torchvision(part.network, path)
    except InputError as error:
        return {"state": "wrong", "about": str(error)}
    return {"state": "ok", "about": str(path)}


def wanted_of(part: PaperPart, folder: Path | None) -> str:
    """The files that would do; ``--weights auto`` takes those of torchvision alone."""
    return " or ".join(map(str, part.files if folder else part.files[-1:]))


def needed(preset: Preset) -> list[PaperPart]:
    """What the training by a preset starts from."""
    return [part for part in PAPER_PARTS if part.to_train and preset.size == "paper" and not preset.test_only]


def main() -> None:
    args = parse()
    preset = find_preset(args.preset)
    if args.check is not None and not args.check.is_dir():
        raise InputError(f"{args.check}: is no folder; give the one that holds the weights")
    rows = {part: check(part, args.check) for part in PAPER_PARTS}
    wanted = needed(preset)
    for part, row in rows.items():
        use = f"{preset.name} starts from it" if part in wanted else f"only for {', '.join(part.commands)}"
        print(f"{row['state']:8}{part.name} ({use}): {row['about']}")
    report = {part.name: row for part, row in rows.items()}
    write_json(args.out / "weights.json", {"preset": preset.name, "parts": report})
    bad = [f"for {part.name} {wanted_of(part, args.check)}" for part in wanted if rows[part]["state"] != "ok"]
    if bad:
        raise InputError(f"{args.check or hub_folder()}: {preset.name} cannot start; put there {', '.join(bad)}")
    print(f"{preset.name} can start")


if __name__ == "__main__":
    cli.run(main)
