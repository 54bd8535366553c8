"""Tells by its layout which benchmarks a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets.youtube_objects import CLASSES
from stg_pyg.errors import InputError

_LAYOUTS = (
    "ImageSets/2016 or ImageSets/2017 (DAVIS), train/meta.json or valid/meta.json (YouTube-VOS), "
    "GroundTruth (SegTrack-v2), <class>/data (YouTube-Objects)"
)


def splits_in(root: Path) -> dict[str, set[str]]:
    """The splits that a folder has of each data set, by the name that presets use; empty if it is none of them."""
    splits: dict[str, set[str]] = {}
    if (root / "JPEGImages").is_dir():
        for dataset, folders in {"davis2016": ("2016", "480p"), "davis2017": ("2017",)}.items():
            splits[dataset] = {path.stem for f in folders for path in (root / "ImageSets" / f).glob("*.txt")}
        splits["segtrack_v2"] = {"all"} if (root / "GroundTruth").is_dir() else set()
    splits["youtube_vos"] = {path.parent.name for path in root.glob("*/meta.json")}
    if "train" in splits["youtube_vos"]:
        splits["youtube_vos"] |= {"fit", "dev"}
    splits["youtube_objects"] = {"all"} if any((root / name / "data").is_dir() for name in CLASSES) else set()
    return {dataset: found for dataset, found in splits.items() if found}


def find_roots(roots: Sequence[Path]) -> dict[tuple[str, str], Path]:
    """By data set and split, the first folder that has it; a folder that is no data set may hold some.

    Raises:
        InputError: a folder does not exist, or there is no data set in it.
    """
    found: dict[tuple[str, str], Path] = {}
    for root in roots:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; give folders of data sets with --root")
        candidates = [root] if splits_in(root) else sorted(path for path in root.iterdir() if path.is_dir())
        known = {path: splits_in(path) for path in candidates}
        if not any(known.values()):
            raise InputError(f"{root}: is no data set that is known here; expected {_LAYOUTS} in it")
        for path, datasets in known.items():
            for dataset, splits in datasets.items():
                for split in splits:
                    found.setdefault((dataset, split), path)
    return found
