"""A small data set in COCO's format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 24, 36


def box_mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def polygon(x0: float, y0: float, x1: float, y1: float) -> list[float]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def compressed(mask: np.ndarray) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode()}


def runs(mask: np.ndarray) -> dict[str, Any]:
    values = mask.T.ravel()
    ends = np.flatnonzero(np.diff(values)) + 1
    counts = np.diff([0, *ends, len(values)]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *counts] if values[0] else counts}


def annotation(number: int, image: int, segmentation: Any, crowd: int = 0) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": number, "segmentation": segmentation, "iscrowd": crowd}


def make_root(root: Path, annotations: list[dict[str, Any]], num_images: int = 2, split: str = "train2017") -> Path:
    for folder in ("annotations", split):
        (root / folder).mkdir(parents=True)
    images = []
    for i in range(num_images):
        name = f"{i:012d}.jpg"
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 40 * i, np.uint8)).save(root / split / name)
        images.append({"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH})
    content = {"images": images, "annotations": annotations, "categories": []}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
