import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from stg_pyg import InputError
from stg_pyg.lucid import LucidConfig
from stg_pyg.nn.deeplab import DeepLabV3Plus
from stg_pyg.nn.segmentation import SmallSegmentationNet, segmentation_loss
from stg_pyg.online import learn_online
from stg_pyg.proposer import Evidence, GuidedProposer
from stg_pyg.training import AveragedWeights, segmentation_step


def warmed_up(net, size=32):
    """The network with statistics of a few batches, for evaluation."""
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, size, size), torch.rand(4, size, size))
    return net.eval()


@pytest.fixture
def net():
    return warmed_up(DeepLabV3Plus.small(8))


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


@pytest.fixture(scope="module")
def large(coco):
    return DeepLabV3Plus.resnet101(coco[1]).eval()


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


@torch.no_grad()
def test_output_stride_16(coco, large):
    images, q = torch.randn(2, 3, 64, 64), torch.rand(2, 64, 64)
    features = large.backbone(torch.cat([images, q[:, None]], dim=1))
    assert features["low"].shape == (2, 256, 16, 16) and features["out"].shape == (2, 2048, 4, 4)
    resnet = coco[0].backbone
    low = resnet.layer1(resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images)))))
    assert_close(features["low"], low)
    assert [conv[0].dilation[0] for conv in large.aspp.convs[1:4]] == [6, 12, 18]
    output = large(images, q)
    assert output.logits.shape == (2, 64, 64) and output.quality.shape == (2,)
    assert_close(output.logits, large(images, 1 - q).logits)


def test_the_fourth_channel_of_the_pretrained_network_learns(large):
    large.zero_grad()
    output = large(torch.randn(1, 3, 64, 64), torch.rand(1, 64, 64))
    segmentation_loss(output, torch.ones(1, 64, 64)).backward()
    weight = large.backbone["conv1"].weight
    assert weight.shape == (64, 4, 7, 7) and not weight[:, 3].any()
    assert float(weight.grad[:, 3].abs().sum()) > 0
    large.zero_grad()


def test_other_output_strides_and_other_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="output_stride"):
        DeepLabV3Plus.resnet101(output_stride=4)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "own.pth")
    with pytest.raises(InputError, match=r"own\.pth: not a torchvision state dict of deeplabv3_resnet101"):
        DeepLabV3Plus.resnet101(tmp_path / "own.pth")


@pytest.mark.parametrize("width", [6, 8])
@pytest.mark.parametrize("size", [16, 64, 128])
@pytest.mark.parametrize("training", [False, True])
def test_shapes(width, size, training):
    net = DeepLabV3Plus.small(width).train(training)
    output = net(torch.randn(2, 3, size, size), torch.rand(2, size, size))
    assert output.logits.shape == (2, size, size) and output.quality.shape == (2,)
    assert output.logits.dtype == output.quality.dtype == torch.float32
    assert bool(output.logits.isfinite().all() & output.quality.isfinite().all())


def test_size_of_the_default_networks():
    small, other = DeepLabV3Plus.small(), SmallSegmentationNet()
    count = sum(p.numel() for p in small.parameters())
    assert 2e6 < count < 4e6 and count < 1.5 * sum(p.numel() for p in other.parameters())


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


def test_memory_formats_agree(net):
    images, q = torch.randn(2, 3, 32, 32), torch.rand(2, 32, 32)
    expected = net(images, q)
    found = net(images.contiguous(memory_format=torch.channels_last), q)
    assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)


def test_the_quality_judges_the_mask_that_came_out(net):
    images, q = torch.randn(1, 3, 32, 32), torch.rand(1, 32, 32)
    nn.init.normal_(net.mask_head.weight, std=100)
    before = net(images, q).quality
    with torch.no_grad():
        net.mask_head.weight.neg_()
    assert not torch.allclose(net(images, q).quality, before, atol=1e-4)
    net.zero_grad()
    net(images, q).quality.sum().backward()
    assert net.mask_head.weight.grad is None


def test_every_weight_has_a_gradient():
    net = DeepLabV3Plus.small(8)
    output = net(torch.randn(2, 3, 64, 64), torch.rand(2, 64, 64))
    segmentation_loss(output, (torch.rand(2, 64, 64) > 0.5).float()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
    assert float(net.quality_head[0].weight.grad.abs().sum()) > 0


def test_a_batch_of_one_trains_on_the_running_statistics():
    net = DeepLabV3Plus.small(8)
    norm = net.aspp.convs[-1][2]
    mean = norm.running_mean.clone()
    loss = segmentation_loss(net(torch.randn(1, 3, 32, 32), torch.rand(1, 32, 32)), torch.ones(1, 32, 32))
    loss.backward()
    assert bool(loss.isfinite()) and torch.equal(norm.running_mean, mean)
    net(torch.randn(2, 3, 32, 32), torch.rand(2, 32, 32))
    assert not torch.equal(norm.running_mean, mean)


def test_loss_decreases_in_steps_of_training():
    torch.manual_seed(1)
    net = DeepLabV3Plus.small(8)
    average = AveragedWeights(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    target = torch.zeros(4, 32, 32)
    for k in range(4):
        target[k, 4 + 3 * k : 18 + 3 * k, 6:24] = 1
    images = torch.rand(4, 3, 32, 32) * 0.3 + 0.7 * target[:, None]
    batch = tuple((255 * x).byte() for x in (images, torch.zeros(4, 32, 32), target))
    losses = []
    for _ in range(25):
        losses.append(segmentation_step(net, optimizer, batch, torch.device("cpu"), mixed_precision=False))
        average.update(net)
    assert losses[-1] < 0.6 * losses[0]
    assert np.isfinite(segmentation_step(net, optimizer, batch, torch.device("cpu"), mixed_precision=True))


def test_online_learning(net):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    labels = np.zeros((48, 64), np.uint8)
    labels[12:36, 20:44] = 1
    before = {name: value.clone() for name, value in net.state_dict().items()}
    adapted = learn_online(
        net, image, labels, LucidConfig(size=32), steps=2, batch_size=2, peak=1e-3, device=torch.device("cpu")
    )
    after, own = net.state_dict(), adapted.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert any(not torch.equal(own[name], before[name]) for name in dict(net.named_parameters()))
    assert all(torch.equal(own[name], value) for name, value in before.items() if "running" in name)


def test_proposals(net):
    proposer = GuidedProposer(net, size=32, margin=0.15)
    windows = torch.tensor([[4.0, 4, 40, 40], [10.0, 8, 60, 44]])
    found = proposer.propose(torch.rand(3, 48, 64), [Evidence(windows, torch.rand(2, 32, 32), ["q1", "p"])])
    assert len(found) == 1 and found[0].masks.shape == (2, 48, 64) and found[0].scores.shape == (2,)
