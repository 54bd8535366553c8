from pathlib import Path

import numpy as np
import pytest
from dream_cases import Frames
from picture_cases import exif_of
from PIL import Image

from datasets.stills import Stills, without_void
from stg_pyg.errors import InputError
from stg_pyg.learning.steps import LucidBatches
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.utils.images import write_label_map

HEIGHT, WIDTH = 24, 40


def ids():
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[2:12, 2:16], labels[10:22, 20:36] = 1, 7
    return labels


def save(root: Path, name: str = "a", mask: Image.Image | np.ndarray | None = None, suffix: str = ".jpg") -> Path:
    """A picture with its mask, by default one of ids; returns the mask's file."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(root / "images" / f"{name}{suffix}")
    path = root / "masks" / f"{name}.png"
    if mask is None:
        write_label_map(path, ids())
    else:
        (Image.fromarray(mask) if isinstance(mask, np.ndarray) else mask).save(path)
    return path


def test_pictures_are_videos_of_one_frame(tmp_path):
    for name, suffix in (("b10", ".png"), ("b9", ".jpg"), ("c", ".JPEG")):
        save(tmp_path, name, suffix=suffix)
    stills = Stills(tmp_path)
    assert stills.sequence_names == ["b9", "b10", "c"]
    still = stills.by_name("b10")
    assert (still.size, still.frame_names, still.object_ids) == ((HEIGHT, WIDTH), ["b10"], [1, 7])
    assert (still.image(0) == 90).all() and still.files == [tmp_path / "images/b10.png", tmp_path / "masks/b10.png"]
    np.testing.assert_array_equal(still.labels(0), ids())


def test_grey_and_indexed_masks_are_ids(tmp_path):
    indexed = Image.fromarray(ids())
    indexed.putpalette([255, 0, 0] * 256)
    for name, mask in (("a", ids()), ("b", indexed)):
        save(tmp_path, name, mask)
    for still in Stills(tmp_path):
        np.testing.assert_array_equal(still.labels(0), ids())


@pytest.mark.parametrize(
    "mask",
    [Image.fromarray(255 * (ids() > 0).astype(np.uint8)), Image.fromarray(ids() > 0)],
    ids=["grey", "one bit"],
)
def test_white_is_the_object_of_a_mask_of_black_and_white(tmp_path, mask):
    save(tmp_path, mask=mask)
    save(tmp_path, "b", np.full((HEIGHT, WIDTH), 255, np.uint8))
    save(tmp_path, "c", np.zeros((HEIGHT, WIDTH), np.uint8))
    first, full, empty = Stills(tmp_path)
    np.testing.assert_array_equal(first.labels(0), ids() > 0)
    assert first.object_ids == full.object_ids == [1] and full.labels(0).all()
    assert empty.object_ids == [] and not empty.labels(0).any()


def test_unknown_borders_are_what_is_nearest_and_the_rest_background(tmp_path):
    values = ids()
    values[:2], values[12:14, 2:16], values[2:12, 16:18] = 255, 255, 255  # around object 1, two pixels wide
    values[0:9, 22:] = 255
    expected = ids()
    expected[0:2, 0:17], expected[12, 2:16], expected[2:12, 16] = 0, 1, 1
    save(tmp_path, mask=values)
    labels = Stills(tmp_path)[0].labels(0)
    assert 255 not in labels and labels[12, 8] == 1 and labels[13, 8] == 0 and labels[6, 16] == 1
    np.testing.assert_array_equal(labels[values != 255], values[values != 255])
    far = np.full((8, 60), 255, np.uint8)
    far[:, 0] = 5
    near = without_void(far)
    assert (near[:, :9] == 5).all() and not near[:, 9:].any()
    np.testing.assert_array_equal(without_void(ids()), ids())


def test_pictures_are_turned_as_their_camera_was_held(tmp_path):
    save(tmp_path)
    image = Image.fromarray(np.full((WIDTH, HEIGHT, 3), 90, np.uint8))
    image.save(tmp_path / "images/a.jpg", exif=exif_of(6))
    still = Stills(tmp_path)[0]
    assert still.size == still.image(0).shape[:2] == still.labels(0).shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("mode", ["RGB", "LA", "I;16"])
def test_masks_of_several_channels_or_more_bits_are_refused(tmp_path, mode):
    save(tmp_path, mask=Image.new(mode, (WIDTH, HEIGHT)))
    with pytest.raises(InputError, match=r"masks/a\.png: .*no single channel.* save it as grey"):
        Stills(tmp_path)[0].labels(0)


# Training on them


@pytest.fixture
def stills(tmp_path):
    for name in "abc":
        save(tmp_path, name)
    return Stills(tmp_path)


def owners(videos, count=8, **options):
    batches = LucidBatches(videos, LucidConfig(size=16, **options), 7, (0, count), seed=0)
    return [batch[3].tolist() for batch in batches]


@pytest.mark.parametrize(("share", "numbers"), [(0.0, {1}), (1.0, {0, 2, 3}), (0.5, {0, 1, 2, 3})])
def test_the_share_of_stills_is_that_of_the_settings(stills, share, numbers):
    frames = [np.full((HEIGHT, WIDTH, 3), value, np.uint8) for value in (30, 60)]
    video = Frames(frames, [ids() // 7] * 2)
    mixed = owners([stills[0], video, stills[1], stills[2]], still_share=share, views=2)
    assert {owner // 256 for batch in mixed for owner in batch} == numbers
    for alone in ([video], [stills[0]]):
        assert {owner // 256 for batch in owners(alone, still_share=share) for owner in batch} == {0}
