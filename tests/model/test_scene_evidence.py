import pytest
import torch

from stg_pyg.model.scene import weigh


def shares(inside):
    """One object in the left half of 4 x 8 cells."""
    cells = torch.full((1, 4, 8), 1 - inside)
    cells[..., :4] = inside
    return cells


def test_the_memory_adds_and_takes_away_where_it_is_sure():
    masks = torch.full((1, 16, 32), 0.5)
    found = weigh(masks, shares(0.99), weight=1.0, blind=0)[0]
    assert float(found[:, :12].min()) > 0.98 and float(found[:, 20:].max()) < 0.02


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_it_says_nothing_where_it_does_not_know(weight):
    masks = torch.rand(2, 16, 32)
    found = weigh(masks, torch.full((2, 4, 8), 0.5), weight, blind=0)
    torch.testing.assert_close(found, masks.clamp(0.01, 0.99))


def test_log_odds_are_added():
    masks = torch.full((1, 4, 8), 0.7)
    found = weigh(masks, torch.full((1, 4, 8), 0.9), 2.0, blind=1)
    torch.testing.assert_close(found.logit(), masks.logit() + 2 * torch.tensor(0.9).logit())


def test_the_outline_is_left_to_the_mask():
    masks = torch.rand(1, 4, 8)
    found = weigh(masks, shares(0.99), weight=4.0, blind=1)
    torch.testing.assert_close(found[..., 3:5], masks[..., 3:5].clamp(0.01, 0.99))
    assert float(found[..., :3].min()) > 0.98 and float(found[..., 5:].max()) < 0.02


def test_masks_have_gradients():
    masks = torch.full((1, 8, 8), 0.6, requires_grad=True)
    weigh(masks, shares(0.9), weight=1.0).sum().backward()
    assert bool((masks.grad > 0).all())
