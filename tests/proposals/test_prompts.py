import pytest
import torch
from proposer_cases import HEIGHT, RED, WIDTH, box_mask, iou, proposer, scene

from stg_pyg.proposals.prompts import boxes_around, mask_of_box, mask_of_points


def half_full(images, q):
    """Says object to all that is red, and is surest where the object fills half of the window."""
    logits = 40 * (images[:, 0] - images[:, 1:].amax(dim=1) - 0.3)
    return logits, 6 - 30 * ((logits > 0).float().mean(dim=(1, 2)) - 0.5).abs()


def square(x, y, side):
    return x, y, x + side, y + side


def test_the_object_in_a_box():
    image, boxed = scene((square(14, 20, 24), RED), (square(44, 20, 24), RED)), torch.tensor([12.0, 18, 40, 46])
    mask = mask_of_box(proposer(half_full), image, boxed)
    assert mask.shape == (HEIGHT, WIDTH) and iou(mask, box_mask(14, 20, 38, 44)) > 0.9
    assert not mask[:, 40:].any(), "nothing outside of the box"


@pytest.mark.parametrize("box", [(-20.0, -20, 30, 30), (0.0, 0, WIDTH, HEIGHT), (80.0, 50, 200, 200), (5.0, 5, 6, 6)])
def test_boxes_at_the_border(box):
    mask = mask_of_box(proposer(half_full), scene((square(10, 10, 10), RED)), torch.tensor(box))
    assert mask.shape == (HEIGHT, WIDTH) and bool(mask.isfinite().all())


@pytest.mark.parametrize("side", [12, 24, 40])
def test_objects_of_any_size_by_points(side):
    """A red square is found in windows around a point beside it too, but it does not hold the point."""
    box, guided = square(20, 14, side), proposer(half_full)
    points = torch.tensor([[24.0, 18], [20 + side / 2, 12 + side / 2]])
    for given in (points, points[1:]):
        assert iou(mask_of_points(guided, scene((box, RED)), given), box_mask(*box)) > 0.6
    beside = torch.tensor([[34.0 + side, 14 + side / 2]])
    assert not (mask_of_points(guided, scene((box, RED)), beside) > 0.5).any()


def test_boxes_hold_all_points_and_the_frame():
    points = torch.tensor([[10.0, 40], [70.0, 50]])
    boxes = boxes_around(points, 96, 128)
    assert bool((boxes[:, 0] <= 10).all() & (boxes[:, 2] >= 70).all())
    assert bool((boxes[:, :2] >= 0).all() & (boxes[:, 2] <= 128).all() & (boxes[:, 3] <= 96).all())
    sides = boxes[:, 3] - boxes[:, 1]
    assert float(sides[0]) < 20 and float(sides[-1]) > 0.8 * 96 and bool((sides.diff() >= 0).all())
