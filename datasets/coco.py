"""Instance annotations in the format of COCO (Lin et al., ECCV 2014, arXiv:1405.0312), as videos of one frame."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from datasets.base import UInt8Array, VideoDataset, VideoSequence
from datasets.files import check_root
from stg_pyg.errors import InputError
from stg_pyg.proposals.rle import find_fault
from stg_pyg.utils.images import is_inside, load_json, read_image

MAX_OBJECTS = 255
_MOST_PIXELS = 2**28
_FARTHEST = 4
"""Coordinates of polygons are at most so many sides of the picture."""

Segmentation = list[NDArray[np.float32]] | list[int] | bytes
"""Polygons [2 K] of (x, y) in turn, the runs of an uncompressed RLE, or a compressed RLE."""


class CocoPicture(VideoSequence):
    """One image as a video of one frame, its instances numbered 1, 2, ... by falling area.

    Where instances overlap, the smaller one is on top. Beyond 255 instances the largest are kept. ``objects`` has the
    number and the mask of each annotation in the file ``source``.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], objects: list[tuple[int, Segmentation]], source: Path
    ) -> None:
        self.name, self.frame_names = path.stem, [path.stem]
        self.size = size
        self._path, self._objects, self._source = path, objects, source

    def image(self, t: int) -> UInt8Array:
        image = read_image(self._path)
        (rows, columns), (height, width) = image.shape[:2], self.size
        if (rows, columns) != (height, width):
            raise InputError(
                f"{self._path}: is {columns} x {rows} pixels but {self._source.name} says {width} x {height}; "
                "use images and annotations of the same release"
            )
        return image

    def labels(self, t: int) -> UInt8Array:
        labels = np.zeros(self.size, np.uint8)
        masks = [self._mask(*entry) for entry in self._objects]
        largest = sorted((m for m in masks if m.any()), key=lambda m: -int(m.sum()))[:MAX_OBJECTS]
        for obj_id, mask in enumerate(largest, start=1):
            labels[mask] = obj_id
        return labels

    @property
    def files(self) -> list[Path]:
        return [self._path, self._source]

    def _mask(self, annotation: int, segmentation: Segmentation) -> NDArray[np.bool_]:
        height, width = self.size
        fault = "is neither polygons nor a mask of the image's size"
        try:
            if isinstance(segmentation, bytes):
                problem = find_fault([segmentation], (height, width))
                fault = problem[1] if problem else fault
                codes: Any = None if problem else {"size": [height, width], "counts": segmentation}
            elif segmentation and isinstance(segmentation[0], np.ndarray):
                polygons = [polygon.astype(float).tolist() for polygon in segmentation]  # type: ignore[union-attr]
                # pycocotools walks along the outline, and out of its memory when that is too long.
                limit = _FARTHEST * max(height, width)
                far = any(not abs(value) <= limit for polygon in polygons for value in polygon)
                codes = None if far else coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
            else:
                whole = sum(segmentation) == height * width and min(segmentation) >= 0  # type: ignore[arg-type,type-var]
                runs = {"size": [height, width], "counts": segmentation}
                codes = coco_mask.frPyObjects(runs, height, width) if whole else None
        except (TypeError, ValueError):
            codes = None
        if codes is None:
            raise InputError(f"{self._source}: the mask of annotation {annotation} {fault}; download the file again")
        mask = coco_mask.decode({"size": codes["size"], "counts": bytes(codes["counts"])}).astype(bool)
        if isinstance(segmentation[0], np.ndarray) and not mask.any():
            # A sliver between pixels is still an object, and a picture without any cannot be trained on.
            x, y = segmentation[0].reshape(-1, 2).mean(axis=0)
            mask[int(np.clip(y, 0, height - 1)), int(np.clip(x, 0, width - 1))] = True
        return mask


class COCO(VideoDataset):
    """Images with instance masks, whatever their classes, for training::

        root/annotations/instances_<split>.json
        root/<split>/<file name>

    Crowd regions are dropped, and so are images without any instance.

    Args:
        root: the folder that holds ``annotations``.
        split: ``train2017``, ``val2017`` or any other name with a file of annotations.

    Raises:
        InputError: a folder or the file is missing, or the file is no such file.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "train2017") -> None:
        root = Path(root)
        file, folder = self.file_of(root, split), root / split
        check_root(root, "COCO", [file, folder], f"annotations/instances_{split}.json and {split}/<image files>")
        super().__init__("coco", split, _index(file, folder))
        if not self._sequences:
            raise InputError(f"{file}: annotates no object; choose another split")

    @staticmethod
    def file_of(root: Path, split: str) -> Path:
        """The file of annotations of a split."""
        return root / "annotations" / f"instances_{split}.json"


def _index(file: Path, folder: Path) -> list[CocoPicture]:
    """The images that have objects, in the order of the file."""
    try:
        content = load_json(file.read_bytes())
        objects: dict[int, list[tuple[int, Segmentation]]] = {}
        for entry in content["annotations"]:
            compact = [] if entry.get("iscrowd", 0) else _compact(entry["segmentation"])
            if compact:
                objects.setdefault(entry["image_id"], []).append((entry["id"], compact))
        images = [entry for entry in content["images"] if entry["id"] in objects]
        return [CocoPicture(folder / _name(entry), _size(entry), objects[entry["id"]], file) for entry in images]
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(
            f"{file}: holds no instance annotations of COCO's format ({type(error).__name__} {error}); "
            "download the file again"
        ) from error


def _name(entry: dict[str, Any]) -> str:
    name = str(entry["file_name"])
    if not is_inside(name):
        raise ValueError(f"{name[:80]!r} is no name of a picture below the folder")
    return name


def _size(entry: dict[str, Any]) -> tuple[int, int]:
    height, width = int(entry["height"]), int(entry["width"])
    if min(height, width) < 1 or height * width > _MOST_PIXELS:
        raise ValueError(f"{entry['file_name']} of {width} x {height} pixels")
    return height, width


def _compact(segmentation: Any) -> Segmentation:
    """In a fraction of the memory of lists of numbers, as there may be a million polygons; empty for no mask at all."""
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        return counts.encode() if isinstance(counts, str) else [int(n) for n in counts]
    polygons = [np.asarray(polygon, np.float64) for polygon in segmentation if len(polygon) >= 6]
    if not all(polygon.ndim == 1 and polygon.size % 2 == 0 and np.abs(polygon).max() < 1e9 for polygon in polygons):
        raise ValueError("a polygon is no list of finite x and y in turn")
    return [polygon.astype(np.float32) for polygon in polygons]
