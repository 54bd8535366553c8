import hashlib
from pathlib import Path

import numpy as np
import pytest

from datasets import DAVIS
from datasets.coco import COCO
from datasets.fixtures import FIXTURES, write_fixture
from stg_pyg.errors import InputError


def contents(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", FIXTURES)
def test_same_files_again_and_others_with_another_seed(name, tmp_path):
    first = contents(write_fixture(name, tmp_path / "a"))
    assert first == contents(write_fixture(name, tmp_path / "b"))
    other = contents(write_fixture(name, tmp_path / "c", seed=1))
    assert first.keys() == other.keys() and first != other
    assert sum(path.stat().st_size for path in (tmp_path / "a").rglob("*") if path.is_file()) < 1e6


def test_davis_2016_is_black_and_white(tmp_path):
    write_fixture("davis2016", tmp_path, num_frames=3, size=(48, 64))
    for split, names in (("train", ["bear", "bus"]), ("val", ["cows", "libby"])):
        dataset = DAVIS(tmp_path, 2016, split)
        assert dataset.sequence_names == names
        for video in dataset:
            assert (len(video), video.size, video.object_ids) == (3, (48, 64), [1])
            assert all(set(np.unique(video.labels(t))) == {0, 1} for t in range(3))


def test_davis_2017_has_gaps_in_its_ids_and_two_resolutions(tmp_path):
    write_fixture("davis2017", tmp_path, num_frames=2)
    ids = {v.name: v.object_ids for split in ("train", "val", "test-dev") for v in DAVIS(tmp_path, 2017, split)}
    assert ids == {"dancing": [1, 2], "boxing": [1, 3], "bike-packing": [1, 2, 3], "judo": [2, 5], "gym": [1, 2]}
    large, small = DAVIS(tmp_path, 2017, "test-dev", "Full-Resolution")[0], DAVIS(tmp_path, 2017, "test-dev")[0]
    assert large.size == (128, 192) and small.size == (64, 96)
    np.testing.assert_array_equal(large.labels(0)[::2, ::2], small.labels(0))
    assert small.annotated(0) and not small.annotated(1) and small.labels(1) is None


def test_coco(tmp_path):
    write_fixture("coco", tmp_path)
    assert len(COCO(tmp_path, "val2017")) == 2
    picture = COCO(tmp_path)[0]
    assert picture.object_ids == [1, 2] and picture.image(0).shape == (64, 96, 3)


def test_unknown_fixture(tmp_path):
    with pytest.raises(InputError, match="davis2016"):
        write_fixture("davis", tmp_path)
