from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import DAVIS
from stg_pyg.errors import InputError
from stg_pyg.utils.images import write_label_map

HEIGHT, WIDTH = 12, 20


def labels_of(t: int) -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[2:6, 2 + t : 7 + t], labels[7:11, 10 - t : 15 - t] = 1, 3
    return labels


def write_list(root: Path, folder: str, split: str, text: str) -> None:
    (root / "ImageSets" / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / folder / f"{split}.txt").write_text(text)


def make_root(root: Path, year: str = "2017", split: str = "train", names: str = "ba", annotated: int = 4) -> Path:
    for name in names:
        images, masks = root / "JPEGImages/480p" / name, root / "Annotations/480p" / name
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for t in range(4):
            Image.fromarray(np.full((HEIGHT, WIDTH, 3), 10 * t, np.uint8)).save(images / f"{t:05d}.jpg")
            labels = labels_of(t) if year == "2017" else 255 * (labels_of(t) > 0).astype(np.uint8)
            if t < annotated:
                (write_label_map if year == "2017" else lambda p, x: Image.fromarray(x).save(p))(
                    masks / f"{t:05d}.png", labels
                )
    write_list(root, year, split, "\n".join(names) + "\n")
    return root


def test_2017_keeps_ids_and_order(tmp_path):
    dataset = DAVIS(make_root(tmp_path), year="2017", split="train")
    assert (dataset.name, dataset.split, dataset.sequence_names) == ("davis2017", "train", ["b", "a"])
    video = dataset[-1]
    assert video.frame_names == ["00000", "00001", "00002", "00003"] and video.first_frame_of == {1: 0, 3: 0}
    assert abs(int(video.image(2).mean()) - 20) <= 1
    np.testing.assert_array_equal(video.labels(3), labels_of(3))


@pytest.mark.parametrize("masks", ["2016", "2017"])
def test_2016_is_one_object(tmp_path, masks):
    make_root(tmp_path, masks, names="a")
    write_list(tmp_path, "2016", "val", "a\n")
    dataset = DAVIS(tmp_path, year=2016, split="val")
    assert dataset.name == "davis2016" and dataset[0].object_ids == [1]
    np.testing.assert_array_equal(dataset[0].labels(1), labels_of(1) > 0)


def test_year_and_list_are_found(tmp_path):
    make_root(tmp_path, "2016", "train")
    lines = [f"/JPEGImages/480p/a/{t:05d}.jpg /Annotations/480p/a/{t:05d}.png " for t in range(4)]
    write_list(tmp_path, "480p", "val", "\n".join(lines))
    assert DAVIS(tmp_path).year == DAVIS(tmp_path, sequences=["a"]).year == DAVIS(tmp_path, split="val").year == "2016"
    assert DAVIS(tmp_path, split="val").sequence_names == ["a"]
    write_list(tmp_path, "2017", "train", "a\n")
    assert DAVIS(tmp_path).year == "2017" and DAVIS(tmp_path, year="2016").sequence_names == ["b", "a"]
    assert DAVIS(tmp_path, sequences=["a", "b"]).sequence_names == ["a", "b"]
    for options, message in (
        ({"resolution": "Full-Resolution"}, "Full-Resolution is missing"),
        ({"year": "2018"}, "2016 and 2017"),
        ({"sequences": []}, "names no sequence"),
        ({"year": 2017, "split": "vall"}, r"ImageSets/2017/vall\.txt .* lists present: ImageSets/2016/train\.txt"),
    ):
        with pytest.raises(InputError, match=message):
            DAVIS(tmp_path, **options)


def test_test_dev_has_masks_of_the_first_frame(tmp_path):
    make_root(tmp_path, split="test-dev", annotated=1)
    video = DAVIS(tmp_path, split="test-dev")[0]
    np.testing.assert_array_equal(video.labels(0), labels_of(0))
    assert [video.annotated(t) for t in range(4)] == [True, False, False, False] and video.labels(1) is None
    assert video.requested_frames == [0, 1, 2, 3] and video.object_ids == [1, 3]
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


def test_half_copied_sequences_are_named(tmp_path):
    make_root(tmp_path)
    (tmp_path / "Annotations/480p/a/00002.png").unlink()
    with pytest.raises(InputError, match=r"Annotations/480p/a: 1 annotation\(s\) missing: 00002;") as error:
        DAVIS(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "JPEGImages/480p/b/00001.jpg").unlink()
    with pytest.raises(InputError, match=r"JPEGImages/480p/b: 1 frame\(s\) missing: 00001"):
        DAVIS(tmp_path)
    for path in (tmp_path / "JPEGImages/480p/b").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"480p/b: holds no \.jpg"):
        DAVIS(tmp_path)


@pytest.mark.parametrize(("year", "ids"), [("2017", [1, 3]), ("2016", [1])])
def test_void_is_background(tmp_path, year, ids):
    make_root(tmp_path, names="a")
    for t in range(4):
        labels = labels_of(t)
        labels[-1], labels[0, :3] = 255, 255
        write_label_map(tmp_path / f"Annotations/480p/a/{t:05d}.png", labels)
    video = DAVIS(tmp_path, year, sequences=["a"])[0]
    assert video.object_ids == ids
    for t in range(4):
        np.testing.assert_array_equal(video.labels(t), labels_of(t) > 0 if year == "2016" else labels_of(t))


def test_grey_ids_and_void_alone_in_a_frame(tmp_path):
    make_root(tmp_path, names="a")
    for t in range(4):
        labels = labels_of(t) if t < 3 else np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[-1] = 255
        Image.fromarray(labels).save(tmp_path / f"Annotations/480p/a/{t:05d}.png")
    video = DAVIS(tmp_path)[0]
    assert video.object_ids == [1, 3] and not video.labels(3).any()


def test_sparse_annotations(tmp_path):
    make_root(tmp_path, names="a")
    masks = tmp_path / "Annotations/480p/a"
    for name in ("00001", "00003"):
        (masks / f"{name}.png").unlink()
    video = DAVIS(tmp_path)[0]
    assert [video.annotated(t) for t in range(4)] == [True, False, True, False]
    assert video.labels(1) is None and video.object_ids == [1, 3]
    for old, new, missing in (("00000", "00003", "2 .*: 00000, 00001;"), ("00002", "00001", "1 .*: 00000;")):
        (masks / f"{old}.png").rename(masks / f"{new}.png")
        with pytest.raises(InputError, match=missing):
            DAVIS(tmp_path)


@pytest.mark.parametrize(("folder", "suffix"), [("JPEGImages", "png"), ("Annotations", "bmp")])
def test_two_files_of_one_frame_are_refused(tmp_path, folder, suffix):
    make_root(tmp_path)
    path = tmp_path / folder / "480p/a/00000"
    Image.fromarray(labels_of(0)).save(f"{path}.{suffix}")
    with pytest.raises(InputError, match=r"480p/a/00000\.\w+: has the name of 00000\.\w+; keep one of them"):
        DAVIS(tmp_path)
    next(path.parent.glob("00000.[jp]*g")).unlink()
    np.testing.assert_array_equal(DAVIS(tmp_path).by_name("a").labels(0), labels_of(0))
