"""Example: label maps as tracking systems give them, each pixel in one track and most tracks background.

    python docs/disjoint_tracks.py DAVIS dev RESULTS OUT [--kind whole|leaky|pieces]

RESULTS are masks ``<sequence>/<frame>.png`` of one object, as ``experiments.evaluate`` writes them; about fifteen
superpixels fill the rest of the frame. ``whole`` keeps the object's mask as one track; ``leaky`` joins it with a
neighbour in a fifth of the frames and leaves it out in one of twelve; ``pieces`` cuts it in two and loses the lower
piece in one of eight. ``export_proposals.py labels OUT`` turns the result into proposals.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import cv2
import numpy as np
from skimage.segmentation import slic

from datasets.davis import DAVIS
from stg_pyg.utils.images import read_label_map, write_label_map


def background(image: np.ndarray) -> np.ndarray:
    """Superpixels with labels from 3 on."""
    small = cv2.resize(image, (214, 120), interpolation=cv2.INTER_AREA)
    segments = slic(small, n_segments=16, compactness=12, start_label=1, sigma=1) + 2
    return cv2.resize(segments.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def disturb(labels: np.ndarray, mask: np.ndarray, kind: str, cut: float, rng: np.random.Generator) -> np.ndarray:
    """The label map with the object as the ``kind`` says."""
    rows = np.flatnonzero(mask.any(axis=1))
    result = labels.copy()
    chance = rng.random()
    if kind == "pieces" and len(rows):
        upper = mask.copy()
        upper[int(rows[0] + (rows[-1] - rows[0]) * (cut + 0.05 * rng.standard_normal())) :] = False
        result[upper] = 1
        if chance >= 0.12:
            result[mask & ~upper] = 2
        return result
    if kind == "leaky" and 0.2 <= chance < 0.28:
        return result
    result[mask] = 1
    if kind == "leaky" and chance < 0.2 and len(rows):
        near = np.unique(labels[cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0])
        result[labels == rng.choice(near)] = 1
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of DAVIS")
    parser.add_argument("split")
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", choices=("whole", "leaky", "pieces"), default="whole")
    args = parser.parse_args()
    for video in DAVIS(args.root, year="2016", split=args.split):
        rng = np.random.default_rng(zlib.crc32(video.name.encode()))
        cut = 0.35 + 0.3 * rng.random()
        for t, name in enumerate(video.frame_names):
            mask = read_label_map(args.results / video.name / f"{name}.png") > 0
            labels = disturb(background(video.image(t)), mask, args.kind, cut, rng)
            write_label_map(args.out / video.name / f"{name}.png", labels)


if __name__ == "__main__":
    main()
