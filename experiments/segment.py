"""Segments somebody's own video from the mask of its first frame: python -m experiments.segment"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import cli
from experiments.frame_source import PICTURES, VideoFile, pixels
from experiments.overlay_video import OverlayVideo
from experiments.segment_run import STEPS_FROM_NOTHING, Run
from stg_pyg.errors import InputError
from stg_pyg.io import write_json, write_label_map

SMALLEST_SIDE = 32

DESCRIPTION = f"""Segments a video of your own: you give the mask of the first frame, and get a mask of every frame.

The video is a file that OpenCV reads (mp4, mov, avi, webm, ...), with frames named 00000, 00001, ..., or a folder of
pictures ({", ".join(s[1:] for s in PICTURES)}) in natural order, named by their stems.

Results: OUT/<sequence>/<frame>.png, indexed PNGs with your object ids at the size of the frames, and OUT/run.json,
which appears last. An interrupted run starts again from the first frame."""

EPILOG = """masks, the three forms of --masks:
  FIRST.png   objects of the first frame: an indexed PNG, a grey PNG with ids as values, or black and white for one
              object
  a folder    with files named as frames (<frame>.png): label maps; the later ones add objects or correct them, and
              objects that a map does not show are left as they are
  a folder    where no file is named as a frame: one black and white PNG an object, all of the first frame; ids are
              1, 2, ... in natural order, and where objects overlap the later file is on top

examples:
  python -m experiments.segment holiday.mp4 --masks dog.png --checkpoint checkpoint.pt --out runs/dog --overlay
  python -m experiments.segment frames/ --masks masks/ --checkpoint checkpoint.pt --max-size 640 --out runs/mine
  python -m experiments.segment frames/ --masks first.png --proposals proposals.json --out runs/mine"""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Paragraphs as written, and defaults only where there is one to tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        hidden = action.required or action.default is None or action.default is False
        return action.help if hidden else super()._get_help_string(action)


def positive(text: str) -> int:
    """A whole number of at least 1, as an argument."""
    number = cli.whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError("0 is not a whole number of at least 1")
    return number


def parse() -> argparse.Namespace:
    parser = cli.make_parser(DESCRIPTION)
    parser.formatter_class, parser.epilog = _HelpFormatter, EPILOG
    parser.add_argument("video", type=Path, metavar="VIDEO_OR_FRAMES", help="a video file, or a folder of pictures")
    parser.add_argument(
        "--masks", type=Path, required=True, metavar="PNG_OR_DIR", help="what to segment, see below for the forms"
    )
    parser.add_argument("--checkpoint", type=Path, metavar="C", help="checkpoint.pt of experiments.train")
    parser.add_argument(
        "--proposals", type=Path, metavar="FILE", help="COCO results JSON, or a folder of experiments.proposals"
    )
    parser.add_argument("--flow", default="dis", metavar="SPEC", help="dis, dis:fast, raft, ... or a folder of .flo")
    parser.add_argument("--flow-weights", default="auto", metavar="W", help="of raft: auto, none, or a file")
    parser.add_argument("--sequence", metavar="NAME", help="name of the video; default: of the folder or file")
    parser.add_argument(
        "--online-steps",
        type=cli.whole,
        metavar="N",
        help="training steps on the first mask, 0 for none; default: the checkpoint's number, or "
        f"{STEPS_FROM_NOTHING} where there is neither a checkpoint nor proposals",
    )
    parser.add_argument("--every", type=positive, default=1, metavar="N", help="take every N-th frame")
    parser.add_argument(
        "--max-size", type=positive, metavar="PIXELS", help="work on frames with their longer side reduced to this"
    )
    parser.add_argument(
        "--memory-frames", type=positive, metavar="N", help="past frames kept an object; default: the checkpoint's"
    )
    parser.add_argument("--overlay", action="store_true", help="also write OUT/overlay.mp4, masks over the frames")
    args = parser.parse_args()
    if args.max_size is not None and args.max_size < SMALLEST_SIDE:
        raise InputError(f"--max-size {args.max_size}: must be at least {SMALLEST_SIDE} pixels")
    return args


def write_results(run: Run) -> tuple[list[str], float]:
    """Writes the masks of all frames and the overlay; returns the names of the frames and the seconds that took."""
    args, source = run.args, run.source
    names: list[str] = []
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        bar = tqdm(total=source.num_frames, desc=run.folder.name, unit="frame", dynamic_ncols=True, disable=None)
        stack.enter_context(bar)
        video: OverlayVideo | None = None
        if args.overlay:
            video = stack.enter_context(OverlayVideo(args.out / "overlay.mp4", source.fps))
        for name, frame, labels in run.labels():
            write_label_map(run.folder / f"{name}.png", labels)
            if video is not None:
                video.add(frame, labels)
            names.append(name)
            bar.update()
    return names, time.perf_counter() - started


def settings(run: Run) -> dict[str, Any]:
    """What the results depend on."""
    args = run.args
    return {
        "video": args.video,
        "sequence": run.sequence,
        "masks": args.masks,
        "object_ids": run.given.object_ids,
        "given_frames": run.given.frames,
        "every": args.every,
        "size": run.source.size,
        "processed_size": run.size,
        "checkpoint": args.checkpoint,
        "preset": run.preset.name,
        "proposals": args.proposals,
        "flow": args.flow,
        "online_steps": run.steps,
        "device": run.device.type,
        "seed": args.seed,
        "config": run.model.config.to_dict(),
    }


def notes_before(run: Run) -> list[str]:
    """What the user should know before the work begins."""
    ids, frames = run.given.object_ids, run.given.frames
    what = f"object {ids[0]}" if len(ids) == 1 else f"{len(ids)} objects ({', '.join(map(str, ids))})"
    where = f"frame {frames[0]}" if len(frames) == 1 else f"{len(frames)} frames from {frames[0]} on"
    notes = [f"{run.source.path}: {pixels(run.source.size)}, {what} given in {where}"]
    if run.given.note:
        notes.append(f"note: {run.given.note}")
    if run.from_nothing:
        notes.append(
            f"note: no --checkpoint and no --proposals, so a small network learns from the given mask alone "
            f"({run.steps} steps); a checkpoint of experiments.train does better"
        )
    return notes


def notes_after(run: Run, written: set[str]) -> list[str]:
    """What the results leave open."""
    notes, source = [], run.source
    if isinstance(source, VideoFile) and source.stated_frames is not None:
        stated, found = source.stated_frames, source.count()
        if found < 0.95 * stated - 1:
            notes.append(f"note: {source.path} says it has {stated} frames and {found} can be decoded; is it complete?")
    older = [file for file in run.folder.glob("*.png") if file.stem not in written]
    if older:
        notes.append(f"note: {len(older)} masks of an earlier run are in {run.folder} too, {older[0].name} among them")
    return notes


def main() -> None:
    run = Run(parse())
    args = run.args
    print("\n".join(notes_before(run)), flush=True)
    try:
        run.learn()
        names, seconds = write_results(run)
    except KeyboardInterrupt:
        print(f"interrupted; {run.folder} holds the masks so far, the same command begins again", file=sys.stderr)
        raise SystemExit(130) from None
    each = seconds / max(len(names), 1)
    results = {"frames": len(names), "seconds_per_frame": each, "online_seconds": run.online_seconds}
    write_json(args.out / "run.json", settings(run) | results)
    for note in notes_after(run, set(names)):
        print(note)
    where = f"{run.folder} and {args.out / 'overlay.mp4'}" if args.overlay else str(run.folder)
    print(f"{len(names)} masks in {where}, {each:.2f} s a frame")


if __name__ == "__main__":
    cli.run(main)
