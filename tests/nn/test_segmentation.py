import pytest
import torch
from torch import nn
from torch.testing import assert_close

from stg_pyg.nn.segmentation import ResidualBlock, SegmentationOutput, SmallSegmentationNet, segmentation_loss


def warmed_up(net):
    """The network with statistics of a few batches, for evaluation."""
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, 32, 32), torch.rand(4, 32, 32))
    return net.eval()


@pytest.fixture
def net():
    return warmed_up(SmallSegmentationNet(8))


@pytest.mark.parametrize("size", [16, 64, 128])
@pytest.mark.parametrize("training", [False, True])
def test_shapes(size, training):
    net = SmallSegmentationNet(8).train(training)
    output = net(torch.randn(2, 3, size, size), torch.rand(2, size, size))
    assert output.logits.shape == (2, size, size) and output.quality.shape == (2,)
    assert output.logits.dtype == output.quality.dtype == torch.float32
    assert bool(output.logits.isfinite().all() & output.quality.isfinite().all())


@pytest.mark.parametrize("width", [4, 8, 12])
def test_widths(width):
    net = SmallSegmentationNet(width).eval()
    assert net(torch.randn(1, 3, 32, 32), torch.rand(1, 32, 32)).logits.shape == (1, 32, 32)


def test_crops_are_independent_in_evaluation(net):
    images, q = torch.randn(3, 3, 32, 32), torch.rand(3, 32, 32)
    both = net(images, q)
    for k in range(3):
        one = net(images[k : k + 1], q[k : k + 1])
        assert_close(one.logits[0], both.logits[k], atol=1e-4, rtol=1e-4)
        assert_close(one.quality[0], both.quality[k], atol=1e-4, rtol=1e-4)


def test_image_and_q_both_matter(net):
    images, q = torch.randn(1, 3, 32, 32), torch.rand(1, 32, 32)
    logits = net(images, q).logits
    assert not torch.allclose(net(images, torch.zeros_like(q)).logits, logits, atol=1e-3)
    assert not torch.allclose(net(torch.zeros_like(images), q).logits, logits, atol=1e-3)


def test_in_mixed_precision_the_output_is_float32(net):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = net(torch.randn(1, 3, 32, 32), torch.rand(1, 32, 32))
    assert output.logits.dtype == output.quality.dtype == torch.float32


def test_loss_is_finite_and_decreases():
    torch.manual_seed(1)
    net = SmallSegmentationNet(8)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    target = torch.zeros(4, 32, 32)
    for k in range(4):
        target[k, 4 + 3 * k : 18 + 3 * k, 6:24] = 1
    images = torch.randn(4, 3, 32, 32) * 0.3 + target[:, None]
    losses = []
    for _ in range(30):
        loss = segmentation_loss(net(images, torch.zeros(4, 32, 32)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert bool(torch.stack(losses).isfinite().all())
    assert float(losses[-1]) < 0.6 * float(losses[0])


def test_every_weight_has_a_gradient():
    net = SmallSegmentationNet(8)
    output = net(torch.randn(2, 3, 32, 32), torch.rand(2, 32, 32))
    segmentation_loss(output, (torch.rand(2, 32, 32) > 0.5).float()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
    assert float(net.quality_head[0].weight.grad.abs().sum()) > 0


def hand_made(cover=(8, 8), target=(8, 8), logit=20.0):
    """Confident mask logits over the first columns of 8 x 8 pixels, and a target over others."""
    logits, truth = torch.full((1, 8, 8), -logit), torch.zeros(1, 8, 8)
    logits[0, :, : cover[0]] = logit
    truth[0, :, target[0] - target[1] : target[0]] = 1
    return logits, truth


@pytest.mark.parametrize(
    ("columns", "target", "iou"),
    [((8, 0), (8, 8), 1.0), ((4, 0), (8, 8), 0.5), ((2, 0), (8, 8), 0.25), ((6, 0), (8, 4), 0.25)],
)
def test_quality_is_trained_to_the_iou_of_the_binary_mask(columns, target, iou):
    logits, truth = hand_made(columns, target)
    probability = torch.tensor([iou]).clamp(1e-4, 1 - 1e-4)
    best = torch.logit(probability).requires_grad_()
    segmentation_loss(SegmentationOutput(logits, best), truth).backward()
    assert_close(best.grad, torch.zeros(1), atol=1e-3, rtol=0)
    for offset in (-2.0, 2.0):
        worse = segmentation_loss(SegmentationOutput(logits, best.detach() + offset), truth)
        assert iou == 1.0 or worse > segmentation_loss(SegmentationOutput(logits, best.detach()), truth) + 0.05


@pytest.mark.parametrize(("logit", "sign"), [(-20.0, -1), (20.0, 1)])
def test_quality_of_an_empty_target(logit, sign):
    quality = torch.zeros(1, requires_grad=True)
    output = SegmentationOutput(torch.full((1, 8, 8), logit), quality)
    segmentation_loss(output, torch.zeros(1, 8, 8)).backward()
    # An empty mask of an empty target is right (IoU 1), a full one is wrong (IoU 0).
    assert float(quality.grad) * sign > 0


def test_loss_by_hand():
    logits, quality = torch.zeros(1, 8, 8), torch.zeros(1)
    truth = torch.zeros(1, 8, 8)
    truth[0, :4] = 1
    # Cross-entropy log 2; soft IoU (16 + 1) / (32 + 32 - 16 + 1); quality log 2 whatever the target.
    expected = torch.log(torch.tensor(2.0)) + 1 - 17 / 49 + 0.5 * torch.log(torch.tensor(2.0))
    assert_close(segmentation_loss(SegmentationOutput(logits, quality), truth), expected)


def test_perfect_masks_cost_nothing():
    logits, truth = hand_made((4, 0), (4, 4), logit=40.0)
    output = SegmentationOutput(logits.repeat(2, 1, 1), torch.full((2,), 40.0))
    assert float(segmentation_loss(output, truth.repeat(2, 1, 1))) == pytest.approx(0, abs=1e-4)
    wrong = segmentation_loss(output, 1 - truth.repeat(2, 1, 1))
    assert float(wrong) > 1


def test_quality_gives_no_gradient_to_the_mask_through_its_target():
    logits = torch.randn(1, 8, 8, requires_grad=True)
    truth = torch.zeros(1, 8, 8)
    low = torch.autograd.grad(segmentation_loss(SegmentationOutput(logits, torch.tensor([-3.0])), truth), logits)[0]
    high = torch.autograd.grad(segmentation_loss(SegmentationOutput(logits, torch.tensor([3.0])), truth), logits)[0]
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
    block(x).sum().backward()
    assert bool(x.grad.isfinite().all())
