import pytest
import torch
from torch import nn

from stg_pyg.appearance import ColourModel
from stg_pyg.crops import IMAGE_MEAN, IMAGE_STD
from stg_pyg.nn.segmentation import SegmentationOutput
from stg_pyg.proposer import GuidedProposer
from stg_pyg.redetect import find_again, has_collapsed

HEIGHT, WIDTH = 64, 96
RED, GREEN, BLUE = [0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.1, 0.2, 0.7]
FIRST, MOVED = (8, 10, 28, 30), (66, 38, 86, 58)


class ColourRule(nn.Module):
    """Finds the pixels in which a channel is far above the others, surer of it the more there are."""

    def __init__(self, channel=0, quality=1.0):
        super().__init__()
        self.channel, self.quality = channel, quality

    def forward(self, images, q):
        images = images * images.new_tensor(IMAGE_STD)[:, None, None] + images.new_tensor(IMAGE_MEAN)[:, None, None]
        others = images[:, [c for c in range(3) if c != self.channel]].amax(dim=1)
        logits = 40 * (images[:, self.channel] - others - 0.3)
        share = (logits > 0).float().mean(dim=(1, 2))
        return SegmentationOutput(logits, torch.where(share > 0, self.quality + 3 * share, -6.0))


def box_mask(box):
    mask = torch.zeros(HEIGHT, WIDTH)
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


def scene(**objects):
    """A blue frame with a green patch, and objects by colour."""
    image = torch.tensor(BLUE)[:, None, None].repeat(1, HEIGHT, WIDTH)
    for colour, box in {"green": (40, 4, 60, 20), **objects}.items():
        value = {"red": RED, "green": GREEN}[colour]
        image = torch.where(box_mask(box) > 0.5, torch.tensor(value)[:, None, None], image)
    return image


FRAME = scene(red=FIRST)
COLOURS = ColourModel(FRAME, box_mask(FIRST))
LIKENESS = float(COLOURS.likeness(FRAME, box_mask(FIRST)[None])[0])


def search(image, net=None, taken=None, size=(20.0, 20.0)):
    proposer = GuidedProposer(net or ColourRule(), 32, 0.25)
    taken = torch.zeros(HEIGHT, WIDTH) if taken is None else taken
    return find_again(proposer, image, torch.tensor(size), COLOURS, LIKENESS, taken)


def iou(a, b):
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum())


def collapsed(mask, median_area, image, first_likeness):
    likeness = float(COLOURS.likeness(image, mask[None])[0])
    return has_collapsed(float(mask.sum()), median_area, likeness, first_likeness)


def test_the_object_itself_has_not_collapsed():
    mask = box_mask(FIRST)
    assert not collapsed(mask, float(mask.sum()), FRAME, LIKENESS)
    moved = scene(red=MOVED)
    assert not collapsed(box_mask(MOVED), float(mask.sum()), moved, LIKENESS)
    assert not collapsed(box_mask((8, 10, 28, 28)), float(mask.sum()), FRAME, LIKENESS)


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 0), (10, 12, 12, 14), (42, 6, 58, 20)], ids=["empty", "tiny", "other_colours"]
)
def test_collapsed_results(box):
    assert collapsed(box_mask(box), 400.0, FRAME, LIKENESS)


def test_empty_result_has_collapsed_whatever_the_history():
    assert collapsed(torch.zeros(HEIGHT, WIDTH), 0.0, FRAME, 0.0)


def test_collapse_is_relative_to_the_first_frame():
    half = box_mask((18, 10, 38, 30))  # one half red, one half background
    assert not collapsed(half, 400.0, FRAME, 0.5)
    one_pixel = box_mask((10, 12, 11, 13))
    assert not collapsed(one_pixel, 1.0, FRAME, LIKENESS)


@pytest.mark.parametrize("place", [MOVED, (0, 0, 20, 20), (76, 44, 96, 64), (40, 24, 60, 44)])
def test_displaced_object_is_found(place):
    found = search(scene(red=place))
    assert found is not None and len(found) >= 1
    assert found.masks.shape[1:] == (HEIGHT, WIDTH)
    assert iou(found.masks[0], box_mask(place)) > 0.8
    torch.testing.assert_close(found.boxes[0], torch.tensor(place, dtype=torch.float32), atol=3, rtol=0)


def test_all_that_is_found_is_one_object():
    image = torch.where(box_mask((70, 40, 90, 60)) > 0.5, torch.tensor(RED)[:, None, None], scene(red=FIRST))
    found = search(image)
    assert found is not None
    places = [iou(mask, box_mask(FIRST)) for mask in found.masks]
    others = [iou(mask, box_mask((70, 40, 90, 60))) for mask in found.masks]
    assert min(places) > 0.5 or min(others) > 0.5
    assert len(found.scores) == len(found.masks) == len(found.boxes)


def test_nothing_is_found_where_nothing_is():
    assert search(scene()) is None


def test_places_that_the_network_does_not_believe_in_are_refused():
    assert search(scene(red=MOVED), ColourRule(quality=-5.0)) is None


def test_things_of_other_colours_are_refused():
    image = scene()
    assert float(COLOURS.likeness(image, box_mask((40, 4, 60, 20))[None])[0]) < 0.1
    assert search(image, ColourRule(channel=1)) is None


def test_pixels_of_other_objects_are_refused():
    assert search(scene(red=MOVED), taken=box_mask(MOVED)) is None
    elsewhere = search(scene(red=MOVED), taken=box_mask(FIRST))
    assert elsewhere is not None and iou(elsewhere.masks[0], box_mask(MOVED)) > 0.8


def test_the_free_one_of_two_is_found():
    image = torch.where(box_mask(MOVED) > 0.5, torch.tensor(RED)[:, None, None], scene(red=FIRST))
    found = search(image, taken=box_mask(FIRST))
    assert found is not None and iou(found.masks[0], box_mask(MOVED)) > 0.8


@pytest.mark.parametrize("size", [(6.0, 6.0), (300.0, 200.0)])
def test_odd_sizes_do_not_fail(size):
    found = search(scene(red=MOVED), size=size)
    assert found is None or iou(found.masks[0], box_mask(MOVED)) > 0.5


def test_search_is_repeatable():
    first, second = search(scene(red=MOVED)), search(scene(red=MOVED))
    assert first is not None and second is not None
    assert torch.equal(first.masks, second.masks) and torch.equal(first.scores, second.scores)
