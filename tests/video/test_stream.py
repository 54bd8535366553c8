import numpy as np
import pytest
import torch
from stream_cases import (
    HEIGHT,
    WIDTH,
    RedRule,
    Shift,
    label_map,
    nothing,
    picture,
    proposals,
    segmenter,
    square,
    tiny,
)

from stg_pyg import InputError, STGConfig, VideoSegmenter


def test_given_objects_are_the_result():
    first, second = square(4, 4), square(40, 20)
    result = segmenter().step(picture(first, second), masks=label_map(o3=first, o7=second))
    assert result.labels.dtype == torch.uint8 and result.labels.shape == (HEIGHT, WIDTH)
    assert np.array_equal(result.labels.numpy(), label_map(o3=first, o7=second))
    assert result.obj_ids == [3, 7]
    assert torch.equal(result.masks, torch.stack([first, second]))
    assert result.output is None and result.frame is None


@pytest.mark.parametrize("masks", [None, np.zeros((HEIGHT, WIDTH), np.uint8)])
def test_first_frame_without_objects(masks):
    video = segmenter()
    with pytest.raises(InputError, match="first frame needs a mask"):
        video.step(picture(), masks=masks)
    result = video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
    assert result.obj_ids == [1] and video.frame_idx == 0


@pytest.mark.parametrize("shape", [(WIDTH, HEIGHT), (HEIGHT, WIDTH + 1), (HEIGHT, WIDTH, 3), (1, HEIGHT, WIDTH)])
def test_mask_of_another_size(shape):
    with pytest.raises(InputError, match=rf"mask is {' x '.join(map(str, shape))} and the image {HEIGHT} x {WIDTH}"):
        segmenter().step(picture(), masks=np.ones(shape, np.uint8))


@pytest.mark.parametrize("obj_id", [-1, 256, 70000])
def test_object_ids_outside_of_a_byte(obj_id):
    masks = np.zeros((HEIGHT, WIDTH), np.int64)
    masks[4:9, 4:9] = obj_id
    with pytest.raises(InputError, match="1 to 255"):
        segmenter().step(picture(), masks=masks)


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m,
        torch.from_numpy,
        lambda m: m.astype(np.int32),
        lambda m: m.astype(np.int64),
        lambda m: torch.from_numpy(m).long(),
    ],
)
def test_types_of_masks(convert):
    labels = label_map(o255=square(4, 4), o1=square(30, 20))
    result = segmenter().step(picture(), masks=convert(labels))
    assert np.array_equal(result.labels.numpy(), labels) and result.obj_ids == [1, 255]


def test_bool_mask_is_object_1():
    result = segmenter().step(picture(), masks=square(4, 4).numpy() > 0.5)
    assert result.obj_ids == [1] and torch.equal(result.labels, square(4, 4).byte())


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((HEIGHT, WIDTH, 3), np.float32),
        np.zeros((HEIGHT, WIDTH), np.uint8),
        np.zeros((3, HEIGHT, WIDTH), np.uint8),
        np.zeros((HEIGHT, WIDTH, 4), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.uint16),
        torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8),
        torch.zeros(HEIGHT, WIDTH, 3),
        torch.zeros(HEIGHT, WIDTH),
        torch.zeros(1, 3, HEIGHT, WIDTH),
    ],
)
def test_images_of_other_types(image):
    with pytest.raises(InputError, match="image"):
        segmenter().step(image, masks=label_map(o1=square(4, 4)))


@pytest.mark.parametrize("tensor", [False, True])
def test_frames_that_change_size(tensor):
    video = segmenter()
    video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
    other = torch.zeros(3, HEIGHT, WIDTH + 2) if tensor else np.zeros((HEIGHT, WIDTH + 2, 3), np.uint8)
    with pytest.raises(InputError, match=f"the frame is {WIDTH + 2} x {HEIGHT}"):
        video.step(other, nothing())
    result = video.step(picture(square(4, 4)), nothing())
    assert video.frame_idx == 1 and torch.equal(result.labels, square(4, 4).byte())


def test_numpy_and_torch_frames_give_the_same():
    results = []
    for convert in (lambda x: x, lambda x: torch.from_numpy(x).permute(2, 0, 1).float() / 255):
        video = VideoSegmenter(tiny(STGConfig.small().replace("selection.thr", 0.5), RedRule()), crop_size=32)
        video.step(convert(picture(square(4, 4))), masks=label_map(o1=square(4, 4)))
        results.append([video.step(convert(picture(square(4 + 3 * t, 4))), None) for t in (1, 2)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.masks, b.masks)
        assert a.labels.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_tensor_frames_of_any_precision(dtype):
    video = segmenter()
    image = (torch.from_numpy(picture(square(4, 4))).permute(2, 0, 1) / 255).to(dtype)
    video.step(image, masks=label_map(o1=square(4, 4)))
    assert torch.equal(video.step(image, nothing()).labels, square(4, 4).byte())


@pytest.mark.parametrize("turned", ["image", "masks"])
def test_arrays_that_were_turned_around(turned):
    image, labels = picture(square(4, 4)), label_map(o1=square(4, 4))
    if turned == "image":
        image = np.ascontiguousarray(image[..., ::-1])[..., ::-1]
    else:
        labels = np.ascontiguousarray(labels[:, ::-1])[:, ::-1]
    assert torch.equal(segmenter().step(image, masks=labels).labels, square(4, 4).byte())


def test_callers_may_use_the_array_of_a_frame_again():
    flow = Shift()
    video = segmenter(flow=flow)
    buffer = picture(square(4, 4))
    video.step(buffer, masks=label_map(o1=square(4, 4)))
    buffer[:] = picture(square(20, 20))
    video.step(buffer, nothing())
    current, previous = flow.calls[0]
    assert np.array_equal(current, picture(square(20, 20)))
    assert np.array_equal(previous, picture(square(4, 4)))


def test_what_the_caller_gave_is_not_changed():
    image, labels = picture(square(4, 4)), label_map(o2=square(4, 4))
    found = proposals(square(6, 4), square(40, 30))
    before = image.copy(), labels.copy(), found.masks.clone()
    video = segmenter()
    video.step(image, masks=labels)
    video.step(image, found)
    assert np.array_equal(image, before[0]) and np.array_equal(labels, before[1])
    assert torch.equal(found.masks, before[2])
