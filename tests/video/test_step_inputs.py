"""What a step is given: the forms that it takes, values that cannot be meant, and PyTorch's inference mode."""

import numpy as np
import pytest
import torch
from PIL import Image
from stream_cases import HEIGHT, WIDTH, RedRule, Shift, nothing, picture, proposals, segmenter, square, tiny

from stg_pyg import InputError, Proposals, STGConfig, STGNet, VideoSegmenter
from stg_pyg.video.grouped import GroupedSegmenter

MASK = square(20, 10)
LABELS = (3 * MASK).numpy().astype(np.uint8)
IMAGE = picture(MASK)
EXPECTED = 3 * MASK.byte()
TENSOR = torch.from_numpy(IMAGE).permute(2, 0, 1).float() / 255


def indexed(labels):
    mask = Image.fromarray(labels, mode="P")
    mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    return mask


def mirrored(array):
    """The same array, of another layout in memory."""
    return np.ascontiguousarray(array[:, ::-1])[:, ::-1]


@pytest.mark.parametrize(
    ("image", "masks", "expected"),
    [
        (Image.fromarray(IMAGE), Image.fromarray(LABELS), EXPECTED),
        (IMAGE, indexed(LABELS), EXPECTED),
        (IMAGE, LABELS.astype(np.uint16), EXPECTED),
        (TENSOR, torch.from_numpy(LABELS).long(), EXPECTED),
        (TENSOR.double(), LABELS.astype(np.float64), EXPECTED),
        (mirrored(IMAGE), mirrored(LABELS), EXPECTED),
        (IMAGE, LABELS.tolist(), EXPECTED),
        (IMAGE, LABELS > 0, MASK.byte()),
        (IMAGE, Image.fromarray(LABELS > 0), MASK.byte()),
        (IMAGE, torch.from_numpy(85 * LABELS), 255 * MASK.byte()),
    ],
)
def test_pictures_arrays_and_tensors_are_read_alike(image, masks, expected):
    stream = segmenter(segmentation=RedRule())
    result = stream.step(image, masks=masks)
    assert torch.equal(result.labels, expected) and result.labels.dtype == torch.uint8
    assert torch.equal(result.masks, MASK[None]) and result.output is None and result.frame is None
    assert torch.equal(stream.step(image).labels, expected)


BAD_IMAGES = [
    (IMAGE.astype(np.float32), "must be RGB, uint8"),
    (IMAGE[..., 0], "must be RGB, uint8"),
    (Image.fromarray(IMAGE).convert("RGBA"), "must be RGB, uint8"),
    ((TENSOR * 255).byte(), "must be float"),
    (TENSOR.permute(1, 2, 0), "must be float"),
    (TENSOR[None], "must be float"),
    *((TENSOR * scale + shift, "divide by 255") for scale, shift in ((255, 0), (2, -1), (1, 0.1), (float("nan"), 0))),
]
BAD_MASKS = [
    (np.full((HEIGHT, WIDTH), "1"), "a mask must be"),
    (np.ones((WIDTH, HEIGHT), np.uint8), f"mask is {WIDTH} x {HEIGHT} and the image {HEIGHT} x {WIDTH}"),
    (Image.fromarray(IMAGE), f"mask is {HEIGHT} x {WIDTH} x 3"),
    (None, "first frame needs a mask"),
    (0 * LABELS, "first frame needs a mask"),
]


@pytest.mark.parametrize(
    ("image", "masks", "message"),
    [(image, LABELS, message) for image, message in BAD_IMAGES] + [(IMAGE, *bad) for bad in BAD_MASKS],
)
def test_what_cannot_be_meant_is_refused_and_the_video_begins_after_it(image, masks, message):
    stream = segmenter()
    with pytest.raises(InputError, match=message):
        stream.step(image, masks=masks)
    assert torch.equal(stream.step(IMAGE, masks=LABELS).labels, EXPECTED) and stream.frame_idx == 0


@pytest.mark.parametrize("value", [float("nan"), 1.3, -1.0, 256.0, 70000.0, float("inf")])
@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy])
def test_values_of_a_mask_that_are_no_ids(value, form):
    labels = LABELS.astype(np.float32)
    labels[0, 0] = value
    with pytest.raises(InputError, match=rf"the mask has the value {value:g}: object ids must be 1 to 255"):
        segmenter().step(IMAGE, masks=form(labels))


def of_values(value):
    masks = torch.stack([MASK, MASK])
    masks[1, 0, 0] = value
    return Proposals(torch.tensor([[20.0, 10, 34, 24]] * 2), masks, torch.ones(2))


@pytest.mark.parametrize(
    ("image", "given", "message"),
    [
        (np.zeros((HEIGHT, WIDTH + 2, 3), np.uint8), nothing(), f"the frame is {WIDTH + 2} x {HEIGHT}"),
        (IMAGE, None, "no proposals were given"),
        (IMAGE, Proposals.from_masks(torch.ones(1, HEIGHT + 2, WIDTH)), "the proposals are for frames of"),
        *((IMAGE, of_values(x), r"must be bool or in \[0, 1\]") for x in (float("nan"), 255.0, -0.2)),
    ],
)
def test_a_video_goes_on_after_a_refused_frame(image, given, message):
    stream = segmenter()
    stream.step(IMAGE, masks=LABELS)
    with pytest.raises(InputError, match=message):
        stream.step(image, given)
    assert stream.frame_idx == 0
    assert torch.equal(stream.step(IMAGE, nothing()).labels, EXPECTED)


def test_what_the_caller_gave_is_neither_changed_nor_needed_later():
    flow, buffer, labels = Shift(), IMAGE.copy(), LABELS.copy()
    found, second = proposals(square(22, 10), square(40, 30)), picture(square(20, 20))
    before = found.masks.clone()
    stream = segmenter(flow=flow)
    stream.step(buffer, masks=labels)
    buffer[:] = second
    stream.step(buffer, found)
    current, previous = flow.calls[0]
    assert np.array_equal(current, second) and np.array_equal(previous, IMAGE)
    assert np.array_equal(buffer, second) and np.array_equal(labels, LABELS) and torch.equal(found.masks, before)


def run(updates, frames=5):
    torch.manual_seed(0)
    changes = {"temporal.key_size": 32, "warping.gaps": (1,), "online.update_every": 2 if updates else 0}
    trusting = {"online.update_steps": 1, "online.trusted_quality": -1.0, "online.trusted_agreement": -1.0}
    model = STGNet.small(STGConfig.small().replace(changes | trusting), width=8).eval()
    stream = VideoSegmenter(model, None, 32)
    results = [stream.step(IMAGE, masks=LABELS)]
    results += [stream.step(TENSOR if t == 2 else np.roll(IMAGE, t, axis=1)) for t in range(1, frames)]
    return stream, results


@pytest.mark.parametrize("updates", [False, True])
def test_inference_mode_gives_the_same(updates):
    with torch.no_grad():
        _, expected = run(updates)
    with torch.inference_mode():
        stream, found = run(updates)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.labels, b.labels) and torch.equal(a.masks, b.masks)
    learned = stream.updates is not None and bool(stream.updates.state()["optimizer"]["state"])
    assert learned == updates


class FailingOnce(Shift):
    """A flow that fails where it is called for the n-th time."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def __call__(self, current, previous):
        self.left -= 1
        if not self.left:
            raise InputError("no flow")
        return super().__call__(current, previous)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_frame_whose_step_failed_is_taken_again(grouped, monkeypatch):
    """Frame 1 is given three times: first its flow fails, then what comes after the search for the lost objects, whose
    next search must not be put off by it."""
    model = tiny(STGConfig.small().replace({"warping.gaps": (1, 2), "selection.thr": 0.5}), RedRule())
    two = LABELS + 5 * square(42, 30, 8).numpy().astype(np.uint8)
    frames = [picture(MASK, square(42, 30, 8)), picture(), picture(MASK), picture(MASK)]
    results = []
    for failing in (False, True):
        flow = FailingOnce(1 if failing else -1)
        stream = GroupedSegmenter(model, flow, 32, max_objects=1) if grouped else VideoSegmenter(model, flow, 32)
        stream.step(frames[0], masks=two)
        if failing:
            with pytest.raises(InputError, match="no flow"):
                stream.step(frames[1])
            with monkeypatch.context() as patch, pytest.raises(TypeError):
                patch.setattr("stg_pyg.video.segmenter.merge_objects", None)
                stream.step(frames[1])
            assert stream.frame_idx == 0 and [state.search_from for state in stream.objects] == [0, 0]
        results.append([stream.step(frame) for frame in frames[1:]])
        searches = [state.search_from for state in stream.objects]
        assert max(searches) > 0, "an object was searched for"
    for expected, found in zip(*results, strict=True):
        assert torch.equal(found.labels, expected.labels) and torch.equal(found.masks, expected.masks)
