import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import YouTubeObjects
from datasets.fixtures import write_fixture
from datasets.youtube_objects import CLASSES
from stg_pyg.errors import InputError


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_fixture("youtube_objects", tmp_path_factory.mktemp("data") / "yto")


@pytest.fixture
def root(source, tmp_path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "yto"))


def message_of(call) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_labelled_shots(source):
    dataset = YouTubeObjects(source)
    assert (dataset.name, dataset.split) == ("youtube_objects", "all") and len(CLASSES) == 10
    assert dataset.sequence_names == ["aeroplane_0001_001", "cat_0003_001", "cat_0012_002"]
    video = dataset[0]
    assert video.frame_names == [f"frame{t:04d}" for t in range(1, 9)]
    assert video.categories == {1: "aeroplane"} and dataset[2].categories == {1: "cat"}
    assert [t for t in range(8) if video.annotated(t)] == [2, 5]
    assert video.first_frame_of == {1: 2}, "the first labelled frame is given"
    assert video.labels(0) is None and video.image(0).shape == (64, 96, 3)
    assert len(video.requested_frames) == 8


def test_lossy_labels_have_two_values(source):
    video = YouTubeObjects(source)[0]
    stored = np.asarray(Image.open(source / "aeroplane/data/0001/shots/001/labels/frame0003.jpg").convert("L"))
    assert len(np.unique(stored)) > 2, "the fixture is lossy"
    np.testing.assert_array_equal(video.labels(2), stored >= 128)


def test_labels_by_number_and_frames_at_their_size(source):
    video = YouTubeObjects(source).by_name("cat_0003_001")
    folder = source / "cat/data/0003/shots/001"
    assert sorted(path.name for path in (folder / "labels").iterdir()) == ["00003.jpg", "00006.jpg"]
    assert [t for t in range(8) if video.annotated(t)] == [2, 5]
    large = Image.open(folder / "images/frame0003.jpg")
    assert large.size == (192, 128) and video.size == video.labels(2).shape == (64, 96)
    small = np.asarray(large.reduce(2)).astype(int)
    assert video.image(2).shape == (64, 96, 3) and np.abs(video.image(2) - small).max() <= 1


def test_missing_parts_are_named(root):
    message = message_of(lambda: YouTubeObjects(root / "nowhere"))
    assert "the folder itself is missing" in message and "<class>/data/<video>/shots/<shot>/images" in message
    assert "choose all" in message_of(lambda: YouTubeObjects(root, "val"))
    (root / "empty").mkdir()
    assert "aeroplane/data is missing" in message_of(lambda: YouTubeObjects(root / "empty"))
    (root / "cat/data/0012/shots/002/images/frame0006.jpg").unlink()
    assert "002/images: 1 frame(s) missing: frame0006" in message_of(lambda: YouTubeObjects(root))
    shutil.rmtree(root / "cat/data/0012/shots/002/images")
    assert "002/images: no such folder" in message_of(lambda: YouTubeObjects(root))
    for path in root.glob("*/data/*/shots/*/labels"):
        shutil.rmtree(path)
    assert "has no shot with labels" in message_of(lambda: YouTubeObjects(root))


def test_labels_of_another_shape_are_named(root):
    for path in (root / "aeroplane/data/0001/shots/001/labels").iterdir():
        Image.open(path).resize((48, 48)).save(path)
    video = YouTubeObjects(root)[0]
    assert "frame0001.jpg: is 96 x 64 pixels and the labels are 48 x 48" in message_of(lambda: video.image(0))


def test_labels_of_different_sizes_are_named(root):
    path = root / "aeroplane/data/0001/shots/001/labels/frame0006.jpg"
    Image.open(path).resize((48, 32)).save(path)
    video = YouTubeObjects(root)[0]
    assert "frame0006.jpg: is 48 x 32 pixels" in message_of(lambda: video.labels(5))
