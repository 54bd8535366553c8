import pytest
import torch

from stg_pyg.errors import InputError
from stg_pyg.merge import merge_objects


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_highest_wins_and_the_threshold_is_strict(dtype):
    masks = torch.tensor([[[0.9, 0.6, 0.5, 0.0]], [[0.8, 0.7, 0.1, 0.51]]], dtype=dtype)
    labels = merge_objects(masks, [7, 3])
    assert labels.dtype == torch.uint8
    assert labels.tolist() == [[7, 3, 0, 3]]


def test_threshold():
    masks = torch.tensor([[[0.25, 0.375, 0.5]]])
    assert merge_objects(masks, [1], thr=0.25).tolist() == [[0, 1, 1]]
    assert merge_objects(masks, [255], thr=0.375).tolist() == [[0, 0, 255]]


def test_ties_and_bool_masks_take_the_first_object():
    masks = torch.tensor([[[True, True, False]], [[True, False, False]]])
    assert merge_objects(masks, [9, 2]).tolist() == [[9, 9, 0]]


def test_no_objects():
    labels = merge_objects(torch.zeros(0, 3, 5), [])
    assert labels.shape == (3, 5)
    assert labels.dtype == torch.uint8
    assert not labels.any()


def test_many_objects_keep_their_ids():
    ids = list(range(255, 0, -1))
    assert merge_objects(torch.eye(255)[:, None], ids).tolist() == [ids]


@pytest.mark.parametrize(
    ("count", "ids", "message"),
    [
        (1, [0], r"1\.\.255, not \[0\]"),
        (2, [1, 256], r"not \[256\]"),
        (2, [4, 4], r"different integers in 1\.\.255, not \[4, 4\]"),
        (1, [1, 2], "for 2 object ids"),
        (256, list(range(1, 257)), r"not \[256\]"),
    ],
)
def test_bad_ids(count, ids, message):
    with pytest.raises(InputError, match=message):
        merge_objects(torch.zeros(count, 2, 2), ids)
