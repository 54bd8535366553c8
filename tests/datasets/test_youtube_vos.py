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


def change_meta(root: Path, split: str, change) -> None:
    path = root / split / "meta.json"
    content = json.loads(path.read_text())
    change(content["videos"])
    path.write_text(json.dumps(content))


def test_train_has_masks_of_every_fifth_frame(source):
    dataset = YouTubeVOS(source, "train", all_frames=False)
    assert (dataset.name, dataset.split, len(dataset)) == ("youtube_vos", "train", 3)
    assert dataset.sequence_names == ["003234408d", "0043f083b5", "0044fa5fba"]
    video = dataset[1]
    assert video.frame_names == ["00000", "00005", "00010", "00015"]
    assert [video.annotated(t) for t in range(4)] == [True] * 4 and video.requested_frames == [0, 1, 2, 3]
    assert (video.size, video.image(3).shape) == ((64, 96), (64, 96, 3))
    np.testing.assert_array_equal(
        video.labels(2), read_label_map(source / "train/Annotations" / video.name / "00010.png")
    )
    assert video.first_frame_of == {1: 0, 4: 0}
    assert video.categories == {1: "bus", 4: "sedan"}


def test_objects_that_come_later(source):
    video = YouTubeVOS(source, "train", all_frames=False)[0]
    assert video.first_frame_of == {1: 0, 2: 1}
    first, second = YouTubeVOS(source, "valid", all_frames=False)
    assert first.first_frame_of == {1: 0, 3: 1} and [first.annotated(t) for t in range(4)] == [True, True, False, False]
    assert set(np.unique(first.labels(1))) == {0, 3}, "an object is given once"
    assert first.labels(2) is None
    assert second.first_frame_of == {2: 1} and second.labels(0) is None
    assert second.requested_frames == [1, 2, 3], "the server wants nothing before the object"


def test_all_frames_are_seen_and_the_server_s_requested(source):
    video = YouTubeVOS(source, "valid")[1]
    assert video.frame_names == [f"{t:05d}" for t in range(16)]
    assert video.first_frame_of == {2: 5} and video.requested_frames == [5, 10, 15]
    assert [t for t in range(16) if video.annotated(t)] == [5]
    np.testing.assert_array_equal(video.image(10), YouTubeVOS(source, "valid", all_frames=False)[1].image(2))


def test_val_is_valid_and_parts_of_train(source, root):
    assert YouTubeVOS(source, "val").sequence_names == YouTubeVOS(source, "valid").sequence_names
    assert YouTubeVOS(source, "dev").sequence_names == ["003234408d"]
    assert YouTubeVOS(source, "fit").sequence_names == ["0043f083b5", "0044fa5fba"]
    shutil.copytree(root / "train", root / "dev")
    assert len(YouTubeVOS(root, "dev")) == 3, "a folder of that name comes first"


def test_first_frame_is_where_the_mask_shows_the_object(root):
    mask = root / "train/Annotations/0043f083b5/00000.png"
    labels = read_label_map(mask)
    write_label_map(mask, np.where(labels == 4, 0, labels))
    assert YouTubeVOS(root, "train", all_frames=False)[1].first_frame_of == {1: 0, 4: 1}
    change_meta(root, "train", lambda videos: videos["0043f083b5"]["objects"].update({"7": {"frames": ["00005"]}}))
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


def message_of(call) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_parts_are_named(root):
    message = message_of(lambda: YouTubeVOS(root / "nowhere"))
    assert "the folder itself is missing" in message and "train/JPEGImages/<video>/<frame>.jpg" in message
    message = message_of(lambda: YouTubeVOS(root, "test"))
    assert "test/JPEGImages is missing" in message and "test/meta.json" in message
    (root / "train/meta.json").unlink()
    assert "train/meta.json is missing" in message_of(lambda: YouTubeVOS(root))
    shutil.rmtree(root / "valid_all_frames")
    assert len(YouTubeVOS(root, "valid")[0]) == 4
    assert "valid_all_frames/JPEGImages is missing" in message_of(lambda: YouTubeVOS(root, "valid", all_frames=True))


def test_half_copied_roots_are_named(root):
    shutil.rmtree(root / "train/Annotations/0043f083b5")
    message = message_of(lambda: YouTubeVOS(root))
    assert "train/Annotations: 1 video(s) missing: 0043f083b5" in message
    shutil.rmtree(root / "valid_all_frames/JPEGImages/00f88c4f0a")
    assert "1 video(s) missing: 00f88c4f0a" in message_of(lambda: YouTubeVOS(root, "valid"))
    (root / "valid/JPEGImages/0062f687f1/00010.jpg").unlink()
    video = YouTubeVOS(root, "valid", all_frames=False)[0]
    assert "JPEGImages/0062f687f1: 1 frame(s) missing: 00010" in message_of(lambda: video.image(0))
    (root / "valid/Annotations/00f88c4f0a/00005.png").unlink()
    video = YouTubeVOS(root, "valid", all_frames=False)[1]
    assert "00f88c4f0a: holds no .png" in message_of(lambda: video.first_frame_of)


def test_a_missing_mask_of_one_object_is_named(root):
    (root / "valid/Annotations/0062f687f1/00005.png").unlink()
    video = YouTubeVOS(root, "valid")[0]
    assert "1 annotation(s) missing: 00005" in message_of(lambda: video.annotated(0))


@pytest.mark.parametrize("keys", [("1", "1"), ("1", "01")])
def test_an_object_that_is_there_twice(root, keys):
    objects = ", ".join(f'"{key}": {{"category": "cat", "frames": []}}' for key in keys)
    (root / "train/meta.json").write_text(f'{{"videos": {{"0043f083b5": {{"objects": {{{objects}}}}}}}}}')
    assert "is there twice" in message_of(lambda: YouTubeVOS(root))


def test_wrong_meta(root):
    change_meta(root, "train", lambda videos: videos["0043f083b5"]["objects"].update({"256": {"frames": []}}))
    message = message_of(lambda: YouTubeVOS(root))
    assert "meta.json: video 0043f083b5 has object 256; ids must be 1 to 255" in message
    for text in ("{", "[]", '{"videos": {"a": {}}}', '{"videos": {"a": {"objects": {"x": {}}}}}'):
        (root / "train/meta.json").write_text(text)
        assert "is no meta.json of YouTube-VOS" in message_of(lambda: YouTubeVOS(root))
    (root / "train/meta.json").write_text('{"videos": {}}')
    assert "has no video for split train" in message_of(lambda: YouTubeVOS(root))
