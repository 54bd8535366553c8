import pytest
import torch

from stg_pyg.proposals.appearance import ColourModel


def two_colours(side=12, height=32, width=48, dtype=torch.float32, red=(0.8, 0.1, 0.1), blue=(0.1, 0.2, 0.9)):
    """A red square on blue."""
    mask = torch.zeros(height, width, dtype=dtype)
    mask[4 : 4 + side, 6 : 6 + side] = 1
    red, blue = torch.tensor(red, dtype=dtype)[:, None, None], torch.tensor(blue, dtype=dtype)[:, None, None]
    return mask * red + (1 - mask) * blue, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [1, 4, 24])
@pytest.mark.parametrize("colours", [{}, {"red": (1.0, 1, 1), "blue": (0.0, 0, 0)}])
def test_posterior_tells_two_colours_apart_whatever_the_size_and_the_place(side, dtype, colours):
    image, mask = two_colours(side, dtype=dtype, **colours)
    model = ColourModel(image, mask)
    posterior = model.posterior(image)
    assert posterior.shape == mask.shape and posterior.dtype == dtype
    assert float(posterior[mask > 0.5].min()) > 0.9 and float(posterior[mask < 0.5].max()) < 0.1
    assert bool(((posterior >= 0) & (posterior <= 1)).all())
    moved = model.posterior(image.roll((3, 10), dims=(1, 2)))
    assert torch.equal(moved > 0.5, mask.roll((3, 10), dims=(0, 1)) > 0.5)


def test_posterior_is_the_share_of_the_colour_among_pixels():
    image = torch.zeros(3, 4, 40)
    image[0, :2] = 0.95
    mask = torch.zeros(4, 40)
    mask[:, :10] = 1
    mask[:2, 10:15] = 1  # 60 % of the object is of the first colour, and 50 of 110 pixels of the background
    posterior = ColourModel(image, mask).posterior(image)
    for row, share, other in ((0, 30 / 50, 50 / 110), (3, 20 / 50, 60 / 110)):
        torch.testing.assert_close(posterior[row, 0], torch.tensor(share / (share + other)), atol=1e-3, rtol=0)


def test_likeness():
    image, mask = two_colours()
    model, half, pixel = ColourModel(image, mask), mask.clone(), torch.zeros_like(mask)
    half[4:16, 18:30] = 1  # as many pixels of the background
    pixel[5, 7] = 1
    likeness = model.likeness(image, torch.stack([mask, 1 - mask, half, torch.zeros_like(mask), pixel]))
    assert likeness.shape == (5,) and float(likeness[3]) == 0
    assert min(likeness[0], likeness[4]) > 0.9 and float(likeness[1]) < 0.1
    torch.testing.assert_close(likeness[2], (likeness[0] + likeness[1]) / 2, atol=1e-4, rtol=0)
    torch.testing.assert_close(model.likeness(image, torch.stack([mask, half]) > 0.5), likeness[[0, 2]])
    assert model.likeness(image, mask[None][:0]).shape == (0,)
    for full in (mask * 0, mask * 0 + 1):  # a frame full of object, or without it
        assert bool(((ColourModel(image, full).posterior(image) > 0.5) == (full > 0.5)).all())


def test_an_image_that_has_changed_is_seen_anew():
    image, other = torch.rand(2, 3, 8, 9)
    model = ColourModel(image, image[0] > 0.5)
    expected = model.posterior(other.clone())
    first = model.posterior(image)
    assert torch.equal(model.posterior(image), first) and not torch.equal(first, expected)
    image.copy_(other)
    assert torch.equal(model.posterior(image), expected)
