"""Proposals of your own as COCO results JSON: from a torchvision detector, or from label maps of any segmentation.

    python docs/export_proposals.py detector FRAMES --out proposals.json
    python docs/export_proposals.py labels LABELS --out proposals.json

An example to adapt: whatever gives boxes, masks and scores ends in ``write_coco_results``, and every command with
``--proposals FILE`` reads it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torchvision.models import detection

from stg_pyg import InputError, Proposals
from stg_pyg.proposals.coco import write_coco_results
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.utils.images import natural_sort_key, read_image, read_label_map
from stg_pyg.utils.pretrained import load_torchvision

NETWORK = "maskrcnn_resnet50_fpn_v2"
Results = dict[str, dict[str, EncodedProposals]]


def from_detector(folder: Path, sequence: str, weights: str, score: float) -> Results:
    """Boxes, masks and scores of torchvision's Mask R-CNN on a folder of frames of one video."""
    state = load_torchvision(NETWORK, weights)
    network = getattr(detection, NETWORK)(weights=None, weights_backbone=None).eval()
    if state is not None:
        network.load_state_dict(state)
    frames = {}
    for path in pictures(folder, (".jpg", ".jpeg", ".png")):
        image = torch.from_numpy(read_image(path)).permute(2, 0, 1).float() / 255
        with torch.no_grad():
            found = network([image])[0]
        proposals = Proposals(found["boxes"], found["masks"][:, 0] > 0.5, found["scores"])
        sides = proposals.boxes[:, 2:] - proposals.boxes[:, :2]
        chosen = proposals.select((proposals.scores >= score) & (sides > 0).all(dim=1))
        frames[path.stem] = EncodedProposals.from_proposals(chosen)
        print(f"{path}: {len(chosen)} proposals")
    return {sequence: frames}


def from_labels(folder: Path) -> Results:
    """Every id but 0 of the label maps ``<folder>/<sequence>/<frame>.png`` as a proposal with score 1."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one with <sequence>/<frame>.png")
    results: Results = {}
    for sequence in sorted((path for path in folder.iterdir() if path.is_dir()), key=natural_sort_key):
        results[sequence.name] = {}
        for path in pictures(sequence, (".png",)):
            labels = read_label_map(path)
            ids = np.unique(labels[labels > 0])
            masks = torch.from_numpy(labels == ids[:, None, None])
            results[sequence.name][path.stem] = EncodedProposals.from_proposals(Proposals.from_masks(masks))
    if not results:
        raise InputError(f"{folder}: has no folders of label maps; give the folder above, <sequence>/<frame>.png in it")
    return results


def pictures(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The pictures of a folder in the order of their numbers.

    Raises:
        InputError: there are none.
    """
    found = [path for path in folder.glob("*") if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    if not found:
        raise InputError(f"{folder}: no {' or '.join(suffixes)} files; check the path")
    return sorted(found, key=natural_sort_key)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help lists the arguments")


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    detector = kinds.add_parser("detector", help="torchvision's Mask R-CNN on a folder of frames")
    detector.add_argument("folder", type=Path, help="frames of one video")
    detector.add_argument("--sequence", help="name of the video; default: the name of the folder")
    detector.add_argument("--weights", default="auto", metavar="auto|none|PATH", help="COCO weights, or a file of them")
    detector.add_argument("--score", type=float, default=0.05, help="least score")
    labels = kinds.add_parser("labels", help="label maps <sequence>/<frame>.png, ids as for ground truth")
    labels.add_argument("folder", type=Path, help="folder of the folders of label maps")
    for kind in (detector, labels):
        kind.add_argument("--out", type=Path, required=True, metavar="FILE", help="COCO results, .json")
    args = parser.parse_args(arguments)
    if args.kind == "detector":
        results = from_detector(args.folder, args.sequence or args.folder.resolve().name, args.weights, args.score)
    else:
        results = from_labels(args.folder)
    write_coco_results(args.out, results)
    frames = [encoded for of in results.values() for encoded in of.values()]
    print(f"{sum(map(len, frames))} proposals in {len(frames)} frames of {len(results)} videos: {args.out}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
