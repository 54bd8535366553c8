"""One frame and one training step on a GPU that is none: results are those of the CPU, and nothing mixes devices."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda
from stream_cases import square
from torch.testing import assert_close

from experiments.common.presets import find_preset
from experiments.train.stages.graph import train_clip
from stg_pyg import Proposals, STGNet, VideoSegmenter
from stg_pyg.learning.first_frame import learn_online
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.backbones.deeplab import DeepLabV3Plus
from stg_pyg.nn.backbones.encoders import KeyEncoder, ProposalEncoder, ResNetBackbone
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.video.grouped import GroupedSegmenter
from stg_pyg.video.snapshot import restore_stream, stream_state
from stg_pyg.video.trace import Tracer, trace_part

CUDA = torch.device("cuda", 0)
LABELS = (square(6, 8) + 2 * square(40, 26, 18)).numpy().astype(np.uint8)
IMAGE = np.random.default_rng(0).integers(0, 90, (*LABELS.shape, 3), np.uint8) + 80 * LABELS[..., None]
PRESETS = ("davis2016-small", "davis2016-paper")
CLIP = SimpleNamespace(
    name="clip", num_frames=3, image=lambda t: np.roll(IMAGE, t, axis=1), labels=lambda t: np.roll(LABELS, t, axis=1)
)


def shrunken(name):
    """A preset and its network, of few channels and for small crops."""
    preset = dataclasses.replace(find_preset(name), crop_size=32, graph_frame_size=64)
    config = preset.config.replace("temporal.key_size", 32)
    torch.manual_seed(0)
    if preset.size == "small":
        return preset, STGNet.small(config, width=8).eval()
    features = ProposalEncoder(ResNetBackbone("resnet18", 5), mode="roi", pool="avg", size=56)
    keys = KeyEncoder(ResNetBackbone("resnet18", 4), grid=8)
    return preset, STGNet(config, features, keys, DeepLabV3Plus.small(8)).eval()


def outside():
    masks = torch.stack([square(6 + k, 8) for k in range(3)] + [square(40, 26 + k, 18) for k in range(3)])
    return Proposals.from_masks(masks, torch.linspace(0.4, 0.9, 6))


def labels_of(model, device, kind=VideoSegmenter, frames=2, proposals=None, **options):
    stream = kind(model.to(device), None, 32, **options)
    with torch.no_grad():
        stream.step(IMAGE, masks=LABELS)
        for t in range(1, frames):
            result = stream.step(CLIP.image(t), proposals)
    return result.labels.numpy()


@pytest.mark.parametrize("name", PRESETS)
def test_a_frame(name):
    model = shrunken(name)[1]
    expected = labels_of(copy.deepcopy(model), "cpu")
    with FakeCuda():
        found = labels_of(model, CUDA)
    assert set(np.unique(found)) == {0, 1, 2} and (found != expected).mean() < 1e-3


@pytest.mark.parametrize("name", PRESETS)
def test_a_training_step_of_the_graph(name):
    preset, model = shrunken(name)
    expected = train_clip(copy.deepcopy(model), [CLIP], preset, np.random.default_rng(0), False)[0]
    with FakeCuda():
        model.to(CUDA)
        found = train_clip(model, [CLIP], preset, np.random.default_rng(0), False)[0]
        gradients = [p.grad.cpu() for p in model.key_encoder.parameters()]
    assert found == pytest.approx(expected, rel=1e-4)
    assert all(bool(x.isfinite().all()) for x in gradients) and any(float(x.abs().max()) > 0 for x in gradients)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": GroupedSegmenter, "max_objects": 1},
        {"proposals": outside()},
        {"proposals": dataclasses.replace(outside(), has_mask=torch.zeros(6, dtype=torch.bool))},
    ],
    ids=["groups", "outside", "boxes"],
)
def test_other_ways_of_a_frame(changes):
    model = shrunken("davis2016-small")[1]
    expected = labels_of(copy.deepcopy(model), "cpu", **changes)
    with FakeCuda():
        assert (labels_of(model, CUDA, **changes) != expected).mean() < 1e-3


def test_what_is_kept_and_told_of_a_frame():
    model = shrunken("davis2016-small")[1]
    with FakeCuda(), torch.no_grad():
        stream = VideoSegmenter(model.to(CUDA), None, 32)
        stream.step(IMAGE, masks=LABELS)
        result = stream.step(CLIP.image(1))
        arrays = trace_part(model, result.frame, result.output)
        restore_stream(stream, stream_state(stream))
        assert stream.objects[0].last_mask.device == CUDA
    assert arrays["obj_ids"].tolist() == [1, 2] and np.isfinite(arrays["total"]).all()


def test_online_learning_and_the_detector():
    net = shrunken("davis2016-small")[1].segmentation
    options = {"steps": 1, "batch_size": 2, "peak": 1e-3, "mixed_precision": False}
    expected = learn_online(net, IMAGE, LABELS, LucidConfig(size=32), device=torch.device("cpu"), **options)
    detector = Detector.small(4, 64).eval()
    boxes = detector.detect(torch.from_numpy(IMAGE).permute(2, 0, 1) / 255).boxes
    with FakeCuda():
        found = learn_online(net, IMAGE, LABELS, LucidConfig(size=32), device=CUDA, **options)
        for own, other in zip(found.parameters(), expected.parameters(), strict=True):
            assert_close(own.cpu(), other, rtol=0, atol=3e-4)
        on_gpu = detector.to(CUDA).detect(torch.from_numpy(IMAGE).to(CUDA).permute(2, 0, 1) / 255)
        assert_close(on_gpu.boxes.cpu(), boxes, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_frame_and_a_training_step_under_autocast(name, dtype, tmp_path):
    preset, model = shrunken(name)
    model.config = model.config.replace("memory.dtype", "float16")
    stream = VideoSegmenter(model, None, 32, mixed_precision=True)
    with torch.autocast("cpu", dtype=dtype):
        with torch.no_grad(), Tracer(model, tmp_path) as tracer:
            stream.step(IMAGE, masks=LABELS)
            result = stream.step(CLIP.image(1))
            tracer.write("00001", result)
        terms = train_clip(model, [CLIP], preset, np.random.default_rng(0), True)[0]
    assert result.masks.dtype == torch.float32 and np.isfinite(terms["loss"])
