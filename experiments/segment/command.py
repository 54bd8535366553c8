"""Segments somebody's own video from the mask of its first frame: python -m experiments.segment"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from experiments.common import checkpoints, cli
from experiments.common.constants import add_constants
from experiments.common.layers_option import add_layers
from experiments.common.proposals_option import NONE, add_proposals, proposals_spec
from experiments.runs.settings import digest
from experiments.segment.options import OVERLAY, RESULTS, STEPS_FROM_NOTHING, STEPS_ONLINE
from experiments.segment.outputs import Scores, lost_objects, write_coco, write_overlay
from experiments.segment.resume import CONFIDENCE, Stand
from experiments.segment.run import Run
from stg_pyg.errors import InputError
from stg_pyg.utils.images import write_json
from stg_pyg.video.frames import PICTURES, VideoFile, pixels

SMALLEST_SIDE = 32
_MOST_NOTES = 6

DESCRIPTION = f"""Segments a video of your own: you give the mask of the first frame, and get a mask of every frame.

The video is a file that FFmpeg reads (mp4, mov, avi, webm, gif, ...), with frames named 00000, 00001, ..., every
picture of it being one however long it is shown, or a folder of pictures in natural order, named by their stems
({", ".join(s[1:] for s in PICTURES)}). They are turned and mirrored as cameras ask for it; pixels of more than
8 bits are brought to 8 on one scale a video.

Results: OUT/<sequence>/<frame>.png, indexed PNGs with your object ids at the size of the frames;
OUT/confidence.json, the mean of each soft mask over its pixels, null where an object has none (it is low for blurred
masks, and cannot tell that the wrong thing is followed); and OUT/run.json, which appears last. OUT is for one video.

A run that was stopped or killed goes on when the same command is started again, to the same result. With another video,
other masks or other options it begins anew."""

EPILOG = """masks, the three forms of --masks:
  FIRST.png   objects of the first frame
  a folder    with files named as frames (<frame>.png): label maps; the later ones add objects or correct them, and
              objects that a map does not show are left as they are. Files whose numbers are those of frames, with other
              padding, a prefix or a suffix (000005.png, 00005_mask.png), belong to these; a note says so
  a folder    where no file is named as a frame: one black and white PNG an object, all of the first frame; ids are
              1, 2, ... in natural order, and where objects overlap the later file is on top

what their pixels mean, the first that fits; files are PNG or another lossless format:
  one colour under a transparency that varies: the opaque part is one object
  colours of the DAVIS palette only, indexed pictures too: their ids
  black and white, grey or RGB: one object; among masks with ids, the object 255 of these, or else their only object 1
  greys with other levels along edges only (anti-aliased, resized): one object, from half of the range on; a note
  greys of 0 to 255: ids
  indexed pictures whose index 0 is black: the indices are ids
  everything else, and JPEG, is refused in one line

boxes and points, in pixels of the first frame, by object id; x1 and y1 are exclusive:
  --boxes     a JSON file {"1": [x0, y0, x1, y1], "2": ...}, or a text file with lines "id x0 y0 x1 y1"
  --points    a JSON file {"1": [[x, y], [x, y]], "2": ...}, or a text file with lines "id x y"
  The network of --checkpoint makes the first mask of them. Look at it: it is the first of the results, and where it is
  wrong, correct it in an editor of pictures and give it with --masks.

--coco writes OUT/results.json, one entry an object and frame:
  {"image_id": "<sequence>/<frame>", "category_id": <object id>, "bbox": [x, y, w, h], "score": <confidence>,
   "segmentation": {"size": [H, W], "counts": "<RLE>"}}

examples:
  python -m experiments.segment holiday.mp4 --masks dog.png --checkpoint checkpoint.pt --out runs/dog --overlay
  python -m experiments.segment holiday.mp4 --boxes boxes.json --checkpoint checkpoint.pt --online --out runs/dog
  python -m experiments.segment frames/ --masks masks/ --checkpoint checkpoint.pt --max-size 640 --out runs/mine
  python -m experiments.segment frames/ --masks first.png --proposals proposals.json --out runs/mine"""


class _HelpFormatter(cli.HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Paragraphs as written."""


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
    what = parser.add_argument_group("what to segment, one of these (forms below)")
    what.add_argument("--masks", type=Path, metavar="PNG_OR_DIR", help="the mask of the first frame, and later ones")
    what.add_argument("--boxes", type=Path, metavar="FILE", help="boxes around the objects; a mask does better")
    what.add_argument("--points", type=Path, metavar="FILE", help="points on the objects; a box does better")
    _add_how(parser.add_argument_group("how"))
    more = parser.add_argument_group("more results")
    for option, text in (
        ("overlay", f"OUT/{OVERLAY}, masks over the frames"),
        ("coco", f"OUT/{RESULTS}, COCO results (form below)"),
        ("alpha", "OUT/alpha/<sequence>/<id>/<frame>.png, the soft mask of each object as a grey PNG, 0 to 255"),
        ("trace", "OUT/trace/<sequence>/<frame>.npz, how every frame came about, for experiments.report"),
    ):
        more.add_argument(f"--{option}", action="store_true", help=text)
    args = parser.parse_args()
    if args.checkpoint == "shipped":
        args.checkpoint = None if args.proposals not in (None, NONE) else checkpoints.SHIPPED
    else:
        args.checkpoint = None if args.checkpoint == "none" else Path(args.checkpoint)
    preset = None if args.checkpoint is None else checkpoints.load_model(args.checkpoint)[1]
    args.proposals = proposals_spec(args.proposals, preset)
    if args.max_size is not None and args.max_size < SMALLEST_SIDE:
        raise InputError(f"--max-size {args.max_size}: must be at least {SMALLEST_SIDE} pixels")
    return args


def _add_how(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--checkpoint",
        metavar="C",
        default="shipped",
        help="checkpoint.pt of experiments.train; shipped: the weights that come with the repository, for "
        "non-commercial use (with --proposals no network); none: a small network learns from what is given alone",
    )
    add_layers(group, "the checkpoint's")
    add_constants(group)
    add_proposals(group)
    add("--flow", default="dis", metavar="SPEC", help="dis, dis:fast, raft, ... or a folder of .flo")
    add("--flow-weights", default="auto", metavar="W", help="of raft: auto, none, or a file")
    add("--sequence", metavar="NAME", help="name of the video; default: of the folder or file")
    online = "train the network on the given frames first, also with a checkpoint that does not ask for it"
    add("--online", action="store_true", help=online)
    steps = (
        "length of that training, 0 for none; default: the checkpoint's number, or where that is 0, with --online, "
        f"{STEPS_ONLINE}; {STEPS_FROM_NOTHING} where there is neither a checkpoint nor proposals"
    )
    add("--online-steps", type=cli.whole, metavar="N", help=steps)
    seconds = "most seconds of that training; the result then depends on the machine"
    add("--online-seconds", type=cli.seconds, metavar="S", help=seconds)
    cli.add_update_every(group)
    add("--every", type=positive, default=1, metavar="N", help="take every N-th frame")
    size = "work on frames with their longer side reduced to this"
    add("--max-size", type=positive, metavar="PIXELS", help=size)
    objects = (
        "bounds memory: proposals and graphs of a frame are made for N objects at a time, and the results merged; "
        "default: all objects at once"
    )
    add("--max-objects-at-once", type=positive, metavar="N", help=objects)
    frames = "past frames kept an object; default: the checkpoint's"
    add("--memory-frames", type=positive, metavar="N", help=frames)


def settings(run: Run) -> dict[str, Any]:
    """What the results depend on, for ``run.json``."""
    args, config = run.args, run.model.config
    same = ("masks", "boxes", "points", "every", "max_objects_at_once", "checkpoint", "proposals", "flow", "seed")
    return {name: getattr(args, name) for name in same} | {
        "video": args.video.absolute(),
        "sequence": run.sequence,
        "object_ids": run.given.object_ids,
        "given_frames": run.given.frames,
        "size": run.source.size,
        "processed_size": run.size,
        "preset": run.preset.name,
        "online_steps": run.steps,
        "online_seconds_limit": args.online_seconds,
        "update_every": config.online.update_every,
        "device": run.device.type,
        "config": config.to_dict(),
        "fingerprint": digest(run.saved.fingerprint),
    }


def notes_before(run: Run) -> list[str]:
    """What the user should know before the work begins."""
    ids, frames = run.given.object_ids, run.given.frames
    what = f"object {ids[0]}" if len(ids) == 1 else f"{len(ids)} objects ({', '.join(map(str, ids))})"
    where = f"frame {frames[0]}" if len(frames) == 1 else f"{len(frames)} frames from {frames[0]} on"
    notes = [f"{run.source.path}: {pixels(run.source.size)}, {what} given in {where}"]
    if run.source.note:
        notes.append(f"note: {run.source.note}")
    notes += [f"note: {note}" for note in run.given.notes]
    if run.args.checkpoint is None and run.args.proposals is None:
        notes.append(
            f"note: --checkpoint none, so a small network learns from the given mask alone ({run.steps} steps); the "
            "weights that come with the repository, or those of experiments.train, do better"
        )
    if run.args.checkpoint == checkpoints.SHIPPED:
        notes.append(
            f"note: with the weights of {checkpoints.SHIPPED.name}, trained on DAVIS 2016 and so not for commercial "
            "use (CC BY-NC 4.0); --checkpoint takes others, or none"
        )
    return notes


def notes_after(run: Run, names: list[str], scores: Scores) -> list[str]:
    """What the results leave open."""
    notes, source = [], run.source
    if isinstance(source, VideoFile) and source.losses():
        notes.append(f"note: {source.losses()}")
    written = set(names)
    older = [file for file in run.folder.glob("*.png") if file.stem not in written]
    if older:
        notes.append(f"note: {len(older)} masks of an earlier run are in {run.folder} too, {older[0].name} among them")
    lost = lost_objects(names, scores)
    if len(lost) > _MOST_NOTES:
        lost = [*lost[: _MOST_NOTES - 1], f"and more, see {run.args.out / CONFIDENCE}"]
    return notes + [f"note: {note}" for note in lost]


def write_outputs(run: Run, stand: Stand) -> list[str]:
    """Writes what is made of the masks, ``run.json`` last; returns the names of the frames."""
    args, names = run.args, run.frame_names(stand.position)
    objects = {str(obj_id): row for obj_id, row in stand.scores.items()}
    write_json(args.out / CONFIDENCE, {"sequence": run.sequence, "frames": names, "objects": objects})
    if args.coco:
        write_coco(args.out / RESULTS, run.folder, names, stand.scores)
    if args.overlay:
        write_overlay(args.out / OVERLAY, run.source, run.folder)
    results = {"frames": len(names), "seconds_per_frame": stand.seconds / max(len(names), 1)}
    write_json(args.out / "run.json", settings(run) | results | {"online_seconds": stand.online_seconds})
    run.saved.remove()
    return names


def main() -> None:
    run = Run(parse())
    args = run.args
    print("\n".join(notes_before(run)), flush=True)
    try:
        stand, note = run.earlier_stand()
        if note:
            print(f"note: {note}", flush=True)
        stand = run.make_masks(stand)
        names = write_outputs(run, stand)
    except KeyboardInterrupt:
        print(f"interrupted; {run.folder} holds the masks so far, the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
    for line in notes_after(run, names, stand.scores):
        print(line)
    more = [args.out / OVERLAY] * args.overlay + [args.out / RESULTS] * args.coco
    more += [args.out / "alpha" / run.sequence] * args.alpha
    where = ", ".join(map(str, [run.folder, *more]))
    print(f"{len(names)} masks in {where}, {stand.seconds / max(len(names), 1):.2f} s a frame")
