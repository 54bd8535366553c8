import copy

import numpy as np
import pytest
import torch
from torch import nn

from datasets import SyntheticVideos
from stg_pyg.learning.first_frame import AnnotatedFrames, Schedule, learn_online
from stg_pyg.learning.steps import LucidBatches
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.backbones.guided_unet import GuidedUNet
from stg_pyg.nn.backbones.segmentation import SmallSegmentationNet, segmentation_loss
from stg_pyg.ops.crops import normalize_image

CONFIG = LucidConfig(size=32)
OPTIONS = {"batch_size": 4, "peak": 2e-3, "device": torch.device("cpu")}


@pytest.fixture(scope="module")
def frames():
    """First frames of two videos."""
    videos = SyntheticVideos("val", num_videos=2, num_frames=1, height=48, width=64)
    return [(video.image(0), video.labels(0)) for video in videos]


@pytest.fixture(scope="module")
def net():
    """A network whose statistics are not those of a fresh one."""
    torch.manual_seed(0)
    net = SmallSegmentationNet(8)
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(4, 3, 32, 32), torch.rand(4, 32, 32))
    return net.eval()


def state_of(net):
    return copy.deepcopy(net.state_dict())


def equal(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def loss_on(net, frame):
    """Loss on samples of a frame that online learning did not see."""
    batch = LucidBatches([AnnotatedFrames([frame[0]], [frame[1]])], CONFIG, 24, (0, 1), seed=99)[0]
    images, q, targets = (x.float() / 255 for x in batch[:3])
    with torch.no_grad():
        return float(segmentation_loss(net.eval()(normalize_image(images), q), targets))


def test_network_itself_stays_bit_by_bit(net, frames):
    before, modes = state_of(net), [module.training for module in net.modules()]
    adapted = learn_online(net, *frames[0], CONFIG, steps=3, **OPTIONS)
    assert equal(before, net.state_dict())
    assert modes == [module.training for module in net.modules()]
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not equal(before, adapted.state_dict())
    assert not any(module.training for module in adapted.modules())


def test_same_seed_same_weights(net, frames):
    first = learn_online(net, *frames[0], CONFIG, steps=3, seed=5, **OPTIONS).state_dict()
    torch.manual_seed(123)
    np.random.seed(123)
    assert equal(first, learn_online(net, *frames[0], CONFIG, steps=3, seed=5, **OPTIONS).state_dict())
    assert not equal(first, learn_online(net, *frames[0], CONFIG, steps=3, seed=6, **OPTIONS).state_dict())


def test_statistics_are_frozen_and_weights_are_not(net, frames):
    before = state_of(net)
    after = learn_online(net, *frames[0], CONFIG, steps=4, **OPTIONS).state_dict()
    statistics = [name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert statistics
    for name in statistics:
        assert torch.equal(before[name], after[name])
    convolutions = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    assert all(not torch.equal(before[f"{name}.weight"], after[f"{name}.weight"]) for name in convolutions)


@pytest.mark.parametrize(("steps", "seen"), [(0, 1), (-1, 1), (5, 0)])
def test_no_steps_or_no_object_give_an_equal_copy(net, frames, steps, seen):
    image, labels = frames[0]
    adapted = learn_online(net, image, seen * labels, CONFIG, steps=steps, **OPTIONS)
    assert not adapted.training
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in adapted.parameters()}
    assert equal(net.state_dict(), adapted.state_dict())


def test_it_learns_the_frame(net, frames):
    before = loss_on(net, frames[0])
    adapted = learn_online(net, *frames[0], CONFIG, steps=25, **(OPTIONS | {"peak": 5e-3}))
    assert loss_on(adapted, frames[0]) < 0.85 * before


def test_the_rate_has_fallen_when_the_time_is_up():
    now = [100.0]
    schedule = Schedule(1000, 1e-3, seconds=20.0, clock=lambda: now[0])
    assert schedule.rate(12) == pytest.approx(1e-3, rel=1e-2)
    now[0] = 110.0
    assert schedule.rate(13) == pytest.approx(0.5e-3, rel=0.05)
    now[0] = 119.9
    assert schedule.rate(14) < 2e-5
    now[0] = 120.0
    assert schedule.rate(15) is None


def test_no_time_is_no_learning(net, frames):
    assert equal(learn_online(net, *frames[0], CONFIG, steps=3, seconds=0.0, **OPTIONS).state_dict(), net.state_dict())
    long = learn_online(net, *frames[0], CONFIG, steps=3, seconds=1e6, **OPTIONS)
    assert equal(long.state_dict(), learn_online(net, *frames[0], CONFIG, steps=3, **OPTIONS).state_dict())


@pytest.fixture(scope="module")
def pretrained():
    torch.manual_seed(0)
    return GuidedUNet.of().eval()


@pytest.mark.parametrize("layers", ["all", "decoder"])
def test_layers_that_learn(pretrained, frames, layers):
    adapted = learn_online(pretrained, *frames[0], CONFIG, steps=2, layers=layers, **OPTIONS)
    before, after = pretrained.state_dict(), adapted.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "mask_head" in changed and ("backbone" in changed) == (layers == "all")
    assert not changed & {"object_head", "key_head", "likeness"}, "X and K stay comparable with the first frame's"


def test_learning_ends_when_the_frame_is_explained(net, frames):
    whole = learn_online(net, *frames[0], CONFIG, steps=14, **OPTIONS)
    never = learn_online(net, *frames[0], CONFIG, steps=14, enough=0.999, **OPTIONS)
    assert equal(whole.state_dict(), never.state_dict())
    at_once = learn_online(net, *frames[0], CONFIG, steps=14, enough=1e-6, **OPTIONS)
    assert not equal(whole.state_dict(), at_once.state_dict())
