"""What every segmentation network does, and the loss that trains it."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from stg_pyg.learning.first_frame import learn_online
from stg_pyg.learning.steps import AveragedWeights, segmentation_step
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.backbones.deeplab import DeepLabV3Plus
from stg_pyg.nn.backbones.segmentation import ResidualBlock, SegmentationOutput, SmallSegmentationNet, segmentation_loss

CPU = torch.device("cpu")


@pytest.fixture(params=[SmallSegmentationNet, DeepLabV3Plus.small], ids=["small", "deeplab"])
def kind(request):
    return request.param


@pytest.fixture
def net(kind):
    """With statistics of a few batches, for evaluation."""
    net = kind(8).train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, 32, 32), torch.rand(4, 32, 32))
    return net.eval()


# The contract


@pytest.mark.parametrize(("width", "size"), [(4, 16), (8, 64), (6, 32), (8, 128)])
@pytest.mark.parametrize("training", [False, True])
def test_shapes_and_dtypes(kind, width, size, training):
    net = kind(width).train(training)
    images, q = torch.randn(2, 3, size, size), torch.rand(2, size, size)
    for mixed in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            output = net(images, q)
        assert output.logits.shape == (2, size, size) and output.quality.shape == (2,)
        assert output.logits.dtype == output.quality.dtype == torch.float32
        assert bool(output.logits.isfinite().all() & output.quality.isfinite().all())


def test_crops_are_independent_in_evaluation_and_in_any_memory_format(net):
    images, q = torch.randn(3, 3, 32, 32), torch.rand(3, 32, 32)
    both = net(images.contiguous(memory_format=torch.channels_last), q)
    for k in range(3):
        one = net(images[k : k + 1], q[k : k + 1])
        assert_close(one.logits[0], both.logits[k], atol=1e-4, rtol=1e-4)
        assert_close(one.quality[0], both.quality[k], atol=1e-4, rtol=1e-4)


def test_image_and_q_both_matter(net):
    images, q = torch.randn(1, 3, 32, 32), torch.rand(1, 32, 32)
    logits = net(images, q).logits
    assert not torch.allclose(net(images, torch.zeros_like(q)).logits, logits, atol=1e-3)
    assert not torch.allclose(net(torch.zeros_like(images), q).logits, logits, atol=1e-3)


def test_the_quality_judges_the_mask_that_came_out(net):
    images, q = torch.randn(1, 3, 32, 32), torch.rand(1, 32, 32)
    nn.init.normal_(net.mask_head.weight, std=100)
    before = net(images, q).quality
    with torch.no_grad():
        net.mask_head.weight.neg_()
    assert not torch.allclose(net(images, q).quality, before, atol=1e-4)
    net(images, q).quality.sum().backward()
    assert net.mask_head.weight.grad is None


def test_every_weight_has_a_gradient(kind):
    net = kind(8)
    output = net(torch.randn(2, 3, 64, 64), torch.rand(2, 64, 64))
    segmentation_loss(output, (torch.rand(2, 64, 64) > 0.5).float()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
    assert float(net.quality_head[0].weight.grad.abs().sum()) > 0


def test_loss_decreases_in_steps_of_training(kind):
    torch.manual_seed(1)
    net = kind(8)
    average, optimizer = AveragedWeights(net), torch.optim.Adam(net.parameters(), lr=1e-2)
    target = torch.zeros(4, 32, 32)
    for k in range(4):
        target[k, 4 + 3 * k : 18 + 3 * k, 6:24] = 1
    images = torch.rand(4, 3, 32, 32) * 0.3 + 0.7 * target[:, None]
    batch = tuple((255 * x).byte() for x in (images, torch.zeros(4, 32, 32), target))
    losses = []
    for _ in range(25):
        losses.append(segmentation_step(net, optimizer, batch, CPU, mixed_precision=False)["loss"])
        average.update(net)
    assert losses[-1] < 0.6 * losses[0]
    assert np.isfinite(segmentation_step(net, optimizer, batch, CPU, mixed_precision=True)["loss"])


def test_online_learning_leaves_the_network_and_the_statistics_alone(net):
    image, labels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8), np.zeros((48, 64), np.uint8)
    labels[12:36, 20:44] = 1
    before = {name: value.clone() for name, value in net.state_dict().items()}
    config = LucidConfig(size=32)
    own = learn_online(net, image, labels, config, steps=2, batch_size=2, peak=1e-3, device=CPU).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert any(not torch.equal(own[name], before[name]) for name in dict(net.named_parameters()))
    assert all(torch.equal(own[name], value) for name, value in before.items() if "running" in name)


# The loss


@pytest.mark.parametrize(
    ("columns", "target", "iou"),
    [(8, slice(0, 8), 1.0), (4, slice(0, 8), 0.5), (2, slice(0, 8), 0.25), (6, slice(4, 8), 0.25)],
)
def test_quality_is_trained_to_the_iou_of_the_binary_mask(columns, target, iou):
    logits, truth = torch.full((1, 8, 8), -20.0), torch.zeros(1, 8, 8)
    logits[0, :, :columns], truth[0, :, target] = 20, 1
    best = torch.logit(torch.tensor([iou]).clamp(1e-4, 1 - 1e-4)).requires_grad_()
    lowest = segmentation_loss(SegmentationOutput(logits, best), truth)
    lowest.backward()
    assert_close(best.grad, torch.zeros(1), atol=1e-3, rtol=0)
    for offset in (-2.0, 2.0):
        worse = segmentation_loss(SegmentationOutput(logits, best.detach() + offset), truth)
        assert iou == 1.0 or worse > lowest + 0.05


@pytest.mark.parametrize(("logit", "sign"), [(-20.0, -1), (20.0, 1)])
def test_quality_of_an_empty_target(logit, sign):
    """An empty mask of an empty target is right (IoU 1), a full one is wrong (IoU 0)."""
    quality = torch.zeros(1, requires_grad=True)
    segmentation_loss(SegmentationOutput(torch.full((1, 8, 8), logit), quality), torch.zeros(1, 8, 8)).backward()
    assert float(quality.grad) * sign > 0


def test_loss_by_hand():
    truth = torch.zeros(1, 8, 8)
    truth[0, :4] = 1
    # Cross-entropy log 2; soft IoU (16 + 1) / (32 + 32 - 16 + 1); quality log 2 whatever the target.
    expected = torch.log(torch.tensor(2.0)) * 1.5 + 1 - 17 / 49
    assert_close(segmentation_loss(SegmentationOutput(torch.zeros(1, 8, 8), torch.zeros(1)), truth), expected)
    perfect = SegmentationOutput(80 * truth.repeat(2, 1, 1) - 40, torch.full((2,), 40.0))
    assert float(segmentation_loss(perfect, truth.repeat(2, 1, 1))) == pytest.approx(0, abs=1e-4)
    assert float(segmentation_loss(perfect, 1 - truth.repeat(2, 1, 1))) > 1


def test_quality_gives_no_gradient_to_the_mask_through_its_target():
    logits, truth = torch.randn(1, 8, 8, requires_grad=True), torch.zeros(1, 8, 8)
    low, high = (
        torch.autograd.grad(segmentation_loss(SegmentationOutput(logits, torch.tensor([q])), truth), logits)[0]
        for q in (-3.0, 3.0)
    )
    assert_close(low, high)


@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((4, 6), 1), ((4, 6), 2)])
def test_residual_block(channels, stride):
    block = ResidualBlock(*channels, stride, norm=lambda c: nn.Identity())
    x = torch.randn(2, channels[0], 8, 10, requires_grad=True)
    out = block(x)
    assert out.shape == (2, channels[1], 8 // stride, 10 // stride) and bool((out >= 0).all())
    nn.init.zeros_(block.conv2[0].weight)
    shortcut = x if stride == 1 and channels[0] == channels[1] else block.shortcut(x[:, :, ::stride, ::stride])
    assert_close(block(x), shortcut.relu())
