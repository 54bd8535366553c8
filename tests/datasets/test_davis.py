from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DAVIS, VideoDataset
from stg_pyg.errors import InputError
from stg_pyg.utils.images import write_label_map

HEIGHT, WIDTH = 12, 20


def labels_of(t: int) -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[2:6, 2 + t : 7 + t], labels[7:11, 10 - t : 15 - t] = 1, 3
    return labels


def make_sequence(root: Path, name: str, num_frames: int = 4, year: str = "2017", annotated: int | None = None) -> None:
    images, masks = root / "JPEGImages/480p" / name, root / "Annotations/480p" / name
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for t in range(num_frames):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 10 * t, np.uint8)).save(images / f"{t:05d}.jpg")
        if annotated is not None and t >= annotated:
            continue
        if year == "2017":
            write_label_map(masks / f"{t:05d}.png", labels_of(t))
        else:
            Image.fromarray(255 * (labels_of(t) > 0).astype(np.uint8)).save(masks / f"{t:05d}.png")


def make_root(
    root: Path,
    year: str = "2017",
    split: str = "train",
    names: tuple[str, ...] = ("b", "a"),
    annotated: int | None = None,
) -> Path:
    for name in names:
        make_sequence(root, name, year=year, annotated=annotated)
    write_list(root, year, split, "\n".join(names) + "\n")
    return root


def write_list(root: Path, folder: str, split: str, text: str) -> None:
    (root / "ImageSets" / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / folder / f"{split}.txt").write_text(text)


def test_2017_keeps_ids_and_order(tmp_path):
    dataset = DAVIS(make_root(tmp_path), year="2017", split="train")
    assert isinstance(dataset, VideoDataset)
    assert dataset.sequence_names == ["b", "a"] == [v.name for v in dataset]
    assert (dataset.name, dataset.split, len(dataset)) == ("davis2017", "train", 2)
    video = dataset[-1]
    assert video is dataset.by_name("a") is dataset[1:][0]
    assert video.frame_names == ["00000", "00001", "00002", "00003"]
    assert (video.num_frames, len(video), video.size) == (4, 4, (HEIGHT, WIDTH))
    assert video.image(2).shape == (HEIGHT, WIDTH, 3) and abs(int(video.image(2).mean()) - 20) <= 1
    np.testing.assert_array_equal(video.labels(3), labels_of(3))
    assert video.object_ids == [1, 3]
    assert video.first_frame_of == {1: 0, 3: 0}
    with pytest.raises(IndexError):
        dataset[2]
    with pytest.raises(KeyError, match="no sequence 'c'"):
        dataset.by_name("c")


@pytest.mark.parametrize("masks", ["2016", "2017"])
def test_2016_is_one_object(tmp_path, masks):
    make_sequence(tmp_path, "a", year=masks)
    write_list(tmp_path, "2016", "val", "a\n")
    dataset = DAVIS(tmp_path, year=2016, split="val")
    assert dataset.name == "davis2016"
    np.testing.assert_array_equal(dataset[0].labels(1), labels_of(1) > 0)
    assert dataset[0].object_ids == [1]


def test_year_is_detected(tmp_path):
    make_root(tmp_path, "2016", "train")
    assert DAVIS(tmp_path).year == "2016"
    assert DAVIS(tmp_path, sequences=["a"]).year == "2016"
    write_list(tmp_path, "2017", "train", "a\n")
    assert DAVIS(tmp_path).year == "2017"
    assert DAVIS(tmp_path, year="2016").sequence_names == ["b", "a"]


def test_list_of_path_pairs(tmp_path):
    make_sequence(tmp_path, "a", year="2016")
    lines = [f"/JPEGImages/480p/a/{t:05d}.jpg /Annotations/480p/a/{t:05d}.png " for t in range(4)]
    write_list(tmp_path, "480p", "val", "\n".join(lines))
    dataset = DAVIS(tmp_path, split="val")
    assert (dataset.year, dataset.sequence_names, len(dataset[0])) == ("2016", ["a"], 4)


def test_own_split_and_own_sequences(tmp_path):
    make_root(tmp_path, split="dev", names=("a", "b", "c"))
    assert len(DAVIS(tmp_path, split="dev")) == 3
    assert DAVIS(tmp_path, sequences=["c", "a"]).sequence_names == ["c", "a"]


def test_full_resolution(tmp_path):
    make_root(tmp_path)
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / folder / "480p").rename(tmp_path / folder / "Full-Resolution")
    assert DAVIS(tmp_path, resolution="Full-Resolution")[0].size == (HEIGHT, WIDTH)


def test_test_dev_has_masks_of_the_first_frame(tmp_path):
    make_root(tmp_path, split="test-dev", annotated=1)
    video = DAVIS(tmp_path, split="test-dev")[0]
    np.testing.assert_array_equal(video.labels(0), labels_of(0))
    assert video.labels(1) is None is video.labels(3)
    assert [video.annotated(t) for t in range(4)] == [True, False, False, False]
    assert video.requested_frames == [0, 1, 2, 3] and video.categories == {}
    assert video.object_ids == [1, 3]
    write_list(tmp_path, "2017", "val", "a\n")
    with pytest.raises(InputError, match=r"a: 3 annotation\(s\) missing: 00001, 00002, 00003"):
        DAVIS(tmp_path, split="val")
    assert len(DAVIS(tmp_path, split="val", first_frame_only=True)[0]) == 4


def test_frames_sort_by_number_and_clutter_is_ignored(tmp_path):
    make_root(tmp_path)
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".png")):
        path = tmp_path / folder / "480p/a"
        (path / f"00000{suffix}").rename(path / f"9{suffix}")
        (path / f"00001{suffix}").rename(path / f"10{suffix}")
        (path / "Thumbs.db").touch()
        (path / f"._9{suffix}").touch()
    assert DAVIS(tmp_path).by_name("a").frame_names == ["00002", "00003", "9", "10"]


def assert_one_line(error: pytest.ExceptionInfo[InputError], *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(InputError) as error:
        DAVIS(tmp_path / "nowhere")
    assert_one_line(
        error, f"{tmp_path / 'nowhere'}: ", "the folder itself is missing", "JPEGImages/480p/<sequence>/*.jpg"
    )
    (tmp_path / "JPEGImages/480p").mkdir(parents=True)
    with pytest.raises(InputError) as error:
        DAVIS(tmp_path, split="val")
    assert_one_line(error, "Annotations/480p is missing", "ImageSets/<year>/val.txt")
    make_root(tmp_path)
    with pytest.raises(InputError) as error:
        DAVIS(tmp_path, year=2017, split="vall")
    assert_one_line(error, "ImageSets/2017/vall.txt", "lists present: ImageSets/2017/train.txt")
    with pytest.raises(InputError, match="Full-Resolution is missing"):
        DAVIS(tmp_path, resolution="Full-Resolution")
    with pytest.raises(InputError, match=r"JPEGImages/480p/zebra: no such folder"):
        DAVIS(tmp_path, sequences=["zebra"])
    with pytest.raises(InputError, match="2016 and 2017"):
        DAVIS(tmp_path, year="2018")
    with pytest.raises(InputError, match="names no sequence"):
        DAVIS(tmp_path, sequences=[])


def test_half_copied_sequences_are_named(tmp_path):
    make_root(tmp_path)
    (tmp_path / "Annotations/480p/a/00002.png").unlink()
    with pytest.raises(InputError) as error:
        DAVIS(tmp_path)
    assert_one_line(error, "Annotations/480p/a: 1 annotation(s) missing: 00002;")
    (tmp_path / "JPEGImages/480p/b/00001.jpg").unlink()
    with pytest.raises(InputError, match=r"JPEGImages/480p/b: 1 frame\(s\) missing: 00001"):
        DAVIS(tmp_path)
    for path in (tmp_path / "JPEGImages/480p/b").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"480p/b: holds no \.jpg"):
        DAVIS(tmp_path)


@pytest.mark.parametrize(("year", "ids"), [("2017", [1, 3]), ("2016", [1])])
def test_void_is_background(tmp_path, year, ids):
    make_root(tmp_path, names=("a",))
    for t in range(4):
        labels = labels_of(t)
        labels[-1], labels[0, :3] = 255, 255
        write_label_map(tmp_path / f"Annotations/480p/a/{t:05d}.png", labels)
    video = DAVIS(tmp_path, year, sequences=["a"])[0]
    assert video.object_ids == ids
    for t in range(4):
        expected = labels_of(t) > 0 if year == "2016" else labels_of(t)
        np.testing.assert_array_equal(video.labels(t), expected)


def test_grey_ids_and_void_alone_in_a_frame(tmp_path):
    make_root(tmp_path, names=("a",))
    for t in range(4):
        labels = labels_of(t) if t < 3 else np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[-1] = 255
        Image.fromarray(labels).save(tmp_path / f"Annotations/480p/a/{t:05d}.png")
    video = DAVIS(tmp_path)[0]
    assert video.object_ids == [1, 3] and not video.labels(3).any()


def test_sparse_annotations(tmp_path):
    make_root(tmp_path, names=("a",))
    masks = tmp_path / "Annotations/480p/a"
    for name in ("00001", "00003"):
        (masks / f"{name}.png").unlink()
    video = DAVIS(tmp_path)[0]
    assert [video.annotated(t) for t in range(4)] == [True, False, True, False]
    assert video.labels(1) is None and video.object_ids == [1, 3]
    (masks / "00000.png").rename(masks / "00003.png")
    with pytest.raises(InputError, match=r"2 annotation\(s\) missing: 00000, 00001;"):
        DAVIS(tmp_path)
    (masks / "00002.png").rename(masks / "00001.png")
    with pytest.raises(InputError, match=r"1 annotation\(s\) missing: 00000;"):
        DAVIS(tmp_path)


@pytest.mark.parametrize(("folder", "suffix"), [("JPEGImages", "png"), ("Annotations", "bmp")])
def test_two_files_of_one_frame_are_refused(tmp_path, folder, suffix):
    make_root(tmp_path)
    Image.fromarray(labels_of(0)).save(tmp_path / folder / "480p/a" / f"00000.{suffix}")
    with pytest.raises(InputError, match=r"480p/a/00000\.\w+: has the name of 00000\.\w+; keep one of them"):
        DAVIS(tmp_path)


def test_masks_of_other_formats_are_read(tmp_path):
    make_root(tmp_path)
    path = tmp_path / "Annotations/480p/a/00001.png"
    Image.open(path).save(path.with_suffix(".bmp"))
    path.unlink()
    np.testing.assert_array_equal(DAVIS(tmp_path).by_name("a").labels(1), labels_of(1))


def test_unreadable_and_misfitting_files_are_named(tmp_path):
    make_root(tmp_path)
    video = DAVIS(tmp_path).by_name("a")
    image = tmp_path / "JPEGImages/480p/a/00001.jpg"
    image.write_bytes(image.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"00001\.jpg: cannot be decoded"):
        video.image(1)
    write_label_map(tmp_path / "Annotations/480p/a/00002.png", labels_of(0)[:, ::2])
    with pytest.raises(InputError, match=r"00002\.png: is 10 x 12 pixels but the frames are 20 x 12"):
        video.labels(2)
