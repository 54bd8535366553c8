"""Which masks are read of what somebody gives, and for which frames; nothing is segmented here."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.segment.given.masks import GivenMasks
from experiments.segment.given.names import frames_of_masks
from stg_pyg.errors import InputError
from stg_pyg.video.frames import PictureFolder

MASK = np.zeros((24, 32), np.uint8)
MASK[6:16, 8:20] = 255
COUNT = 8


class Names(PictureFolder):
    """A video of which only the names of the frames are known."""

    def __init__(self, *names: str) -> None:
        self.path, self._names = Path("video"), names

    def position(self, name: str) -> int | None:
        return self._names.index(name) if name in self._names else None

    def count(self) -> int:
        return len(self._names)

    def frame_name(self, position: int) -> str:
        return self._names[position]


FIVE = Names(*(f"{t:05d}" for t in range(COUNT)))
FROM_ONE = Names(*(f"frame_{t:04d}" for t in range(1, COUNT)))
SHORT = Names(*map(str, range(COUNT)))


@pytest.mark.parametrize(
    ("source", "names", "positions"),
    [
        (FIVE, "00000 00005", [0, 5]),
        (FIVE, "000000 000005", [0, 5]),
        (FIVE, "000000 000001", [0, 1]),
        (FIVE, "00000_mask 00005_mask", [0, 5]),
        (FIVE, "mask00003", [3]),
        (FIVE, "clip2_00003_v1 clip2_00005_v1", [3, 5]),
        (FIVE, "00000 00005_mask", [0, 5]),
        (FIVE, "0 5", [0, 5]),
        (FIVE, "frame0 frame5", [0, 5]),
        (FIVE, "mask0", [0]),
        (FROM_ONE, "0001 0003", [0, 2]),
        (FROM_ONE, "1 4", [0, 3]),
        (SHORT, "0 3", [0, 3]),
        (FIVE, "dog cat", None),
        (FIVE, "obj1 obj2", None),
        (FIVE, "obj2 obj10 obj11", None),
        (FIVE, "obj1", None),
    ],
)
def test_frames_by_names_and_numbers(source, names, positions):
    files = [Path(f"{name}.png") for name in names.split()]
    expected = {} if positions is None else dict(zip(files, positions, strict=True))
    assert frames_of_masks(files, source) == expected


@pytest.mark.parametrize(
    ("source", "names", "words"),
    [
        (FIVE, "obj0 obj1", "may be number 0 of the frames of video or of the objects"),
        (FIVE, "obj3 obj7", "may be number 3 of the frames"),
        (FIVE, "mask5", "may be number 5"),
        (FROM_ONE, "obj1 obj2", "may be number 1 of the frames"),
        (FIVE, "00000 other", "no frame of video is named other"),
        (FIVE, "00000 obj5", "no frame of video is named obj5"),
        (FIVE, "000000 000099", "no frame of video is named 000099"),
        (FIVE, "00000_a 00000_b", "00000_b.png: is of frame 00000 as 00000_a.png is"),
    ],
)
def test_names_that_may_be_either(source, names, words):
    with pytest.raises(InputError, match=words):
        frames_of_masks([Path(f"{name}.png") for name in names.split()], source)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> PictureFolder:
    folder = tmp_path_factory.mktemp("video")
    for t in range(COUNT):
        Image.fromarray(np.full((*MASK.shape, 3), 9 * t, np.uint8)).save(folder / f"{t:05d}.png")
    return PictureFolder(folder)


def save(folder: Path, **masks: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for name, values in masks.items():
        stem, _, suffix = name.removeprefix("m").partition("_as_")
        Image.fromarray(values).save(folder / f"{stem}.{suffix or 'png'}")
    return folder


def test_one_rule_a_run(tmp_path, video):
    ids = np.zeros_like(MASK)
    ids[:6, :6], ids[:6, 20:], ids[12:, 12:] = 85, 170, 255
    given = GivenMasks(save(tmp_path / "masks", m00000=ids, m00004=MASK), video)
    assert given.object_ids == [85, 170, 255] and given.frames == ["00000", "00004"]
    np.testing.assert_array_equal(given.at("00004"), MASK)
    assert any("00004.png: is black and white; white is object 255" in note for note in given.notes)


@pytest.mark.parametrize("suffix", ["bmp", "tif", "webp", "jpg"])
def test_no_mask_is_overlooked_for_its_suffix(tmp_path, video, suffix):
    folder = save(tmp_path / "masks", m00000=MASK, **{f"m00005_as_{suffix}": MASK})
    if suffix == "jpg":
        with pytest.raises(InputError, match=r"00005\.jpg: is a JPEG"):
            GivenMasks(folder, video)
    else:
        assert GivenMasks(folder, video).frames == ["00000", "00005"]


def test_what_lies_among_the_masks(tmp_path, video):
    folder = save(tmp_path / "masks", m00000=MASK)
    (folder / "notes.txt").write_text("x")
    assert any("notes.txt among them" in note for note in GivenMasks(folder, video).notes)
    save(folder, m00000_as_bmp=MASK)
    with pytest.raises(InputError, match=r"00000\.png: has the name of 00000\.bmp"):
        GivenMasks(folder, video)
    (folder / "00000.bmp").unlink()
    (folder / "00005.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"00005\.png: is a folder or a broken link"):
        GivenMasks(folder, video)


def test_soft_masks_are_told(tmp_path, video):
    soft = MASK.copy()
    soft[6], soft[:, 8] = soft[6] // 4, soft[:, 8] // 2
    path = save(tmp_path / "masks", first=soft) / "first.png"
    given = GivenMasks(path, video)
    assert given.object_ids == [1] and int(given.at("00000").sum()) == 9 * 11
    assert given.notes == [
        f"{path}: has 4 grey levels from 0 to 255; it is taken for one object, where it is over 127.5"
    ]


def test_a_frame_is_no_mask(tmp_path, video):
    with pytest.raises(InputError, match=r"00000\.png: is a frame of .* too"):
        GivenMasks(video.path / "00000.png", video)
    with pytest.raises(InputError, match=r"00000\.png: is a frame of .* too"):
        GivenMasks(video.path, video)
    folder = tmp_path / "frames"
    for t in range(3):
        save(folder, **{f"video_{t:05d}": MASK})
    assert PictureFolder(save(folder, video=MASK)).count() == 4, "the one before video_00000"
    (folder / "video.png").rename(folder / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png: has no number, unlike the frames beside it \(video_00000\)"):
        PictureFolder(folder)


@pytest.mark.parametrize("name", ["00005", "000005", "00005_mask"])
def test_one_mask_named_as_a_later_frame(tmp_path, video, name):
    path = save(tmp_path / "masks", first=MASK) / "first.png"
    with pytest.raises(InputError, match="has the name of a later frame, 00005"):
        GivenMasks(path.rename(path.with_stem(name)), video)


def test_objects_without_any_background_are_told(tmp_path, video):
    full = GivenMasks(save(tmp_path / "masks", full=np.full_like(MASK, 3)) / "full.png", video)
    assert full.notes == ["objects cover all of frame 00000, where nothing is background (0)"]


def test_a_mask_that_covers_nearly_all_is_asked_about(tmp_path, video):
    inverted = np.ones_like(MASK)
    inverted[:2] = 0
    given = GivenMasks(save(tmp_path / "masks", first=inverted) / "first.png", video)
    share = f"{inverted.mean():.0%}"
    assert given.notes == [f"objects cover {share} of frame 00000; is the mask inverted?"]
