import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets import SegTrackV2
from datasets.fixtures import write_fixture
from datasets.segtrack import read_binary_mask
from stg_pyg.errors import InputError
from stg_pyg.utils.mask_rules import davis_palette


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_fixture("segtrack_v2", tmp_path_factory.mktemp("data") / "seg")


def mask_of(root: Path, *parts: str) -> np.ndarray:
    return np.asarray(Image.open(root.joinpath("GroundTruth", *parts)).convert("L")) >= 128


def test_one_object_and_several_with_the_later_on_top(source):
    dataset = SegTrackV2(source)
    assert dataset.sequence_names == ["birdfall", "bmx", "girl", "monkeydog"]
    for name, suffix in (("birdfall", "png"), ("girl", "bmp")):
        video, frame = dataset.by_name(name), f"{name}/{name}_00003"
        np.testing.assert_array_equal(video.labels(3), mask_of(source, f"{frame}.png"))
        np.testing.assert_array_equal(video.image(3), np.asarray(Image.open(source / f"JPEGImages/{frame}.{suffix}")))
    below, above = (mask_of(source, "bmx", i, "bmx_00002.png") for i in "12")
    labels = SegTrackV2(source, sequences=["bmx"])[0].labels(2)
    assert (below & above).any(), "the fixture has an overlap"
    np.testing.assert_array_equal(labels == 2, above)
    np.testing.assert_array_equal(labels == 1, below & ~above)
    assert dataset.by_name("monkeydog").first_frame_of == {1: 0, 2: 4}
    with pytest.raises(InputError, match=r"JPEGImages: 1 sequence\(s\) missing: zebra"):
        SegTrackV2(source, sequences=["zebra"])


def test_ids_are_the_names_of_the_folders_and_masks_may_be_lossy(source, tmp_path):
    root = Path(shutil.copytree(source, tmp_path / "seg"))
    (root / "GroundTruth/bmx/2").rename(root / "GroundTruth/bmx/10")
    assert SegTrackV2(root).by_name("bmx").object_ids == [1, 10]
    expected = mask_of(root, "girl", "girl_00000.png")
    for t, path in enumerate(sorted((root / "GroundTruth/girl").iterdir())):
        soft = cv2.GaussianBlur(cv2.imread(str(path)), (3, 3), 0)
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".jpg" if t % 2 == 0 else ".bmp")), soft)
    video = SegTrackV2(root).by_name("girl")
    found = video.labels(0) == 1
    assert (found & expected).sum() / (found | expected).sum() > 0.8 and set(np.unique(video.labels(1))) == {0, 1}


@pytest.mark.parametrize("form", ["0 and 1", "16 bits", "index", "alpha", "dark noise", "middle grey"])
def test_masks_are_read_by_the_rules_of_all_masks(tmp_path, form):
    inside = np.zeros((12, 16), bool)
    inside[3:9, 4:12] = True
    levels = np.where(inside, 255, np.arange(16) // 4).astype(np.uint8)
    pictures = {
        "0 and 1": Image.fromarray(inside.astype(np.uint8)),
        "16 bits": Image.fromarray(np.where(inside, 65535, 0).astype(np.uint16)),
        "index": Image.fromarray(inside.astype(np.uint8) * np.uint8(8)).convert("P"),
        "alpha": Image.merge("LA", [Image.new("L", (16, 12)), Image.fromarray(inside).convert("L")]),
        "dark noise": Image.fromarray(levels),
        "middle grey": Image.fromarray(np.where(inside, 128 + levels // 2, 124 + levels).astype(np.uint8)),
    }
    pictures["index"].putpalette(davis_palette().tobytes())  # object 8 is (64, 0, 0)
    pictures[form].save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_binary_mask(tmp_path / "mask.png"), inside)


def test_several_dark_ids_and_unclear_transparency_are_refused(tmp_path):
    ids = np.zeros((12, 16), np.uint8)
    ids[3:9, 2:7], ids[3:9, 9:14] = 1, 2
    Image.fromarray(ids).save(tmp_path / "ids.png")
    white, other = (Image.fromarray((ids == i).astype(np.uint8) * np.uint8(255)) for i in (1, 2))
    Image.merge("LA", [white, other]).save(tmp_path / "la.png")
    for name, message in (("ids", "has objects 1 and 2"), ("la", "where it is transparent")):
        with pytest.raises(InputError, match=rf"{name}\.png: .*{message}") as error:
            read_binary_mask(tmp_path / f"{name}.png")
        assert "\n" not in str(error.value)
