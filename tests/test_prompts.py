import pytest
import torch
from torch import nn

from stg_pyg.crops import IMAGE_MEAN, IMAGE_STD
from stg_pyg.nn.segmentation import SegmentationOutput
from stg_pyg.prompts import boxes_around, mask_of_box, mask_of_points
from stg_pyg.proposer import GuidedProposer

HEIGHT, WIDTH = 96, 128


class Red(nn.Module):
    """Says object to all that is red, and is sure of it where the object fills a good part of the window."""

    def forward(self, images, q):
        images = images * images.new_tensor(IMAGE_STD)[:, None, None] + images.new_tensor(IMAGE_MEAN)[:, None, None]
        logits = 40 * (images[:, 0] - images[:, 1:].amax(dim=1) - 0.3)
        share = (logits > 0).float().mean(dim=(1, 2))
        return SegmentationOutput(logits, 6 - 30 * (share - 0.5).abs())


def scene(*squares):
    image = torch.tensor([0.3, 0.35, 0.6])[:, None, None].repeat(1, HEIGHT, WIDTH)
    for x, y, side in squares:
        image[:, y : y + side, x : x + side] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    return image


def iou(mask, x, y, side):
    true = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    true[y : y + side, x : x + side] = True
    found = mask > 0.5
    return float((true & found).sum() / (true | found).sum())


@pytest.fixture
def proposer():
    return GuidedProposer(Red(), 32, 0.25)


def test_the_object_in_a_box(proposer):
    image = scene((20, 20, 24), (50, 20, 24))
    mask = mask_of_box(proposer, image, torch.tensor([18.0, 18, 46, 46]))
    assert mask.shape == (HEIGHT, WIDTH) and iou(mask, 20, 20, 24) > 0.9
    assert not mask[:, 46:].any(), "nothing outside of the box"


def test_q_is_the_box(proposer):
    seen = []
    proposer.net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[1]))
    mask_of_box(proposer, scene(), torch.tensor([32.0, 32, 64, 64]))
    assert seen[0].shape == (1, 32, 32)
    inside = 1 / (1 + 2 * 0.25)
    assert float(seen[0].mean()) == pytest.approx(inside**2, abs=0.03)


@pytest.mark.parametrize("box", [(-20.0, -20, 30, 30), (0.0, 0, WIDTH, HEIGHT), (100.0, 80, 200, 200), (5.0, 5, 6, 6)])
def test_boxes_at_the_border(proposer, box):
    mask = mask_of_box(proposer, scene((10, 10, 10)), torch.tensor(box))
    assert mask.shape == (HEIGHT, WIDTH) and bool(mask.isfinite().all())


@pytest.mark.parametrize("side", [14, 30, 60])
def test_objects_of_any_size_by_points(proposer, side):
    image = scene((20, 20, side))
    points = torch.tensor([[24.0, 24], [20 + side / 2, 18 + side / 2]])
    assert iou(mask_of_points(proposer, image, points), 20, 20, side) > 0.6
    assert iou(mask_of_points(proposer, image, points[1:]), 20, 20, side) > 0.6


def test_a_mask_without_the_points_is_not_taken(proposer):
    """A red square is found in larger windows around the point, but the point is beside it."""
    image = scene((20, 20, 30))
    on, beside = torch.tensor([[30.0, 30]]), torch.tensor([[60.0, 34]])
    assert iou(mask_of_points(proposer, image, on), 20, 20, 30) > 0.75
    assert not (mask_of_points(proposer, image, beside) > 0.5)[34, 60]


def test_boxes_hold_all_points_and_the_frame():
    points = torch.tensor([[10.0, 40], [70.0, 50]])
    boxes = boxes_around(points, HEIGHT, WIDTH)
    assert bool((boxes[:, 0] <= 10).all() & (boxes[:, 2] >= 70).all())
    assert bool((boxes[:, :2] >= 0).all() & (boxes[:, 2] <= WIDTH).all() & (boxes[:, 3] <= HEIGHT).all())
    sides = boxes[:, 3] - boxes[:, 1]
    assert float(sides[0]) < 20 and float(sides[-1]) > 0.8 * HEIGHT and bool((sides.diff() >= 0).all())
