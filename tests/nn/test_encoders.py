import socket

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.testing import assert_close

from stg_pyg import InputError
from stg_pyg.nn.backbones.encoders import KeyEncoder, ProposalEncoder, ResNetBackbone, SmallBackbone


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whatever would go out fails."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)


class Colours(nn.Module):
    """A backbone whose features are the mean colours of 8 x 8 pixels; it notes what it is given."""

    out_channels, stride = 3, 8

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.shapes = []

    def forward(self, images):
        self.shapes.append(tuple(images.shape))
        return F.avg_pool2d(images, 8) * self.weight[:, None, None]


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(3)
    net = torchvision.models.resnet18(weights=None)
    with torch.no_grad():
        net.train()(torch.randn(2, 3, 64, 64))
    return net.eval()


@pytest.fixture
def weights(resnet18, tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(resnet18.state_dict(), path)
    return path


# Red on the left, blue on the right; the masks of both halves.
HALVES = torch.stack([(torch.arange(96) < 48).expand(64, 96), (torch.arange(96) >= 48).expand(64, 96)]).float()
TWO_COLOURS = torch.stack([HALVES[0], torch.zeros(64, 96), HALVES[1]])
BOXES = torch.tensor([[4.0, 6, 40, 50], [0, 0, 96, 64], [90, 60, 91, 61]])


@pytest.mark.parametrize("channels", [(4, 16), (8, 20), (12, 48), (24, 64)])
@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_small_backbone_does_not_mix_crops(channels, size):
    net, crops = SmallBackbone(*channels), torch.randn(3, 3, *size)
    out = net(crops)
    assert out.shape == (3, channels[1], size[0] // net.stride, size[1] // net.stride)
    assert net.out_channels == channels[1] and net.stride == 8
    assert_close(net(crops[1:2]), out[1:2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "stage", "dilated", "channels", "stride"),
    [
        ("resnet18", 4, False, 256, 16),
        ("resnet34", 5, False, 512, 32),
        ("resnet101", 5, False, 2048, 32),
        ("resnet50", 4, True, 1024, 8),
        ("resnet50", 5, True, 2048, 16),
    ],
)
def test_resnet_shapes(name, stage, dilated, channels, stride):
    net = ResNetBackbone(name, stage, dilated=dilated).eval()
    assert (net.out_channels, net.stride) == (channels, stride)
    if dilated:
        net.load_state_dict(ResNetBackbone(name, stage).state_dict())
    with torch.no_grad():
        assert net(torch.randn(1, 3, 64, 96)).shape == (1, channels, 64 // stride, 96 // stride)
    for wrong in (3, 6):
        with pytest.raises(ValueError, match="stage"):
            ResNetBackbone("resnet18", wrong)


def test_making_a_resnet_leaves_its_statistics_alone():
    net = ResNetBackbone("resnet18", 4)
    assert net.training
    assert not net.stem[1].running_mean.any() and int(net.stem[1].num_batches_tracked) == 0


def test_resnet_takes_weights_from_a_file(resnet18, weights):
    image = torch.randn(1, 3, 64, 64)
    expected = resnet18.maxpool(resnet18.relu(resnet18.bn1(resnet18.conv1(image))))
    for layer in (resnet18.layer1, resnet18.layer2, resnet18.layer3):
        expected = layer(expected)
    with torch.no_grad():
        assert_close(ResNetBackbone("resnet18", 4, weights).eval()(image), expected)
        last = ResNetBackbone("resnet18", 5, str(weights)).eval()(image)
    assert_close(last, resnet18.layer4(expected))


def test_weights_without_the_classifier_or_of_rvos_are_enough(resnet18, tmp_path):
    backbone = {name: value for name, value in resnet18.state_dict().items() if not name.startswith("fc.")}
    rvos = {f"module.base.{name}": value for name, value in backbone.items()}
    torch.save(backbone, tmp_path / "backbone.pth")
    torch.save(rvos | {"module.sk5.weight": torch.zeros(2), "module.bn5.bias": torch.zeros(2)}, tmp_path / "encoder.pt")
    for path in (tmp_path / "backbone.pth", tmp_path):
        net = ResNetBackbone("resnet18", 5, path)
        assert torch.equal(net.stem[0].weight, resnet18.conv1.weight)
        assert torch.equal(net.stages[3][1].conv2.weight, resnet18.layer4[1].conv2.weight)
    assert ResNetBackbone("resnet18", 4, "none").out_channels == 256


BROKEN = {
    "renamed": lambda state: {**state, "conv1.weight": None, "backbone.conv1.weight": state["conv1.weight"]},
    "prefixed": lambda state: {f"module.{name}": value for name, value in state.items()},
    "missing": lambda state: {**state, "layer3.0.conv2.weight": None},
    "extra": lambda state: {**state, "layer5.weight": torch.zeros(1)},
    "shape": lambda state: {**state, "conv1.weight": torch.zeros(64, 4, 7, 7)},
    "nested": lambda state: {"state_dict": state, "epoch": 3},
    "tensor": lambda state: torch.zeros(3),
    "empty": lambda state: b"",
    "text": lambda state: b"not a checkpoint",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_wrong_weights_are_refused_by_the_name_of_their_file(resnet18, tmp_path, kind):
    path, content = tmp_path / f"{kind}.pth", BROKEN[kind](resnet18.state_dict())
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({k: v for k, v in content.items() if v is not None} if isinstance(content, dict) else content, path)
    with pytest.raises(InputError, match=rf"{kind}\.pth: .*resnet18") as error:
        ResNetBackbone("resnet18", 5, path)
    assert "\n" not in str(error.value)


def test_weights_of_another_resnet_and_missing_files_are_refused(weights, tmp_path):
    (tmp_path / "folder").mkdir()
    for name, path, message in (
        ("resnet34", weights, r"resnet18\.pth: .*resnet34"),
        ("resnet18", tmp_path / "absent.pth", r"absent\.pth: no such file"),
        ("resnet18", tmp_path / "folder", r"folder: holds neither .* nor resnet18\.pth"),
    ):
        with pytest.raises(InputError, match=message):
            ResNetBackbone(name, 5, path)


def test_pickled_code_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    path = tmp_path / "harmful.pth"
    torch.save({"conv1.weight": Harmful()}, path)
    with pytest.raises(InputError, match=r"harmful\.pth"):
        ResNetBackbone("resnet18", 5, path)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("mode", ["crop", "roi"])
@pytest.mark.parametrize("pool", ["avg", "mask"])
@pytest.mark.parametrize("out_features", [None, 7])
def test_shapes_and_gradients_of_features(mode, pool, out_features):
    encoder = ProposalEncoder(SmallBackbone(4, 16), mode, pool, out_features, size=32)
    features = encoder(torch.randn(3, 64, 96), BOXES, torch.rand(3, 64, 96))
    expected = out_features or (32 if pool == "mask" else 16)
    assert features.shape == (3, expected) and encoder.out_features == expected
    assert bool(features.isfinite().all())
    assert encoder(torch.randn(3, 64, 96), BOXES[:0], torch.rand(0, 64, 96)).shape == (0, expected)
    features.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize(("mode", "passes"), [("crop", (3, 3, 64, 64)), ("roi", (1, 3, 64, 96))])
def test_features_are_means_over_the_box_and_over_the_mask_in_it(mode, passes):
    """By crops in a pass a box, by regions of interest in one pass for all."""
    backbone, red, blue = Colours(), [1.0, 0, 0], [0.0, 0, 1]
    boxes, middle = (
        torch.tensor([[8.0, 8, 40, 40], [56.0, 16, 88, 48], [32.0, 16, 64, 48]]),
        torch.tensor([[32.0, 16, 64, 48]]),
    )
    average, masked = (ProposalEncoder(backbone, mode, pool, size=64, margin=0.0) for pool in ("avg", "mask"))
    features = average(TWO_COLOURS, boxes, torch.zeros(3, 64, 96))
    assert_close(features, torch.tensor([red, blue, [0.5, 0, 0.5]]), atol=0.05, rtol=0)
    assert backbone.shapes == [passes]
    same = average(TWO_COLOURS, middle.expand(2, 4), HALVES)
    assert torch.equal(same[0], same[1])
    inside_and_outside = torch.tensor([red + blue, blue + red])
    assert_close(masked(TWO_COLOURS, middle.expand(2, 4), HALVES), inside_and_outside, atol=0.15, rtol=0)
    extreme = masked(TWO_COLOURS, boxes[:1].expand(2, 4), torch.stack([torch.zeros(64, 96), torch.ones(64, 96)]))
    assert_close(extreme, torch.tensor([[0.0] * 3 + red, red + [0.0] * 3]), atol=1e-3, rtol=0)
    assert_close(masked(TWO_COLOURS, boxes[:1], HALVES[:1] > 0.5), extreme[1:], atol=0.15, rtol=0)


def test_crop_features_do_not_see_beyond_their_window():
    boxes, masks = torch.tensor([[8.0, 8, 32, 32]]), torch.ones(1, 64, 96)
    image = torch.randn(3, 64, 96)
    other = image.clone()
    other[:, 50:, 60:] += 3
    backbone = SmallBackbone(4, 16)
    crop, roi = ProposalEncoder(backbone, "crop", size=32), ProposalEncoder(backbone, "roi", size=32)
    assert torch.equal(crop(image, boxes, masks), crop(other, boxes, masks))
    assert not torch.allclose(roi(image, boxes, masks), roi(other, boxes, masks), atol=1e-3)


def test_proposals_do_not_influence_each_other():
    encoder = ProposalEncoder(SmallBackbone(4, 16), "crop", "mask", 8, size=32)
    image, masks = torch.randn(3, 64, 96), torch.rand(3, 64, 96)
    together = encoder(image, BOXES, masks)
    for k in range(3):
        assert_close(encoder(image, BOXES[k : k + 1], masks[k : k + 1])[0], together[k], atol=1e-5, rtol=1e-4)
    for arguments in ({"mode": "box"}, {"pool": "max"}):
        with pytest.raises(ValueError, match="mode is 'crop' or 'roi'"):
            ProposalEncoder(Colours(), **arguments)


@pytest.mark.parametrize(
    ("out_channels", "grid", "positions"), [(None, 4, False), (6, 4, True), (6, 16, True), (None, 3, False)]
)
def test_shapes_and_gradients_of_keys(out_channels, grid, positions):
    encoder = KeyEncoder(SmallBackbone(4, 16), out_channels, grid, positions=positions)
    keys = encoder(torch.randn(2, 3, 32, 32))
    assert keys.shape == (2, out_channels or 16, grid, grid)
    assert encoder.out_channels == (out_channels or 16)
    assert encoder(torch.randn(0, 3, 32, 32)).shape[1:] == keys.shape[1:]
    keys.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name


def test_keys_are_those_of_the_backbone_on_any_grid():
    crops = torch.rand(2, 3, 32, 32)
    assert_close(KeyEncoder(Colours(), grid=4)(crops), F.avg_pool2d(crops, 8))
    for grid in (8, 32):  # literally, a key a pixel
        finer = KeyEncoder(Colours(), grid=grid)(crops)
        assert finer.shape == (2, 3, grid, grid)
        assert_close(finer.mean(dim=(2, 3)), crops.mean(dim=(2, 3)), atol=0.02, rtol=0)


def test_positions_are_added_whatever_the_crop():
    torch.manual_seed(0)
    encoder = KeyEncoder(Colours(), 6, grid=5, positions=True)
    crops = torch.rand(2, 3, 40, 40)
    code = encoder(crops) - encoder.project(F.avg_pool2d(crops, 8))
    assert_close(code[0], code[1], atol=1e-5, rtol=1e-4)
    places = code[0].detach().flatten(1).T
    assert float((torch.cdist(places, places) + 10 * torch.eye(25)).min()) > 1e-3
    constant = KeyEncoder(Colours(), 6, grid=5)(torch.ones(1, 3, 40, 40))
    assert_close(constant, constant[..., :1, :1].expand_as(constant))
