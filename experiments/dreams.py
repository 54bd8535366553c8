"""What the segmentation network is trained on, as a picture: python -m experiments.dreams"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from datasets.cache import cached
from experiments.common import cli
from experiments.common.presets import find_preset, open_split
from stg_pyg.errors import InputError
from stg_pyg.learning.first_frame import AnnotatedFrames
from stg_pyg.lucid.dreamer import DreamCache
from stg_pyg.lucid.samples import AnnotatedVideo, LucidConfig, Sample, draw_sample
from stg_pyg.utils.images import UInt8Array, overlay, read_image, read_label_map, write_image, write_json

GAP = 4
"""White pixels between pictures."""


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "A sheet of training samples (crop, Q, target), of a split or of one annotated frame, and samples a second on "
        "one core.",
        out="runs/dreams",
    )
    parser.add_argument("--preset", default="davis2016", help="data set, and how its samples are drawn")
    parser.add_argument("--root", type=Path, help="folder of the data set (not for synthetic)")
    parser.add_argument("--split", default="train", help="videos")
    parser.add_argument("--video", nargs="+", metavar="NAME", help="only these videos")
    parser.add_argument("--frame", type=Path, metavar="IMAGE", help="one picture instead of a split")
    parser.add_argument("--masks", type=Path, metavar="PNG", help="its object ids")
    parser.add_argument("--size", type=cli.whole, default=128, help="side of the crops")
    parser.add_argument("--samples", type=cli.whole, default=48, help="how many on the sheet")
    parser.add_argument("--dream-share", type=float, default=1.0, help="samples dreamt from one frame, 0 to 1")
    parser.add_argument("--columns", type=cli.whole, default=6, help="samples side by side")
    args = parser.parse_args()
    if (args.frame is None) != (args.masks is None):
        raise InputError("--frame and --masks belong together: give both or neither")
    if args.size < 16 or args.samples < 1 or args.columns < 1 or not 0 <= args.dream_share <= 1:
        raise InputError("--size must be at least 16, --samples and --columns at least 1, --dream-share 0 to 1")
    return args


def open_videos(args: argparse.Namespace) -> list[AnnotatedVideo]:
    """The annotated frame given, or the videos of the split.

    Raises:
        InputError: the two pictures do not fit, there is no object, or no such video.
    """
    if args.frame is not None:
        image, labels = read_image(args.frame), read_label_map(args.masks)
        if labels.shape != image.shape[:2]:
            sizes = (f"{x.shape[1]} x {x.shape[0]}" for x in (labels, image))
            raise InputError(f"{args.masks}: is {' but the picture '.join(sizes)}; give masks of the picture's size")
        if not labels.any():
            raise InputError(f"{args.masks}: shows no object; give a mask with at least one")
        return [AnnotatedFrames([image], [labels])]
    videos = open_split(find_preset(args.preset), args.split, args.root, args.seed)
    if args.video:
        names = [video.name for video in videos]
        for name in args.video:
            if name not in names:
                raise InputError(f"split {args.split} has no video {name}: choose from {', '.join(sorted(names))}")
        videos = [video for video in videos if video.name in args.video]
    return [*cached(videos, 1.0)]


def contact_sheet(samples: list[Sample], columns: int) -> UInt8Array:
    """The samples in rows: crop, Q tinted over it, target tinted over it, on white."""
    size, pictures = len(samples[0].image), []
    for sample in samples:
        tinted = [overlay(sample.image, mask > 127) for mask in (sample.q, sample.target)]
        cell = np.full((size + GAP, 3 * size + 4 * GAP, 3), 255, np.uint8)
        for place, picture in enumerate([sample.image, *tinted]):
            cell[GAP:, GAP + place * (size + GAP) :][:, :size] = picture
        pictures.append(cell)
    columns = min(columns, len(samples))
    pictures += [np.full_like(pictures[0], 255)] * (-len(samples) % columns)
    rows = [np.concatenate(pictures[k : k + columns], axis=1) for k in range(0, len(pictures), columns)]
    return np.concatenate([*rows, np.full_like(rows[0][:GAP], 255)])


def draw(videos: list[AnnotatedVideo], config: LucidConfig, count: int, seed: int) -> list[Sample]:
    """Samples of videos drawn at random."""
    rng, dreamers = np.random.default_rng(seed), DreamCache()
    return [draw_sample(rng, videos, config, int(rng.integers(len(videos))), dreamers) for _ in range(count)]


def main() -> None:
    args = parse()
    cli.make_folder(args.out)
    cv2.setNumThreads(1)
    videos = open_videos(args)
    config = LucidConfig(**{**vars(find_preset(args.preset).lucid), "size": args.size, "dream_share": args.dream_share})
    samples = draw(videos, config, args.samples, args.seed)
    started = time.perf_counter()
    draw(videos, config, args.samples, args.seed)  # again, as in training the frames are in memory
    per_second = len(samples) / (time.perf_counter() - started)
    write_image(args.out / "dreams.png", contact_sheet(samples, args.columns))
    result = {"samples": len(samples), "size": args.size, "dream_share": args.dream_share}
    write_json(args.out / "dreams.json", {**result, "samples_per_second": per_second})
    print(f"{len(samples)} samples, {per_second:.0f} a second on one core; {args.out / 'dreams.png'}")


if __name__ == "__main__":
    cli.run(main)
