"""The losses by which X tells objects apart, and K the pixels of one."""

import math

import pytest
import torch
import torch.nn.functional as F

from stg_pyg.model.identity import feature_loss, key_loss

SIDE, GRID = 12, 4
CODES = torch.eye(8)


def boxes(*corners):
    masks = torch.zeros(len(corners), SIDE, SIDE)
    for mask, (x0, y0, x1, y1) in zip(masks, corners, strict=True):
        mask[y0:y1, x0:x1] = 1
    return masks


# A third of a window is 4 pixels: what is beside a small mask does not meet it, beside a large one it does.
SMALL, LARGE, HALF, NOTHING, ELSEWHERE = boxes((1, 1, 4, 4), (2, 0, 8, 6), (2, 0, 8, 3), (0, 0, 0, 0), (0, 6, 12, 12))
OWNER = torch.tensor([3, 3, 5, 6, 5])


class Known:
    """X of a mask is the code of its window's object, or of anything else where it is hardly on the object."""

    def __init__(self, targets, codes, likeness=(40.0, -20.0)):
        self.targets, self.codes = targets, codes
        self.likeness = torch.tensor(likeness)

    def features(self, maps, masks):
        both = (masks * self.targets[:, None]).sum(dim=(2, 3))
        either = masks.sum(dim=(2, 3)) + self.targets.sum(dim=(1, 2))[:, None] - both
        return torch.where((both > 0.5 * either)[..., None], CODES[self.codes][:, None], CODES[0])


class Keyed:
    """K as given, [N, C, g, g]."""

    def __init__(self, keys):
        self.given = keys

    def keys(self, maps):
        return self.given


def maps_of(count):
    return [torch.zeros(count, 1, GRID * s, GRID * s) for s in (4, 2, 1)]


# X


def test_right_features_have_no_loss_and_wrong_ones_do():
    targets = SMALL.expand(5, SIDE, SIDE)
    right = Known(targets, OWNER)
    for q in (SMALL, ELSEWHERE, NOTHING):
        assert float(feature_loss(right, [], q.expand_as(targets), targets, OWNER)) < 1e-6
    for shuffled in ([3, 5, 3, 6, 5], [3, 3, 5, 5, 6], [1, 2, 3, 4, 5], [3, 3, 3, 3, 3]):
        assert float(feature_loss(right, [], targets, targets, torch.tensor(shuffled))) > 0.5
    for confused in ([3, 3, 3, 6, 3], [3, 4, 5, 6, 5], [0, 0, 0, 0, 0]):
        assert float(feature_loss(Known(targets, torch.tensor(confused)), [], targets, targets, OWNER)) > 0.5


@pytest.mark.parametrize(
    ("targets", "q", "ious"),
    [
        ([LARGE], [HALF], (1, 0.5, 0.2, 0)),
        ([LARGE], [LARGE], (1, 1, 0.2, 0)),
        ([LARGE], [0.5 * LARGE], (1, 0.5, 0.2, 0)),
        ([LARGE], [NOTHING], (1, 0.2, 0)),
        ([SMALL], [ELSEWHERE], (1, 0, 0, 0)),
        ([LARGE, NOTHING], [HALF, ELSEWHERE], (1, 0.5, 0.2, 0, 0, 0)),
        ([LARGE, NOTHING], [HALF, NOTHING], (1, 0.5, 0.2, 0, 0)),
        ([LARGE, SMALL], [HALF, SMALL], (1, 0.5, 0.2, 0, 1, 1, 0, 0)),
    ],
)
@pytest.mark.parametrize("others", [0, 1, 3])
def test_features_by_hand(targets, q, ious, others):
    """With a logit of 1 for all pairs; the cross-entropy with y is then log(1 + e) - y."""
    targets, q = torch.stack(targets + others * [LARGE]), torch.stack(q + others * [NOTHING])
    owner = torch.tensor([7] * (len(targets) - others) + [1, 2, 3][:others])
    anchors = int(targets[owner == 7].any(dim=2).any(dim=1).sum())
    ious = anchors * list(ious) + others * [1, 0.2, 0]
    own, other = math.log(1 + math.e) - sum(ious) / len(ious), math.log(1 + math.e) if others else 0
    loss = feature_loss(Known(targets, owner, likeness=(0.0, 1.0)), [], q, targets, owner)
    assert float(loss) == pytest.approx((own + other) / 2, rel=1e-5)


# K


@pytest.mark.parametrize("scale", [1, 100])
def test_right_keys_have_no_loss_and_wrong_ones_do(scale):
    targets = boxes((0, 0, 6, 12), (3, 3, 9, 12), (6, 0, 12, 6))
    owner = torch.tensor([2, 2, 2])
    cells = F.avg_pool2d(targets, SIDE // GRID)
    right = scale * torch.stack([cells, 1 - cells], dim=1)
    assert float(key_loss(Keyed(right), maps_of(3), targets, owner)) < 1e-3
    wrong = right.clone()
    wrong[0] = right[0].flip(0)
    assert float(key_loss(Keyed(wrong), maps_of(3), targets, owner)) > 1


def test_keys_by_hand():
    """Keys that are all alike retrieve the share of the other mask."""

    def cross_entropy(found, share):
        return -share * math.log(found) - (1 - share) * math.log(1 - found)

    targets, keys = boxes((0, 0, 5, 12), (0, 0, 12, 4), (0, 0, 9, 12)), torch.ones(3, 5, GRID, GRID)
    a, b, c = 5 / 12, 1 / 3, 3 / 4
    two = cross_entropy(a, b) + cross_entropy(b, a)
    three = two + cross_entropy(a, c) + cross_entropy(c, a) + cross_entropy(b, c) + cross_entropy(c, b)
    for owner, expected in (((1, 1, 2), two / 2), ((1, 1, 1), three / 6), ((1, 2, 3), 0)):
        loss = key_loss(Keyed(keys), maps_of(3), targets, torch.tensor(owner))
        assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_different_objects_and_empty_windows_are_no_pairs():
    targets = torch.stack([LARGE, LARGE, SMALL, NOTHING])
    keys = torch.randn(4, 5, GRID, GRID)
    pair = key_loss(Keyed(keys[:2]), maps_of(2), targets[:2], torch.tensor([1, 1]))
    assert float(key_loss(Keyed(keys), maps_of(4), targets, torch.tensor([1, 1, 2, 1]))) == pytest.approx(float(pair))
    keys.requires_grad_()
    loss = key_loss(Keyed(keys), maps_of(4), targets, torch.tensor([1, 2, 3, 1]))
    loss.backward()
    assert float(loss.detach()) == 0 and not keys.grad.any()


# Both, of a network
