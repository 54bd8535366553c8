import pytest
import torch

from stg_pyg.errors import InputError
from stg_pyg.video.merge import merge_objects


@pytest.mark.parametrize(
    ("masks", "ids", "options", "labels"),
    [
        # The highest wins, and the threshold is strict.
        ([[[0.9, 0.6, 0.5, 0.0]], [[0.8, 0.7, 0.1, 0.51]]], [7, 3], {}, [[7, 3, 0, 3]]),
        ([[[0.25, 0.375, 0.5]]], [1], {"thr": 0.25}, [[0, 1, 1]]),
        ([[[0.25, 0.375, 0.5]]], [255], {"thr": 0.375}, [[0, 0, 255]]),
        # Ties take the first object.
        ([[[True, True, False]], [[True, False, False]]], [9, 2], {}, [[9, 9, 0]]),
        # A prior decides where two claim a pixel, and only there.
        (
            [[[0.9, 0.9, 0.9, 0.4]], [[0.6, 0.6, 0.3, 0.3]]],
            [7, 3],
            {"prior": torch.tensor([[[0.1, 0.6, 0.1, 0.1]], [[0.9, 0.4, 0.9, 0.9]]]), "weight": 1.0},
            [[3, 7, 7, 0]],
        ),
        ([[[0.9]], [[0.6]]], [7, 3], {"prior": torch.tensor([[[0.1]], [[0.9]]]), "weight": 0.0}, [[7]]),
        (torch.eye(255)[:, None].tolist(), list(range(255, 0, -1)), {}, [list(range(255, 0, -1))]),
    ],
)
def test_by_hand(masks, ids, options, labels):
    masks = torch.tensor(masks)
    for values in (masks, masks.double()):
        found = merge_objects(values, ids, **options)
        assert found.dtype == torch.uint8 and found.tolist() == labels
    assert merge_objects(masks[:0], []).tolist() == torch.zeros(masks.shape[1:]).tolist()


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
