import pytest
import torch
from torch.testing import assert_close

from stg_pyg.ops.crops import crop_resize, crop_windows, normalize_image, paste

HEIGHT, WIDTH = 48, 64


def blob(height, width, x, y, sigma, dtype=torch.float32):
    """A smooth bump with its centre at (x, y)."""
    rows, columns = torch.arange(height, dtype=dtype) + 0.5, torch.arange(width, dtype=dtype) + 0.5
    return torch.exp(-((columns[None] - x) ** 2 + (rows[:, None] - y) ** 2) / (2 * sigma**2))


def test_normalize_image_by_hand():
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    for shift in (0, 1, 2):
        assert_close(normalize_image((mean + shift * std).expand(2, 3, 2, 4)), torch.full((2, 3, 2, 4), float(shift)))


@pytest.mark.parametrize(
    ("box", "options", "window"),
    [
        ([100.0, 200, 200, 260], (0.15, 0.0, 0.0), [85.0, 191, 215, 269]),
        ([100.0, 200, 200, 260], (0.0, 0.0, 0.0), [100.0, 200, 200, 260]),
        ([0.0, 0, 100, 10], (0.0, 0.5, 0.0), [0.0, -20, 100, 30]),
        ([0.0, 0, 10, 100], (0.0, 0.5, 0.0), [-20.0, 0, 30, 100]),
        ([0.0, 0, 100, 60], (0.0, 0.5, 0.0), [0.0, 0, 100, 60]),
        ([7.0, 9, 8, 10], (0.15, 0.5, 24.0), [-4.5, -2.5, 19.5, 21.5]),
        ([0.0, 0, 0, 0], (0.15, 0.5, 24.0), [-12.0, -12, 12, 12]),
    ],
)
def test_windows_by_hand(box, options, window):
    assert_close(crop_windows(torch.tensor([box]), *options), torch.tensor([window]))
    assert crop_windows(torch.zeros(0, 4), *options).shape == (0, 4)


def test_crop_takes_each_window_from_its_own_image_and_zeros_from_outside():
    images = torch.arange(3.0)[:, None, None, None].expand(3, 2, 32, 32)
    windows = torch.tensor([[1.0, 1, 5, 5], [-16.0, 0, 16, 32], [40.0, 40, 64, 64]])
    crops = crop_resize(images, windows, 32, torch.tensor([2, 1, 2]))
    assert crops.shape == (3, 2, 32, 32) and (crops[0] == 2).all() and not crops[2].any()
    assert (crops[1, :, :, 16:] == 1).all() and not crops[1, :, :, :14].any()
    assert not crop_resize(images, windows, 4).any(), "of the first image"
    assert crop_resize(images, windows[:0], 16).shape == (0, 2, 16, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("window", "center"),
    [
        ([10.3, 5.7, 42.9, 40.2], (26.4, 21.8)),
        ([-12.5, -9.0, 27.5, 23.0], (6.0, 5.0)),
        ([40.0, 30.0, 82.0, 66.0], (58.0, 42.0)),
        ([-20.0, -20.0, 90.0, 70.0], (32.0, 24.0)),
    ],
)
def test_paste_undoes_the_crop(window, center, dtype):
    image, windows = blob(HEIGHT, WIDTH, *center, 3.5, dtype), torch.tensor([window], dtype=dtype)
    crops = crop_resize(image[None, None], windows, 96)[:, 0]
    pasted = paste(crops, windows, HEIGHT, WIDTH)
    # The last row of pixels before the border is mixed with the zeros behind it.
    assert_close(pasted[0, 1:-1, 1:-1], image[1:-1, 1:-1], atol=0.04, rtol=0)


@pytest.mark.parametrize("size", [4, 8, 64])
def test_paste_keeps_to_the_pixels_of_the_window(size):
    """Pixels that share some area with the window are touched at most; there are none of a window outside."""
    outside = [[80.0, 5, 110, 35], [5.0, 60, 35, 90], [-60.0, 0, -30, 30], [0.0, -60, 30, -30], [64.0, 0, 94, 30]]
    partly = [[9.5, 7.25, 40.5, 33.75], [12.5, -8.5, 70.5, 33.75], [10.0, 8, 34, 32], [-30.0, 4, 0, 34]]
    barely = [[-30.0, 4, -0.5, 34], [20.0, -40, 50, -0.25]]
    windows = torch.tensor(partly + barely + outside)
    pasted = paste(torch.ones(len(windows), size, size), windows, HEIGHT, WIDTH)
    rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)
    for frame, (x0, y0, x1, y1) in zip(pasted, windows.tolist(), strict=True):
        assert not frame[~((rows + 1 > y0) & (rows < y1) & (columns + 1 > x0) & (columns < x1))].any()
    assert pasted[:3].flatten(1).any(dim=1).all()


@pytest.mark.parametrize("window", [[2.3, 1.2, 7.9, 6.6], [-3.0, -2.0, 5.5, 4.5]])
def test_gradients(window):
    windows = torch.tensor([window, [1.2, 0.7, 5.1, 5.9]], dtype=torch.float64)
    crops = torch.rand(2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: paste(c, windows, 8, 10), (crops,))
    images = torch.rand(2, 1, 6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: crop_resize(x, windows, 3, torch.tensor([0, 1])), (images,))
