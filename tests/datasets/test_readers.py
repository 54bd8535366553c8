"""What every data set of videos gives, and the one line that it says of what is missing or does not fit."""

import hashlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DAVIS, ComposedVideos, SegTrackV2, SyntheticVideos, YouTubeObjects, YouTubeVOS
from datasets.cache import cached
from datasets.coco import COCO
from datasets.first_frames import first_frames
from datasets.fixtures import FIXTURES, write_fixture
from datasets.stills import Stills
from stg_pyg.errors import InputError

READERS = {
    "davis2016": ("davis2016", lambda root: DAVIS(root, 2016, "val")),
    "davis2017": ("davis2017", lambda root: DAVIS(root, None, "train")),
    "davis2017 test-dev": ("davis2017", lambda root: DAVIS(root, 2017, "test-dev", "Full-Resolution")),
    "youtube_vos": ("youtube_vos", YouTubeVOS),
    "youtube_vos valid": ("youtube_vos", lambda root: YouTubeVOS(root, "valid", all_frames=False)),
    "segtrack_v2": ("segtrack_v2", SegTrackV2),
    "youtube_objects": ("youtube_objects", YouTubeObjects),
    "coco": ("coco", COCO),
    "stills": ("stills", Stills),
}
MADE = {
    "synthetic": lambda: SyntheticVideos("val", 3, 4, height=48, width=64),
    "composed": lambda: ComposedVideos(MADE["synthetic"](), 3, (2, 3)),
    "cached": lambda: cached(list(MADE["synthetic"]()), 0.1),
    "first frames": lambda: first_frames(MADE["synthetic"](), 2),
}


def write(name: str, root: Path) -> Path:
    if name != "stills":
        return write_fixture(name, root)
    for number in (9, 10):
        labels = np.zeros((24, 40), np.uint8)
        labels[2:12, 2:16] = number
        for folder, picture in (("images", np.repeat(labels[..., None], 3, 2)), ("masks", labels)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / folder / f"a{number}.png")
    return root


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    return {name: write(name, tmp_path_factory.mktemp("data") / "set") for name in (*FIXTURES, "stills")}


@pytest.mark.parametrize("name", [*READERS, *MADE])
def test_every_data_set_is_a_list_of_videos(name, sources):
    dataset = MADE[name]() if name in MADE else READERS[name][1](sources[READERS[name][0]])
    assert len(dataset) > 0
    if not isinstance(dataset, list):
        names = dataset.sequence_names
        assert names == [video.name for video in dataset] == [video.name for video in dataset[:]]
        assert len(set(names)) == len(dataset) and dataset.by_name(names[-1]).name == dataset[-1].name
        assert dataset.name in repr(dataset) and repr(dataset.split) in repr(dataset)
        for index in (len(dataset), -len(dataset) - 1):
            with pytest.raises(IndexError):
                dataset[index]
        with pytest.raises(KeyError, match="no sequence 'nobody'"):
            dataset.by_name("nobody")
    for video in dataset:
        frames, size = range(len(video)), video.size
        assert len(video) == video.num_frames == len(set(video.frame_names)) and video.name in repr(video)
        maps = {t: labels for t in frames if (labels := video.labels(t)) is not None}
        assert [t for t in frames if video.annotated(t)] == list(maps)
        assert all(labels.dtype == np.uint8 and labels.shape == size for labels in maps.values())
        images = [video.image(t) for t in frames]
        assert all(image.dtype == np.uint8 and image.shape == (*size, 3) for image in images)
        first = {
            obj: min(t for t, x in maps.items() if (x == obj).any()) for x in maps.values() for obj in np.unique(x)
        }
        first.pop(0, None)
        assert video.first_frame_of == first and video.object_ids == sorted(first)
        assert video.categories == {} or video.categories.keys() >= set(first)
        assert set(video.requested_frames) <= set(frames) and sorted(video.requested_frames) == video.requested_frames
        assert all(path.is_file() for path in video.files) and (name in READERS) == bool(video.files)
        again = pickle.loads(pickle.dumps(video))
        assert all(np.array_equal(again.image(t), images[t]) for t in reversed(frames))
        assert all(np.array_equal(again.labels(t), labels) for t, labels in maps.items())


def use(reader, root):
    for video in reader(root):
        for t in range(len(video)):
            video.image(t), video.labels(t), video.first_frame_of


def lose(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:60])


def halve(path):
    with Image.open(path) as image:
        image.resize((image.width // 2, image.height // 2), Image.Resampling.NEAREST).save(path)


def empty(path):
    for inner in path.iterdir():
        inner.unlink()


def rename(name):
    return lambda path: path.rename(path.with_name(name))


AEROPLANE = "aeroplane/data/0001/shots/001"
VALID = "valid/JPEGImages/0062f687f1"
FAULTS = [
    ("davis2016", lose, "Annotations", "Annotations/480p is missing; expected .*ImageSets/<year>/val.txt"),
    ("davis2016", lose, "ImageSets/2016/val.txt", "no list ImageSets/2016/val.txt .*: ImageSets/2016/train.txt"),
    ("davis2016", lose, "JPEGImages/480p/cows", "480p/cows: no such folder"),
    ("davis2016", cut, "JPEGImages/480p/cows/00001.jpg", r"00001\.jpg: cannot be decoded"),
    ("davis2016", halve, "Annotations/480p/cows/00002.png", r"00002\.png: is 48 x 32 .* but the frames are 96 x 64"),
    ("davis2016", halve, "JPEGImages/480p/cows/00002.jpg", r"00002\.jpg: is 48 x 32 .* but the first frame is 96 x 64"),
    ("youtube_vos", lose, "train/meta.json", r"train/meta\.json is missing"),
    ("youtube_vos", lose, "train/Annotations/0043f083b5", r"Annotations: 1 video\(s\) missing: 0043f083b5"),
    ("youtube_vos", lose, "train_all_frames/JPEGImages/0043f083b5", r"1 video\(s\) missing: 0043f083b5"),
    ("youtube_vos", lose, "train_all_frames/JPEGImages/0043f083b5/00005.jpg", r"b5: 1 frame\(s\) missing: 00005"),
    ("youtube_vos valid", lose, f"{VALID}/00010.jpg", r"0062f687f1: 1 frame\(s\) missing: 00010"),
    ("youtube_vos valid", lose, "valid/Annotations/00f88c4f0a/00005.png", r"00f88c4f0a: holds no \.png"),
    ("youtube_vos valid", lose, "valid/Annotations/0062f687f1/00005.png", r"1 annotation\(s\) missing: 00005"),
    ("segtrack_v2", lose, "GroundTruth", "GroundTruth is missing; .*GroundTruth/<sequence>/1"),
    ("segtrack_v2", lose, "GroundTruth/bmx", r"GroundTruth: 1 sequence\(s\) missing: bmx"),
    ("segtrack_v2", lose, "GroundTruth/bmx/2/bmx_00004.png", r"bmx/2: 1 mask\(s\) missing: bmx_00004"),
    ("segtrack_v2", lose, "JPEGImages/girl/girl_00001.bmp", r"JPEGImages/girl: 1 frame\(s\) missing: girl_00001"),
    ("segtrack_v2", halve, "GroundTruth/girl/girl_00001.png", r"girl_00001\.png: is 48 x 32 .* frames are 96 x 64"),
    ("segtrack_v2", rename("256"), "GroundTruth/bmx/2", "bmx/256: is no object"),
    ("youtube_objects", lose, f"{AEROPLANE}/images/frame0006.jpg", r"images: 1 frame\(s\) missing: frame0006"),
    ("youtube_objects", lose, f"{AEROPLANE}/images", "001/images: no such folder"),
    ("youtube_objects", halve, f"{AEROPLANE}/labels/frame0006.jpg", r"frame0006\.jpg: is 48 x 32"),
    ("coco", lose, "train2017", "train2017 is missing; expected annotations/instances_train2017.json"),
    ("coco", halve, "train2017/000000000001.jpg", r"000000000001\.jpg: is 48 x 32 pixels but .* says 96 x 64"),
    ("stills", lose, "images", "images is missing; expected images/<name>.jpg"),
    ("stills", lose, "masks", r"masks is missing; expected .*masks/<name>\.png"),
    ("stills", empty, "images", "images: holds no"),
    ("stills", lose, "masks/a10.png", r"masks: 1 mask\(s\) missing: a10; add the masks"),
    ("stills", cut, "masks/a10.png", "a10.png: not a readable mask"),
    ("stills", cut, "images/a10.png", "a10.png: "),
    ("stills", halve, "masks/a10.png", r"a10\.png: is 20 x 12 pixels and its picture 40 x 24"),
]


@pytest.mark.parametrize(("name", "damage", "place", "message"), FAULTS)
def test_what_is_missing_or_does_not_fit_is_named(tmp_path, sources, name, damage, place, message):
    fixture, reader = READERS[name]
    root = Path(shutil.copytree(sources[fixture], tmp_path / "set"))
    damage(root / place)
    with pytest.raises(InputError, match=message) as error:
        use(reader, root)
    assert "\n" not in str(error.value) and str(root) in str(error.value)


@pytest.mark.parametrize("name", READERS)
def test_a_root_that_is_none_is_named(tmp_path, name):
    for root, missing in ((tmp_path / "nowhere", "the folder itself"), (tmp_path, "")):
        with pytest.raises(InputError, match=f"{root}: is no .* root, .*{missing} is missing; expected ") as error:
            READERS[name][1](root)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FIXTURES)
def test_a_fixture_is_the_same_again_and_another_one_with_another_seed(name, sources, tmp_path):
    def contents(root: Path) -> dict[str, str]:
        files = sorted(path for path in root.rglob("*") if path.is_file())
        assert sum(path.stat().st_size for path in files) < 1e6
        return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    first, other = contents(sources[name]), contents(write_fixture(name, tmp_path / "c", seed=1))
    assert first == contents(write_fixture(name, tmp_path / "b"))
    assert first.keys() == other.keys() and first != other


def test_an_unknown_fixture_is_refused(tmp_path):
    with pytest.raises(InputError, match="davis2016"):
        write_fixture("davis", tmp_path)


# YouTube-Objects


def test_shots_have_few_labels_by_name_or_number_and_frames_at_their_size(sources):
    root = sources["youtube_objects"]
    dataset = YouTubeObjects(root)
    assert dataset.sequence_names == ["aeroplane_0001_001", "cat_0003_001", "cat_0012_002"]
    for video, category in zip(dataset, ("aeroplane", "cat", "cat"), strict=True):
        assert video.frame_names == [f"frame{t:04d}" for t in range(1, 9)] and video.categories == {1: category}
        assert [t for t in range(8) if video.annotated(t)] == [2, 5] and video.requested_frames == list(range(8))
        assert video.first_frame_of == {1: 2}, "the first labelled frame is given"
    stored = np.asarray(Image.open(root / AEROPLANE / "labels/frame0003.jpg").convert("L"))
    assert len(np.unique(stored)) > 2, "the fixture is lossy"
    np.testing.assert_array_equal(dataset[0].labels(2), stored >= 128)
    large = Image.open(root / "cat/data/0003/shots/001/images/frame0003.jpg")
    assert large.size == (192, 128) and dataset[1].size == (64, 96)
    assert np.abs(dataset[1].image(2) - np.asarray(large.reduce(2)).astype(int)).max() <= 1


def test_labels_of_another_shape_and_no_labels_are_named(sources, tmp_path):
    root = Path(shutil.copytree(sources["youtube_objects"], tmp_path / "set"))
    for path in (root / AEROPLANE / "labels").iterdir():
        Image.open(path).resize((48, 48)).save(path)
    with pytest.raises(InputError, match=r"frame0001\.jpg: is 96 x 64 pixels and the labels are 48 x 48"):
        YouTubeObjects(root)[0].image(0)
    for path in root.glob("*/data/*/shots/*/labels"):
        shutil.rmtree(path)
    with pytest.raises(InputError, match="has no shot with labels"):
        YouTubeObjects(root)
    for reader in (YouTubeObjects, SegTrackV2):
        with pytest.raises(InputError, match="choose all"):
            reader(root, "val")
