import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets import YouTubeVOS
from datasets.fixtures import write_fixture
from stg_pyg.errors import InputError
from stg_pyg.utils.images import read_label_map, write_label_map


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_fixture("youtube_vos", tmp_path_factory.mktemp("data") / "ytv")


@pytest.fixture
def root(source, tmp_path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "ytv"))


def add_object(root: Path, number: str, frames: list[str]) -> None:
    path = root / "train/meta.json"
    content = json.loads(path.read_text())
    content["videos"]["0043f083b5"]["objects"][number] = {"frames": frames}
    path.write_text(json.dumps(content))


def test_train_has_masks_of_every_fifth_frame(source):
    dataset = YouTubeVOS(source, "train", all_frames=False)
    assert dataset.sequence_names == ["003234408d", "0043f083b5", "0044fa5fba"]
    video = dataset[1]
    assert video.frame_names == ["00000", "00005", "00010", "00015"] and video.requested_frames == [0, 1, 2, 3]
    stored = read_label_map(source / "train/Annotations" / video.name / "00010.png")
    np.testing.assert_array_equal(video.labels(2), stored)
    assert video.first_frame_of == {1: 0, 4: 0} and video.categories == {1: "bus", 4: "sedan"}


def test_objects_that_come_later_and_the_frames_that_the_server_wants(source):
    assert YouTubeVOS(source, "train", all_frames=False)[0].first_frame_of == {1: 0, 2: 1}
    first, second = YouTubeVOS(source, "valid", all_frames=False)
    assert first.first_frame_of == {1: 0, 3: 1} and [first.annotated(t) for t in range(4)] == [True, True, False, False]
    assert set(np.unique(first.labels(1))) == {0, 3}, "an object is given once"
    assert second.first_frame_of == {2: 1} and second.labels(0) is None
    assert second.requested_frames == [1, 2, 3], "the server wants nothing before the object"
    video = YouTubeVOS(source, "valid")[1]
    assert video.frame_names == [f"{t:05d}" for t in range(16)] and video.requested_frames == [5, 10, 15]
    assert video.first_frame_of == {2: 5} and [t for t in range(16) if video.annotated(t)] == [5]
    np.testing.assert_array_equal(video.image(10), second.image(2))


def test_val_is_valid_and_parts_of_train(source, root):
    assert YouTubeVOS(source, "val").sequence_names == YouTubeVOS(source, "valid").sequence_names
    assert YouTubeVOS(source, "dev").sequence_names == ["003234408d"]
    assert YouTubeVOS(source, "fit").sequence_names == ["0043f083b5", "0044fa5fba"]
    shutil.copytree(root / "train", root / "dev")
    assert len(YouTubeVOS(root, "dev")) == 3, "a folder of that name comes first"
    shutil.rmtree(root / "valid_all_frames")
    assert len(YouTubeVOS(root, "valid")[0]) == 4
    with pytest.raises(InputError, match="valid_all_frames/JPEGImages is missing"):
        YouTubeVOS(root, "valid", all_frames=True)


def test_first_frame_is_where_the_mask_shows_the_object(root):
    mask = root / "train/Annotations/0043f083b5/00000.png"
    labels = read_label_map(mask)
    write_label_map(mask, np.where(labels == 4, 0, labels))
    add_object(root, "7", ["00005"])
    video = YouTubeVOS(root, "train", all_frames=False)[1]
    assert video.first_frame_of == {1: 0, 4: 1}, "no mask shows object 7"
    assert video.categories[7] == ""


def test_only_the_masks_that_are_needed_are_decoded(root, monkeypatch):
    video = YouTubeVOS(root, "train")[2]
    read: list[int] = []
    labels = type(video).labels
    monkeypatch.setattr(type(video), "labels", lambda self, t: (read.append(t), labels(self, t))[1])
    assert video.annotated(5) and video.requested_frames == [0, 5, 10, 15] and video.first_frame_of == {1: 0}
    assert read == [0]


@pytest.mark.parametrize("keys", [("1", "1"), ("1", "01")])
def test_an_object_that_is_there_twice(root, keys):
    objects = ", ".join(f'"{key}": {{"category": "cat", "frames": []}}' for key in keys)
    (root / "train/meta.json").write_text(f'{{"videos": {{"0043f083b5": {{"objects": {{{objects}}}}}}}}}')
    with pytest.raises(InputError, match="is there twice"):
        YouTubeVOS(root)


def test_wrong_meta(root):
    add_object(root, "256", [])
    with pytest.raises(InputError, match=r"meta\.json: video 0043f083b5 has object 256; ids must be 1 to 255"):
        YouTubeVOS(root)
    for text in ("{", "[]", '{"videos": {"a": {}}}', '{"videos": {"a": {"objects": {"x": {}}}}}', '{"videos": {}}'):
        (root / "train/meta.json").write_text(text)
        with pytest.raises(InputError, match=r"meta\.json: (is no meta|has no video for split train)"):
            YouTubeVOS(root)
