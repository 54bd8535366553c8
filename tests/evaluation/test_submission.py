import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stg_pyg.errors import InputError
from stg_pyg.evaluation.submission import check_stored_masks, check_submission_path, write_submission
from stg_pyg.utils.images import davis_palette, write_label_map

SIZE = (12, 16)


@dataclass
class Video:
    name: str
    frame_names: list[str]
    requested_frames: list[int]
    size: tuple[int, int] = SIZE


VIDEOS = [Video("b", [f"{t:05d}" for t in range(11)], [0, 5, 10]), Video("a", ["9", "10"], [1])]


def labels_of(t: int) -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    labels[2:8, t : t + 4], labels[9:, :3] = 7, 255
    return labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for video in VIDEOS:
        for t, name in enumerate(video.frame_names):
            write_label_map(tmp_path / "masks" / video.name / f"{name}.png", labels_of(t))
    return tmp_path / "masks"


def content(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_layouts(tmp_path, folder):
    path = tmp_path / "sub" / "out.zip"
    assert write_submission(path, folder, VIDEOS, "youtube_vos") == 4
    wanted = ["b/00000.png", "b/00005.png", "b/00010.png", "a/10.png"]
    assert list(content(path)) == [f"Annotations/{name}" for name in wanted]
    for dataset in ("davis2017", "davis2016", "segtrack_v2"):
        assert write_submission(path, folder, VIDEOS, dataset) == 4
        assert list(content(path)) == wanted
    for name, data in content(path).items():
        assert data == (folder / name).read_bytes()
        image = Image.open(io.BytesIO(data))
        assert (image.mode, image.size) == ("P", SIZE[::-1])
        assert image.getpalette("RGB") == davis_palette().ravel().tolist()
    np.testing.assert_array_equal(Image.open(io.BytesIO(content(path)["b/00005.png"])), labels_of(5))
    before = path.read_bytes()
    for mask in folder.rglob("*.png"):
        os.utime(mask, (1e9, 1e9))
    write_submission(path, folder, VIDEOS, "davis2017")
    assert path.read_bytes() == before, "the same masks make the same bytes"


def test_foreign_masks_get_the_palette(tmp_path, folder):
    grey, colour = folder / "b" / "00000.png", folder / "b" / "00005.png"
    Image.fromarray(labels_of(0)).save(grey)
    Image.fromarray(davis_palette()[labels_of(5)]).save(colour)
    other = Image.fromarray(labels_of(10))
    other.putpalette((davis_palette() | (np.arange(256) > 0)[:, None]).astype(np.uint8).tobytes())
    other.save(folder / "b" / "00010.png")
    write_submission(tmp_path / "out.zip", folder, VIDEOS, "davis2017")
    for t, data in zip((0, 5, 10), content(tmp_path / "out.zip").values(), strict=False):
        image = Image.open(io.BytesIO(data))
        assert image.mode == "P" and image.getpalette("RGB") == davis_palette().ravel().tolist()
        np.testing.assert_array_equal(image, labels_of(t))


def test_bad_masks_are_named_and_leave_nothing(tmp_path, folder):
    path, mask = tmp_path / "out.zip", folder / "b" / "00005.png"
    path.write_bytes(b"old")
    (folder / "b" / "00001.png").unlink()  # not requested
    check_stored_masks(folder, VIDEOS)
    for spoil, culprit in (
        (lambda: write_label_map(mask, labels_of(5)[:, ::2]), mask),
        (lambda: mask.write_bytes(mask.read_bytes()[:40]), mask),
        (mask.unlink, mask),
        (lambda: (folder / "a").rename(folder / "c"), folder / "a"),
    ):
        spoil()
        with pytest.raises(InputError, match=str(culprit)) as caught:
            write_submission(path, folder, VIDEOS, "youtube_vos")
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == b"old" and sorted(tmp_path.iterdir()) == [folder, path]


def test_paths_are_checked_before_a_run(tmp_path):
    check_submission_path(tmp_path / "new" / "folder" / "out.ZIP")
    (tmp_path / "dir.zip").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "out.tar", tmp_path / "dir.zip", tmp_path / "file" / "out.zip"):
        with pytest.raises(InputError, match=str(path)):
            check_submission_path(path)
