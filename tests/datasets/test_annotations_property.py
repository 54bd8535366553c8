"""Whatever the lists and annotations of a data set hold, its reader gives what they hold or one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import annotation, box_mask, compressed, make_root, polygon, runs
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import anything, damaged, nearly, parses, some, texts, to_json

from datasets import DAVIS, YouTubeVOS
from datasets.coco import COCO
from stg_pyg.errors import InputError
from stg_pyg.proposals.rle import encode_masks
from stg_pyg.utils.images import write_image, write_label_map

SIZE = (12, 16)
MASK = box_mask(2, 3, 9, 12)[:12, :16].astype(bool)
RLE = encode_masks(torch.from_numpy(MASK)[None])[0].decode()


def write_video(root: Path, name: str, labels: np.ndarray, folders: tuple[str, str]) -> None:
    for t in (0, 5):
        write_image(root / folders[0] / name / f"{t:05d}.png", np.zeros((*labels.shape, 3), np.uint8))
        write_label_map(root / folders[1] / name / f"{t:05d}.png", labels)


@pytest.fixture(scope="module")
def davis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("davis")
    for name in ("car", "boat"):
        write_video(root, name, MASK.astype(np.uint8), ("JPEGImages/480p", "Annotations/480p"))
    write_video(root / "JPEGImages", "elsewhere", MASK.astype(np.uint8), ("480p/../..", "480p/../.."))
    (root / "ImageSets" / "2017").mkdir(parents=True)
    return root


LIST = b"car\n/JPEGImages/480p/boat/00000.jpg /Annotations/480p/boat/00000.png\n"


@some
@given(
    damaged(LIST)
    | st.binary(max_size=20)
    | st.lists(texts, max_size=3).map(lambda n: "\n".join(n).encode("utf-8", "replace"))
)
@example(b"..")
@example(b"../../elsewhere")
@example(b"/elsewhere/x.jpg")
@example(b"a" * 300)
@example(b"\xff\xfe")
def test_lists_of_sequences(davis, content):
    (davis / "ImageSets" / "2017" / "val.txt").write_bytes(content)
    found = parses(DAVIS, davis, "2017", "val")
    assert found is None or set(found.sequence_names) <= {"car", "boat"}


VIDEOS = {
    "videos": {
        name: {
            "objects": {"1": {"category": "cat", "frames": ["00000"]}, "2": {"category": "dog", "frames": ["00005"]}}
        }
        for name in ("car", "boat")
    }
}


@pytest.fixture(scope="module")
def youtube_vos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("youtube_vos")
    for name in VIDEOS["videos"]:
        write_video(root, name, MASK + 1, ("train/JPEGImages", "train/Annotations"))
    return root


def use_youtube_vos(root: Path) -> None:
    for video in YouTubeVOS(root, "train"):
        assert video.name in VIDEOS["videos"]
        assert set(video.object_ids) <= {1, 2} and video.categories.keys() >= set(video.object_ids)
        assert set(video.requested_frames) <= {0, 1}


@some
@given(nearly(VIDEOS).map(to_json) | damaged(to_json(VIDEOS)) | anything.map(to_json))
def test_meta_of_youtube_vos(youtube_vos, content):
    (youtube_vos / "train" / "meta.json").write_bytes(content)
    parses(use_youtube_vos, youtube_vos)


ANNOTATIONS = [
    annotation(1, 0, [polygon(2, 3, 9, 9)]),
    annotation(2, 0, compressed(box_mask(1, 2, 5, 8))),
    annotation(3, 1, runs(box_mask(1, 2, 5, 8))),
]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("coco") / "root", ANNOTATIONS)


INSTANCES = {
    "images": [{"id": i, "file_name": f"{i:012d}.jpg", "height": 24, "width": 36} for i in range(2)],
    "annotations": ANNOTATIONS,
}


def use_coco(root: Path) -> None:
    for video in COCO(root):
        assert video.image(0).shape[:2] == video.labels(0).shape


@some
@given(nearly(INSTANCES).map(to_json) | damaged(to_json(INSTANCES)) | anything.map(to_json))
def test_instances_of_coco(coco, content):
    (coco / "annotations" / "instances_train2017.json").write_bytes(content)
    parses(use_coco, coco)


@pytest.mark.parametrize("far", [2.0**31, -1e30, 1e8, 150, float("nan"), float("inf"), 10**400])
def test_outlines_that_would_take_all_memory(coco, far):
    content = {**INSTANCES, "annotations": [annotation(1, 0, [[2, 3, far, 3, 9, 9, 2, 9]])]}
    (coco / "annotations" / "instances_train2017.json").write_bytes(to_json(content))
    with pytest.raises(InputError, match=r"instances_train2017\.json: .*(annotation 1|polygon|float)"):
        use_coco(coco)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file_name": "../elsewhere.jpg"}, "no name of a picture below the folder"),
        ({"file_name": "/elsewhere.jpg"}, "no name of a picture below the folder"),
        ({"height": 10**9, "width": 10**9}, "1000000000 x 1000000000 pixels"),
    ],
)
def test_pictures_elsewhere_or_of_terabytes(coco, change, words):
    write_image(coco / "elsewhere.jpg", np.zeros((24, 36, 3), np.uint8))
    content = {**INSTANCES, "images": [{**INSTANCES["images"][0], **change}]}
    (coco / "annotations" / "instances_train2017.json").write_bytes(to_json(content))
    with pytest.raises(InputError, match=words):
        use_coco(coco)
