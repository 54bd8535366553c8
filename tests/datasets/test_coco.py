import numpy as np
import pytest
from coco_files import HEIGHT, WIDTH, annotation, box_mask, compressed, make_root, polygon, runs

from datasets.coco import COCO
from stg_pyg.errors import InputError


def test_polygons_and_both_kinds_of_rle(tmp_path):
    annotations = [
        annotation(1, 0, [polygon(2, 3, 12, 13)]),
        annotation(2, 0, compressed(box_mask(20, 1, 25, 9))),
        annotation(3, 0, runs(box_mask(30, 15, 34, 20))),
    ]
    dataset = COCO(make_root(tmp_path, annotations))
    video = dataset[0]
    expected = box_mask(2, 3, 12, 13) + 2 * box_mask(20, 1, 25, 9) + 3 * box_mask(30, 15, 34, 20)
    np.testing.assert_array_equal(video.labels(0), expected)
    assert (video.name, video.frame_names, video.size) == ("000000000000", ["000000000000"], (HEIGHT, WIDTH))


def test_parts_are_joined_and_small_objects_lie_on_top_in_any_order(tmp_path):
    parts = [polygon(2, 2, 8, 8), polygon(20, 10, 26, 16), [1.0, 2.0, 3.0, 4.0]]
    labels = COCO(make_root(tmp_path / "parts", [annotation(1, 0, parts)]))[0].labels(0)
    np.testing.assert_array_equal(labels, box_mask(2, 2, 8, 8) + box_mask(20, 10, 26, 16))
    large, small = polygon(0, 0, 30, 20), polygon(5, 5, 9, 9)
    for name, order in (("a", (large, small)), ("b", (small, large))):
        labels = COCO(make_root(tmp_path / name, [annotation(i, 0, [p]) for i, p in enumerate(order)]))[0].labels(0)
        assert (labels[5:9, 5:9] == 2).all() and (labels == 1).sum() == 30 * 20 - 16


def test_crowds_and_images_without_objects_are_dropped(tmp_path):
    annotations = [
        annotation(1, 0, runs(box_mask(0, 0, 20, 20)), crowd=1),
        annotation(2, 1, runs(box_mask(0, 0, 20, 20)), crowd=1),
        annotation(3, 1, [polygon(1, 1, 5, 5)]),
        annotation(4, 2, []),
        annotation(5, 3, [[1.0, 1.0, 2.0, 2.0]]),
    ]
    dataset = COCO(make_root(tmp_path, annotations, num_images=4))
    assert dataset.sequence_names == ["000000000001"] and len(dataset) == 1
    np.testing.assert_array_equal(dataset[0].labels(0), box_mask(1, 1, 5, 5))
    with pytest.raises(InputError, match="annotates no object"):
        COCO(make_root(tmp_path / "empty", annotations[:2]))


def test_an_object_between_pixels_keeps_one(tmp_path):
    sliver = [4.1, 3.0, 4.11, 3.0, 4.11, 3.1]
    labels = COCO(make_root(tmp_path, [annotation(1, 0, [sliver]), annotation(2, 1, [[90.0, 3.0, 91, 3, 91, 4]])]))
    assert [video.labels(0).sum() for video in labels] == [1, 1]


def test_of_many_objects_the_largest_are_kept(tmp_path):
    places = [(x, y) for y in range(0, HEIGHT - 1, 2) for x in range(0, WIDTH - 1, 1)][:260]
    annotations = [annotation(i, 0, runs(box_mask(x, y, x + 1, y + 1))) for i, (x, y) in enumerate(places)]
    annotations.append(annotation(999, 0, runs(box_mask(10, 20, 20, 24))))
    labels = COCO(make_root(tmp_path, annotations))[0].labels(0)
    assert labels.max() == 255 and len(np.unique(labels)) == 256
    assert (labels[22:24, 10:20] == 1).all(), "the largest, though last, has number 1"


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}', '{"images": [], "annotations": [{"id": 1}]}'])
def test_files_that_hold_something_else(tmp_path, text):
    root = make_root(tmp_path, [])
    (root / "annotations/instances_train2017.json").write_text(text)
    with pytest.raises(InputError, match=r"instances_train2017\.json: holds no instance annotations"):
        COCO(root)


def test_a_key_that_is_there_twice(tmp_path):
    root = make_root(tmp_path, [annotation(1, 0, [polygon(1, 1, 5, 5)])])
    file = root / "annotations/instances_train2017.json"
    file.write_text(file.read_text().replace('"annotations"', '"annotations": [], "annotations"'))
    with pytest.raises(InputError, match="the key 'annotations' is there twice"):
        COCO(root)


@pytest.mark.parametrize(
    "segmentation",
    [
        pytest.param({"size": [1, 1], "counts": [3, 4]}, id="short runs"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": [-4, HEIGHT * WIDTH + 4]}, id="negative runs"),
        pytest.param({"size": [HEIGHT, WIDTH], "counts": "0~~~~"}, id="broken code"),
    ],
)
def test_broken_masks(tmp_path, segmentation):
    video = COCO(make_root(tmp_path, [annotation(77, 0, segmentation)]))[0]
    with pytest.raises(InputError, match=r"instances_train2017\.json: the mask of annotation 77"):
        video.labels(0)
