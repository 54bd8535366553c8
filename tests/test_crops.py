import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stg_pyg.boxes import box_center_size
from stg_pyg.crops import IMAGE_MEAN, IMAGE_STD, crop_resize, crop_windows, normalize_image, paste

FLOATS = [torch.float32, torch.float64]


def blob(height, width, x, y, sigma, dtype=torch.float32):
    """A smooth bump with its centre at (x, y)."""
    rows, columns = torch.arange(height, dtype=dtype) + 0.5, torch.arange(width, dtype=dtype) + 0.5
    return torch.exp(-((columns[None] - x) ** 2 + (rows[:, None] - y) ** 2) / (2 * sigma**2))


def touched(window, height, width):
    """Pixels [H, W] that share some area with a window."""
    x0, y0, x1, y1 = window.tolist()
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows, inside_columns = (rows + 1 > y0) & (rows < y1), (columns + 1 > x0) & (columns < x1)
    return inside_rows[:, None] & inside_columns[None]


def test_normalize_image_by_hand():
    image = torch.tensor(IMAGE_MEAN)[:, None, None].expand(3, 2, 4)
    assert torch.equal(normalize_image(image), torch.zeros(3, 2, 4))
    brighter = torch.stack([image, image + torch.tensor(IMAGE_STD)[:, None, None]])
    torch.testing.assert_close(normalize_image(brighter)[1], torch.ones(3, 2, 4))
    assert normalize_image(brighter.double()).dtype == torch.float64


def test_windows_have_the_margin_on_every_side():
    boxes = torch.tensor([[100.0, 200, 200, 260]])
    windows = crop_windows(boxes, margin=0.15, min_aspect=0.0, min_size=0.0)
    torch.testing.assert_close(windows, torch.tensor([[85.0, 191, 215, 269]]))
    torch.testing.assert_close(crop_windows(boxes, 0.0, min_aspect=0.0, min_size=0.0), boxes)


def test_windows_of_thin_boxes_are_grown_to_the_aspect():
    boxes = torch.tensor([[0.0, 0, 100, 10], [0, 0, 10, 100], [0, 0, 100, 60]])
    _, size = box_center_size(crop_windows(boxes, 0.0, min_aspect=0.5, min_size=0.0))
    torch.testing.assert_close(size, torch.tensor([[100.0, 50], [50, 100], [100, 60]]))


def test_windows_have_a_least_size():
    boxes = torch.tensor([[7.0, 9, 8, 10], [0, 0, 0, 0]])
    center, size = box_center_size(crop_windows(boxes, 0.15, min_size=24.0))
    assert size.tolist() == [[24, 24]] * 2
    assert center.tolist() == [[7.5, 9.5], [0, 0]]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-50, 150), min_size=2, max_size=2),
    st.lists(st.floats(0, 120), min_size=2, max_size=2),
    st.floats(0, 0.5),
    st.floats(0, 1),
    st.floats(1, 40),
)
def test_windows_hold_their_boxes_and_keep_their_centers(corner, size, margin, aspect, least):
    box = torch.tensor([[*corner, corner[0] + size[0], corner[1] + size[1]]], dtype=torch.float64)
    window = crop_windows(box, margin, aspect, least)
    (center,), (grown,) = box_center_size(window)
    torch.testing.assert_close(center, box_center_size(box)[0][0])
    assert bool((window[0, :2] <= box[0, :2] + 1e-9).all() & (window[0, 2:] >= box[0, 2:] - 1e-9).all())
    assert float(grown.min()) >= least - 1e-9
    assert float(grown.min()) >= aspect * float(grown.max()) - 1e-9


def test_windows_of_nothing():
    assert crop_windows(torch.zeros(0, 4), 0.15).shape == (0, 4)


@pytest.mark.parametrize("dtype", FLOATS)
def test_crop_of_aligned_pixels_is_the_mean_of_its_samples(dtype):
    image = torch.arange(48, dtype=dtype).view(1, 1, 6, 8)
    crop = crop_resize(image, torch.tensor([[2.0, 1, 6, 5]]), 4)
    assert crop.dtype == dtype
    torch.testing.assert_close(crop[0, 0], image[0, 0, 1:5, 2:6])
    halved = crop_resize(image, torch.tensor([[2.0, 1, 6, 5]]), 2)
    expected = image[0, 0, 1:5, 2:6].reshape(2, 2, 2, 2).mean(dim=(1, 3))
    torch.testing.assert_close(halved[0, 0], expected)


def test_crop_takes_each_window_from_its_own_image():
    images = torch.arange(3.0)[:, None, None, None].expand(3, 2, 8, 8)
    windows = torch.tensor([[1.0, 1, 5, 5]]).expand(4, 4)
    crops = crop_resize(images, windows, 4, torch.tensor([2, 0, 1, 2]))
    assert crops.shape == (4, 2, 4, 4)
    assert crops[:, 0, 0, 0].tolist() == [2, 0, 1, 2]
    assert not crop_resize(images, windows, 4).any()


def test_crop_is_zero_outside_of_the_image():
    crop = crop_resize(torch.ones(1, 1, 32, 32), torch.tensor([[-16.0, 0, 16, 32]]), 32)[0, 0]
    assert torch.equal(crop[:, 16:], torch.ones(32, 16))
    assert not crop[:, :14].any()
    assert not crop_resize(torch.ones(1, 1, 8, 8), torch.tensor([[20.0, 20, 44, 44]]), 8).any()


def test_crop_without_windows():
    assert crop_resize(torch.ones(1, 3, 8, 8), torch.zeros(0, 4), 16).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "window", [[10.0, 5, 42, 37], [10.3, 5.7, 42.9, 40.2], [4.5, 2.25, 60.75, 44.5], [0, 0, 64, 48]]
)
def test_paste_undoes_the_crop(window, dtype):
    image = blob(48, 64, 26.4, 21.8, 4.0, dtype)
    windows = torch.tensor([window], dtype=dtype)
    crops = crop_resize(image[None, None], windows, 64)[:, 0]
    pasted = paste(crops, windows, 48, 64)
    assert pasted.shape == (1, 48, 64) and pasted.dtype == dtype
    torch.testing.assert_close(pasted[0], image, atol=0.03, rtol=0)


def test_crop_undoes_the_paste():
    crop = blob(32, 32, 14.0, 17.5, 4.0)[None]
    windows = torch.tensor([[7.2, 3.4, 47.8, 44.9]])
    again = crop_resize(paste(crop, windows, 48, 64)[:, None], windows, 32)[:, 0]
    torch.testing.assert_close(again, crop, atol=0.04, rtol=0)


@pytest.mark.parametrize(
    ("window", "center"),
    [
        ([-12.5, -9.0, 27.5, 23.0], (6.0, 5.0)),
        ([40.0, 30.0, 82.0, 66.0], (58.0, 42.0)),
        ([-20.0, -20.0, 90.0, 70.0], (32.0, 24.0)),
    ],
)
def test_window_partly_outside_of_the_frame(window, center):
    image = blob(48, 64, *center, 3.5)
    windows = torch.tensor([window])
    crops = crop_resize(image[None, None], windows, 96)[:, 0]
    pasted = paste(crops, windows, 48, 64)[0]
    # The last row of pixels before the border is mixed with the zeros behind it.
    torch.testing.assert_close(pasted[1:-1, 1:-1], image[1:-1, 1:-1], atol=0.04, rtol=0)


@pytest.mark.parametrize(
    "window", [[80.0, 5, 110, 35], [5.0, 60, 35, 90], [-60.0, 0, -30, 30], [0.0, -60, 30, -30], [64.0, 0, 94, 30]]
)
def test_window_outside_of_the_frame_pastes_nothing(window):
    pasted = paste(torch.ones(1, 8, 8), torch.tensor([window]), 48, 64)
    assert torch.equal(pasted, torch.zeros(1, 48, 64))


@pytest.mark.parametrize("size", [4, 8, 64])
@pytest.mark.parametrize("window", [[9.5, 7.25, 40.5, 33.75], [12.5, -8.5, 70.5, 33.75]])
def test_paste_keeps_to_the_pixels_of_the_window(window, size):
    pasted = paste(torch.ones(1, size, size), torch.tensor([window]), 48, 64)[0]
    assert not pasted[~touched(torch.tensor(window), 48, 64)].any()


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("window", [[10.0, 8, 34, 32], [-30.0, 4, -0.5, 34], [-30.0, 4, 0, 34], [20.0, -40, 50, -0.25]])
def test_paste_of_coarse_crops_keeps_to_the_pixels_of_the_window(window, size):
    pasted = paste(torch.ones(1, size, size), torch.tensor([window]), 48, 64)[0]
    assert not pasted[~touched(torch.tensor(window), 48, 64)].any()


def test_paste_fills_the_inside_of_the_window():
    window = torch.tensor([10.0, 8, 42, 40])
    pasted = paste(torch.ones(1, 32, 32), window[None], 48, 64)[0]
    torch.testing.assert_close(pasted[8:40, 10:42], torch.ones(32, 32))
    assert float(pasted.sum()) == pytest.approx(32 * 32, abs=1e-2)


def test_every_crop_goes_to_its_own_window():
    crops = torch.stack([torch.full((8, 8), 0.25), torch.full((8, 8), 0.75)])
    windows = torch.tensor([[0.0, 0, 16, 16], [32.0, 16, 48, 32]])
    pasted = paste(crops, windows, 48, 64)
    assert pasted[0, 8, 8] == 0.25 and pasted[1, 24, 40] == 0.75
    assert pasted[0, 24, 40] == 0 and pasted[1, 8, 8] == 0
    torch.testing.assert_close(pasted[1:], paste(crops[1:], windows[1:], 48, 64))
    assert paste(crops[:0], windows[:0], 48, 64).shape == (0, 48, 64)


@pytest.mark.parametrize("window", [[2.3, 1.2, 7.9, 6.6], [-3.0, -2.0, 5.5, 4.5]])
def test_gradient_of_paste(window):
    windows = torch.tensor([window], dtype=torch.float64)
    crops = torch.rand(1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: paste(c, windows, 8, 10), (crops,))


def test_gradient_of_crop_resize():
    images = torch.rand(2, 1, 6, 7, dtype=torch.float64, requires_grad=True)
    windows = torch.tensor([[1.2, 0.7, 5.1, 5.9], [-2.0, 1.0, 4.0, 7.5]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: crop_resize(x, windows, 3, torch.tensor([0, 1])), (images,))
