import pytest
import torch

from stg_pyg.appearance import ColourModel


def two_colours(side=12, height=32, width=48, dtype=torch.float32):
    """A red square on blue, with a little of both in every pixel's neighbourhood of colours."""
    mask = torch.zeros(height, width, dtype=dtype)
    mask[4 : 4 + side, 6 : 6 + side] = 1
    red, blue = torch.tensor([0.8, 0.1, 0.1], dtype=dtype), torch.tensor([0.1, 0.2, 0.9], dtype=dtype)
    return mask * red[:, None, None] + (1 - mask) * blue[:, None, None], mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [1, 4, 24])
def test_posterior_tells_two_colours_apart_whatever_the_size(side, dtype):
    image, mask = two_colours(side, dtype=dtype)
    posterior = ColourModel(image, mask).posterior(image)
    assert posterior.shape == mask.shape and posterior.dtype == dtype
    assert float(posterior[mask > 0.5].min()) > 0.9
    assert float(posterior[mask < 0.5].max()) < 0.1
    assert bool(((posterior >= 0) & (posterior <= 1)).all())


def test_posterior_follows_the_colour_and_not_the_place():
    image, mask = two_colours()
    model = ColourModel(image, mask)
    moved = image.roll((14, 20), dims=(1, 2))
    assert torch.equal(model.posterior(moved) > 0.5, mask.roll((14, 20), dims=(0, 1)) > 0.5)


def test_colour_shared_by_object_and_background_is_undecided():
    image = torch.full((3, 16, 16), 0.4)
    mask = torch.zeros(16, 16)
    mask[:4, :4] = 1
    torch.testing.assert_close(ColourModel(image, mask).posterior(image), torch.full((16, 16), 0.5))


def test_posterior_is_the_share_of_the_colour_among_pixels():
    image = torch.zeros(3, 4, 40)
    image[0, :2] = 0.95
    mask = torch.zeros(4, 40)
    mask[:, :10] = 1
    mask[:2, 10:15] = 1  # 60 % of the object is of the first colour, and 50 of 110 pixels of the background
    posterior = ColourModel(image, mask).posterior(image)
    share, other = 30 / 50, 50 / 110
    torch.testing.assert_close(posterior[0, 0], torch.tensor(share / (share + other)), atol=1e-3, rtol=0)
    rest, other_rest = 20 / 50, 60 / 110
    torch.testing.assert_close(posterior[3, 0], torch.tensor(rest / (rest + other_rest)), atol=1e-3, rtol=0)


def test_bool_and_soft_masks():
    image, mask = two_colours()
    posterior = ColourModel(image, mask).posterior(image)
    assert torch.equal(ColourModel(image, mask > 0.5).posterior(image), posterior)
    soft = ColourModel(image, 0.9 * mask + 0.05 * (1 - mask)).posterior(image)
    assert float(soft[mask > 0.5].min()) > 0.6 > 0.4 > float(soft[mask < 0.5].max())


def test_likeness():
    image, mask = two_colours()
    model = ColourModel(image, mask)
    half = mask.clone()
    half[4:16, 18:30] = 1  # as many pixels of the background
    likeness = model.likeness(image, torch.stack([mask, 1 - mask, half, torch.zeros_like(mask)]))
    assert likeness.shape == (4,)
    assert float(likeness[0]) > 0.9 and float(likeness[1]) < 0.1
    torch.testing.assert_close(likeness[2], (likeness[0] + likeness[1]) / 2, atol=1e-4, rtol=0)
    assert float(likeness[3]) == 0
    torch.testing.assert_close(model.likeness(image, torch.stack([mask, half]) > 0.5), likeness[[0, 2]])
    assert model.likeness(image, mask[None][:0]).shape == (0,)


def test_likeness_of_one_pixel():
    image, _ = two_colours()
    pixel = torch.zeros(32, 48)
    pixel[5, 7] = 1
    model = ColourModel(image, pixel)
    assert float(model.likeness(image, pixel[None])[0]) > 0.9


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_frame_full_of_object_or_without_it(value):
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    posterior = ColourModel(image, torch.full((16, 16), value)).posterior(image)
    assert bool(posterior.isfinite().all())
    assert bool(((posterior > 0.5) == (value > 0.5)).all())


def test_black_and_white_are_colours():
    image = torch.zeros(3, 8, 8)
    image[:, :, 4:] = 1.0
    posterior = ColourModel(image, image[0]).posterior(image)
    assert float(posterior[:, 4:].min()) > 0.9 and float(posterior[:, :4].max()) < 0.1


def test_an_image_that_has_changed_is_seen_anew():
    image, other = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    model = ColourModel(image, image[0] > 0.5)
    expected = model.posterior(other.clone())
    first = model.posterior(image)
    assert torch.equal(model.posterior(image), first) and not torch.equal(first, expected)
    image.copy_(other)
    assert torch.equal(model.posterior(image), expected)
