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


@pytest.fixture
def root(source, tmp_path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "seg"))


def mask_of(root: Path, *parts: str) -> np.ndarray:
    return np.asarray(Image.open(root.joinpath("GroundTruth", *parts)).convert("L")) >= 128


def message_of(call) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_one_object(source):
    dataset = SegTrackV2(source)
    assert (dataset.name, dataset.split) == ("segtrack_v2", "all")
    assert dataset.sequence_names == ["birdfall", "bmx", "girl", "monkeydog"]
    for name, suffix in (("birdfall", "png"), ("girl", "bmp")):
        video = dataset.by_name(name)
        assert video.frame_names[3] == f"{name}_00003" and len(video) == 8
        assert video.object_ids == [1] and video.size == (64, 96)
        np.testing.assert_array_equal(video.labels(3) == 1, mask_of(source, name, f"{name}_00003.png"))
        np.testing.assert_array_equal(
            video.image(3), np.asarray(Image.open(source / f"JPEGImages/{name}/{name}_00003.{suffix}"))
        )
        assert all(video.annotated(t) for t in range(8)) and video.requested_frames == list(range(8))


def test_several_objects_become_one_map_with_the_later_on_top(source):
    video = SegTrackV2(source, sequences=["bmx"])[0]
    below, above = (mask_of(source, "bmx", i, "bmx_00002.png") for i in "12")
    labels = video.labels(2)
    assert (below & above).any(), "the fixture has an overlap"
    np.testing.assert_array_equal(labels == 2, above)
    np.testing.assert_array_equal(labels == 1, below & ~above)
    assert SegTrackV2(source).by_name("monkeydog").first_frame_of == {1: 0, 2: 4}


def test_ids_are_the_names_of_the_folders(root):
    (root / "GroundTruth/bmx/2").rename(root / "GroundTruth/bmx/10")
    assert SegTrackV2(root).by_name("bmx").object_ids == [1, 10]
    (root / "GroundTruth/bmx/10").rename(root / "GroundTruth/bmx/256")
    assert "bmx/256: is no object" in message_of(lambda: SegTrackV2(root))


def test_lossy_and_coloured_masks(root):
    folder = root / "GroundTruth/girl"
    expected = mask_of(root, "girl", "girl_00000.png")
    for t, path in enumerate(sorted(folder.iterdir())):
        soft = cv2.GaussianBlur(cv2.imread(str(path)), (3, 3), 0)
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".jpg" if t % 2 == 0 else ".bmp")), soft)
    video = SegTrackV2(root).by_name("girl")
    found = video.labels(0) == 1
    assert (found & expected).sum() / (found | expected).sum() > 0.8
    assert set(np.unique(video.labels(1))) == {0, 1}


def test_masks_are_brighter_than_middle_grey(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_binary_mask(tmp_path / "mask.png"), [[False, False, True, True]])


@pytest.mark.parametrize("form", ["0 and 1", "16 bits", "index", "alpha", "dark noise"])
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
    }
    pictures["index"].putpalette(davis_palette().tobytes())  # object 8 is (64, 0, 0)
    pictures[form].save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_binary_mask(tmp_path / "mask.png"), inside)


def test_several_dark_ids_and_unclear_transparency_are_refused(tmp_path):
    ids = np.zeros((12, 16), np.uint8)
    ids[3:9, 2:7], ids[3:9, 9:14] = 1, 2
    Image.fromarray(ids).save(tmp_path / "ids.png")
    assert "has objects 1 and 2" in message_of(lambda: read_binary_mask(tmp_path / "ids.png"))
    white = Image.fromarray((ids == 1).astype(np.uint8) * np.uint8(255))
    Image.merge("LA", [white, Image.fromarray((ids == 2).astype(np.uint8) * np.uint8(255))]).save(tmp_path / "la.png")
    assert "where it is transparent" in message_of(lambda: read_binary_mask(tmp_path / "la.png"))


def test_missing_parts_are_named(root):
    message = message_of(lambda: SegTrackV2(root / "nowhere"))
    assert "the folder itself is missing" in message and "GroundTruth/<sequence>/1/*.png" in message
    assert "choose all" in message_of(lambda: SegTrackV2(root, split="val"))
    assert "JPEGImages: 1 sequence(s) missing: zebra" in message_of(lambda: SegTrackV2(root, sequences=["zebra"]))
    (root / "GroundTruth/bmx/2/bmx_00004.png").unlink()
    assert "GroundTruth/bmx/2: 1 mask(s) missing: bmx_00004" in message_of(lambda: SegTrackV2(root))
    shutil.rmtree(root / "GroundTruth/bmx")
    assert "GroundTruth: 1 sequence(s) missing: bmx" in message_of(lambda: SegTrackV2(root))
    shutil.rmtree(root / "JPEGImages/bmx")
    (root / "JPEGImages/girl/girl_00001.bmp").unlink()
    assert "JPEGImages/girl: 1 frame(s) missing: girl_00001" in message_of(lambda: SegTrackV2(root))
    shutil.rmtree(root / "GroundTruth")
    assert "GroundTruth is missing" in message_of(lambda: SegTrackV2(root))


def test_masks_of_another_size_are_named(root):
    path = root / "GroundTruth/girl/girl_00001.png"
    Image.open(path).resize((48, 32)).save(path)
    video = SegTrackV2(root).by_name("girl")
    assert "girl_00001.png: is 48 x 32 pixels but the frames are 96 x 64" in message_of(lambda: video.labels(1))
