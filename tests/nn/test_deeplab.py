import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from stg_pyg import InputError
from stg_pyg.nn.backbones.deeplab import DeepLabV3Plus
from stg_pyg.nn.backbones.segmentation import SmallSegmentationNet, segmentation_loss


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


def test_size_of_the_default_networks():
    small, other = DeepLabV3Plus.small(), SmallSegmentationNet()
    count = sum(p.numel() for p in small.parameters())
    assert 2e6 < count < 4e6 and count < 1.5 * sum(p.numel() for p in other.parameters())


def test_a_batch_of_one_trains_on_the_running_statistics():
    net = DeepLabV3Plus.small(8)
    norm = net.aspp.convs[-1][2]
    mean = norm.running_mean.clone()
    loss = segmentation_loss(net(torch.randn(1, 3, 32, 32), torch.rand(1, 32, 32)), torch.ones(1, 32, 32))
    loss.backward()
    assert bool(loss.isfinite()) and torch.equal(norm.running_mean, mean)
    net(torch.randn(2, 3, 32, 32), torch.rand(2, 32, 32))
    assert not torch.equal(norm.running_mean, mean)
