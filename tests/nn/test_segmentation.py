"""What every segmentation network does, the weights of the paper's, and the loss that trains them."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from stg_pyg import InputError
from stg_pyg.learning.first_frame import learn_online
from stg_pyg.learning.steps import AveragedWeights, segmentation_step
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.backbones.deeplab import DeepLabV3Plus
from stg_pyg.nn.backbones.guided_unet import GuidedUNet
from stg_pyg.nn.backbones.segmentation import ResidualBlock, SegmentationOutput, SmallSegmentationNet, segmentation_loss

CPU = torch.device("cpu")
NETWORKS = {
    "small": lambda: SmallSegmentationNet(8),
    "deeplab": lambda: DeepLabV3Plus.small(8),
    "guided": lambda: GuidedUNet.of(weights="imagenet", features=12, key_channels=10),
}
SMALL = ["small", "deeplab"]


@pytest.fixture
def net(request):
    """With statistics of a batch, for evaluation."""
    net = NETWORKS[request.param]().train()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        net(torch.randn(4, 3, 64, 64), torch.rand(4, 64, 64))
    return net.eval()


@pytest.mark.parametrize("net", NETWORKS, indirect=True)
@torch.no_grad()
def test_crops_are_independent_and_image_and_q_matter(net):
    images, q = torch.randn(2, 3, 64, 64), torch.rand(2, 64, 64)
    both = net(images.contiguous(memory_format=torch.channels_last), q)
    assert both.logits.shape == (2, 64, 64) and both.quality.shape == (2,)
    for k in range(2):
        one = net(images[k : k + 1], q[k : k + 1])
        assert_close(one.logits[0], both.logits[k], atol=1e-4, rtol=1e-4)
        assert_close(one.quality[0], both.quality[k], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(net(images, 0 * q).logits, both.logits, atol=1e-3)
    assert not torch.allclose(net(0 * images, q).logits, both.logits, atol=1e-3)
    for size, training in ((96, False), (64, True)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = net.train(training)(torch.randn(2, 3, size, size), torch.rand(2, size, size))
        assert mixed.logits.shape == (2, size, size) and mixed.logits.dtype == mixed.quality.dtype == torch.float32
        assert bool(mixed.logits.isfinite().all() & mixed.quality.isfinite().all())


@pytest.mark.parametrize("net", NETWORKS, indirect=True)
def test_the_quality_judges_the_mask_that_came_out(net):
    images, q = torch.randn(1, 3, 64, 64), torch.rand(1, 64, 64)
    nn.init.normal_(net.mask_head.weight, std=100)
    before = net(images, q).quality
    with torch.no_grad():
        net.mask_head.weight.neg_()
    after = net(images, q).quality
    assert not torch.allclose(after, before, atol=1e-4)
    after.sum().backward()
    assert net.mask_head.weight.grad is None


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_has_a_gradient(name):
    net = NETWORKS[name]()
    output = net(torch.randn(2, 3, 64, 64), torch.rand(2, 64, 64))
    segmentation_loss(output, (torch.rand(2, 64, 64) > 0.5).float()).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), key
    assert float(net.quality_head[0].weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", SMALL)
def test_loss_decreases_in_steps_of_training(name):
    torch.manual_seed(1)
    net = NETWORKS[name]()
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


@pytest.mark.parametrize("net", SMALL, indirect=True)
def test_online_learning_leaves_the_network_and_the_statistics_alone(net):
    image, labels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8), np.zeros((48, 64), np.uint8)
    labels[12:36, 20:44] = 1
    before = {name: value.clone() for name, value in net.state_dict().items()}
    config = LucidConfig(size=32)
    own = learn_online(net, image, labels, config, steps=2, batch_size=2, peak=1e-3, device=CPU).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert any(not torch.equal(own[name], before[name]) for name in dict(net.named_parameters()))
    assert all(torch.equal(own[name], value) for name, value in before.items() if "running" in name)


# DeepLabv3+


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Torchvision's network with statistics that are not those of a new one, and the file of its weights."""
    torch.manual_seed(5)
    net = torchvision.models.segmentation.deeplabv3_resnet101(weights=None, weights_backbone=None, aux_loss=True).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.6)
    path = tmp_path_factory.mktemp("coco") / "deeplabv3_resnet101.pth"
    torch.save(net.state_dict(), path)
    return net, path


@torch.no_grad()
def test_pretrained_features_are_those_of_torchvision_whatever_q_is(coco):
    theirs, path = coco
    ours = DeepLabV3Plus.resnet101(path, output_stride=8).eval()
    images = torch.randn(2, 3, 64, 64)
    expected = theirs.backbone(images)["out"]
    for q in (torch.zeros(2, 1, 64, 64), torch.randn(2, 1, 64, 64)):
        found = ours.backbone(torch.cat([images, q], dim=1))["out"]
        assert_close(found, expected)
    assert_close(ours.aspp(found), theirs.classifier[0](expected))
    assert [conv[0].dilation[0] for conv in ours.aspp.convs[1:4]] == [12, 24, 36]


def test_output_stride_16_and_a_fourth_channel_that_learns(coco):
    large = DeepLabV3Plus.resnet101(coco[1]).eval()
    images, q = torch.randn(1, 3, 64, 64), torch.rand(1, 64, 64)
    features = large.backbone(torch.cat([images, q[:, None]], dim=1))
    assert features["low"].shape == (1, 256, 16, 16) and features["out"].shape == (1, 2048, 4, 4)
    resnet = coco[0].backbone
    low = resnet.layer1(resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images)))))
    assert_close(features["low"], low)
    assert [conv[0].dilation[0] for conv in large.aspp.convs[1:4]] == [6, 12, 18]
    output = large(images, q)
    assert_close(output.logits, large(images, 1 - q).logits)
    segmentation_loss(output, torch.ones(1, 64, 64)).backward()
    weight = large.backbone["conv1"].weight
    assert weight.shape == (64, 4, 7, 7) and not weight[:, 3].any() and float(weight.grad[:, 3].abs().sum()) > 0


def test_other_output_strides_and_other_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="output_stride"):
        DeepLabV3Plus.resnet101(output_stride=4)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "own.pth")
    with pytest.raises(InputError, match=r"own\.pth: not a torchvision state dict of deeplabv3_resnet101"):
        DeepLabV3Plus.resnet101(tmp_path / "own.pth")


def test_a_batch_of_one_trains_on_the_running_statistics():
    net = DeepLabV3Plus.small(8)
    norm = net.aspp.convs[-1][2]
    mean = norm.running_mean.clone()
    loss = segmentation_loss(net(torch.randn(1, 3, 32, 32), torch.rand(1, 32, 32)), torch.ones(1, 32, 32))
    loss.backward()
    assert bool(loss.isfinite()) and torch.equal(norm.running_mean, mean)
    net(torch.randn(2, 3, 32, 32), torch.rand(2, 32, 32))
    assert not torch.equal(norm.running_mean, mean)


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
    logits, grads = torch.randn(1, 8, 8, requires_grad=True), []
    for q in (-3.0, 3.0):  # no gradient of the quality reaches the mask through its target
        loss = segmentation_loss(SegmentationOutput(logits, torch.tensor([q])), 0 * truth)
        grads.append(torch.autograd.grad(loss, logits)[0])
    assert_close(*grads)


@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((4, 6), 1), ((4, 6), 2)])
def test_residual_block(channels, stride):
    block = ResidualBlock(*channels, stride, norm=lambda c: nn.Identity())
    x = torch.randn(2, channels[0], 8, 10)
    nn.init.zeros_(block.conv2[0].weight)
    shortcut = x if stride == 1 and channels[0] == channels[1] else block.shortcut(x[:, :, ::stride, ::stride])
    assert_close(block(x), shortcut.relu())
