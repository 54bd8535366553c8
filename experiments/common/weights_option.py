"""The argument ``--weights``, the same for every command whose networks can start from pretrained weights."""

from __future__ import annotations

import argparse


def add_weights_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds ``--weights``; its value is what :func:`stg_pyg.utils.pretrained.load_torchvision` takes."""
    parser.add_argument(
        "--weights",
        default=default,
        metavar="auto|none|PATH",
        help="pretrained weights: auto, torchvision's, from the cache of torch.hub or downloaded to there; none, "
        "random initialisation; PATH, a state dict, or a folder that holds such files under torchvision's names",
    )
