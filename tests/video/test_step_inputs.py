"""What a step is given: the forms that it takes, values that cannot be meant, and PyTorch's inference mode."""

import numpy as np
import pytest
import torch
from PIL import Image
from stream_cases import HEIGHT, PLAIN, WIDTH, RedRule, Shift, picture, segmenter, square, tiny
from torch import nn

from stg_pyg import InputError, Proposals, STGConfig, STGNet, VideoSegmenter
from stg_pyg.learning.first_frame import learn_online
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.backbones.segmentation import SmallSegmentationNet
from stg_pyg.video.grouped import GroupedSegmenter

MASK = square(20, 10)
LABELS = (3 * MASK).numpy().astype(np.uint8)
IMAGE = picture(MASK)
EXPECTED = 3 * MASK.byte()


def indexed(labels):
    mask = Image.fromarray(labels, mode="P")
    mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    return mask


@pytest.mark.parametrize(
    "masks",
    [Image.fromarray(LABELS), indexed(LABELS), LABELS.astype(np.uint16), LABELS.astype(np.float64), LABELS.tolist()],
    ids=["grey", "indexed", "uint16", "float", "list"],
)
def test_pictures_and_arrays_are_read_alike(masks):
    stream = segmenter(segmentation=RedRule())
    assert torch.equal(stream.step(Image.fromarray(IMAGE), masks=masks).labels, EXPECTED)
    assert torch.equal(stream.step(Image.fromarray(IMAGE)).labels, EXPECTED)


def test_a_bool_mask_and_a_picture_of_one_bit_are_object_1():
    for masks in (LABELS > 0, Image.fromarray(LABELS > 0), torch.from_numpy(LABELS > 0)):
        assert torch.equal(segmenter().step(IMAGE, masks=masks).labels, MASK.byte())


@pytest.mark.parametrize("value", [float("nan"), 1.3, -1.0, 256.0, 0.5, float("inf")])
@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy])
def test_values_of_a_mask_that_are_no_ids(value, form):
    labels = LABELS.astype(np.float32)
    labels[0, 0] = value
    with pytest.raises(InputError, match=rf"the mask has the value {value:g}: object ids must be 1 to 255"):
        segmenter().step(IMAGE, masks=form(labels))


@pytest.mark.parametrize("masks", [np.full((HEIGHT, WIDTH), "1"), Image.fromarray(IMAGE), None])
def test_what_is_no_mask(masks):
    with pytest.raises(InputError, match="mask"):
        segmenter().step(IMAGE, masks=masks)


@pytest.mark.parametrize("mode", ["L", "RGBA", "1"])
def test_pictures_that_are_not_rgb_are_refused(mode):
    with pytest.raises(InputError, match="must be RGB, uint8"):
        segmenter().step(Image.fromarray(IMAGE).convert(mode), masks=LABELS)


def as_tensor(scale):
    return torch.from_numpy(IMAGE).permute(2, 0, 1).float() / 255 * scale


@pytest.mark.parametrize("change", [lambda x: x * 255, lambda x: x * 2 - 1, lambda x: x / 0 - x / 0, lambda x: x + 0.1])
def test_image_tensors_of_another_range_are_refused(change):
    assert segmenter().step(as_tensor(1), masks=LABELS).labels.any()
    with pytest.raises(InputError, match=r"must be in \[0, 1\], not in \[.*divide by 255"):
        segmenter().step(change(as_tensor(1)), masks=LABELS)


@pytest.mark.parametrize("value", [float("nan"), 255.0, -0.2])
def test_proposals_of_another_range_are_refused(value):
    masks = torch.stack([MASK, MASK])
    masks[1, 0, 0] = value
    stream = segmenter()
    stream.step(IMAGE, masks=LABELS)
    with pytest.raises(InputError, match=r"masks of proposals must be bool or in \[0, 1\]"):
        stream.step(IMAGE, Proposals(torch.tensor([[20.0, 10, 34, 24]] * 2), masks, torch.ones(2)))
    assert stream.frame_idx == 0  # as if it had not been asked for


def run(updates, frames=5):
    torch.manual_seed(0)
    config = STGConfig.small().replace(
        {
            "temporal.key_size": 32,
            "warping.gaps": (1,),
            "online.update_every": 2 if updates else 0,
            "online.update_steps": 1,
            "online.trusted_quality": -1.0,
            "online.trusted_agreement": -1.0,
        }
    )
    model = STGNet.small(config, width=8).eval()
    stream = VideoSegmenter(model, None, 32)
    results = [stream.step(IMAGE, masks=LABELS)]
    results += [stream.step(as_tensor(1) if t == 2 else np.roll(IMAGE, t, axis=1)) for t in range(1, frames)]
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


def test_online_learning_in_inference_mode():
    net, options = SmallSegmentationNet(4).eval(), {"steps": 1, "batch_size": 2, "peak": 1e-3}
    common = (net, IMAGE, LABELS, LucidConfig(size=32))
    expected = learn_online(*common, device=torch.device("cpu"), **options)
    with torch.inference_mode():
        found = learn_online(*common, device=torch.device("cpu"), **options)
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))


def test_gradients_flow_outside_of_inference_mode():
    stream = segmenter(PLAIN, RedRule())
    stream.step(IMAGE, masks=LABELS)
    scale = nn.Parameter(torch.ones(()))
    stream.proposer.segment = lambda image, evidence: (evidence.q * scale, evidence.q.mean(dim=(1, 2)))
    assert stream.step(IMAGE).masks.requires_grad


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
