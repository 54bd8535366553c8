"""What makes features X, keys K and gates of nodes: shapes, gradients, independence, and weights from files."""

import socket

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.testing import assert_close

from stg_pyg import InputError
from stg_pyg.nn.backbones.colour import ColourEncoder, ColourKeys
from stg_pyg.nn.backbones.encoders import KeyEncoder, ProposalEncoder, ResNetBackbone, SmallBackbone
from stg_pyg.nn.backbones.node_gate import NodeGate
from stg_pyg.ops.crops import normalize_image


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
        self.shapes = []

    def forward(self, images):
        self.shapes.append(tuple(images.shape))
        return F.avg_pool2d(images, 8)


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(3)
    net = torchvision.models.resnet18(weights=None)
    with torch.no_grad():
        net.train()(torch.randn(2, 3, 64, 64))
    return net.eval()


# Red on the left, blue on the right; the masks of both halves.
HALVES = torch.stack([(torch.arange(96) < 48).expand(64, 96), (torch.arange(96) >= 48).expand(64, 96)]).float()
TWO_COLOURS = torch.stack([HALVES[0], torch.zeros(64, 96), HALVES[1]])
BOXES = torch.tensor([[4.0, 6, 40, 50], [0, 0, 96, 64], [90, 60, 91, 61]])


def check_gradients(encoder, out):
    out.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize(
    ("name", "stage", "dilated", "channels", "stride"),
    [
        ("resnet18", 4, False, 256, 16),
        ("resnet101", 5, False, 2048, 32),
        ("resnet50", 4, True, 1024, 8),
        ("resnet50", 5, True, 2048, 16),
    ],
)
def test_resnet_shapes(name, stage, dilated, channels, stride):
    net = ResNetBackbone(name, stage, dilated=dilated)
    assert net.training and not net.stem[1].running_mean.any()
    assert (net.out_channels, net.stride) == (channels, stride)
    if dilated:
        net.load_state_dict(ResNetBackbone(name, stage).state_dict())
    with torch.no_grad():
        assert net.eval()(torch.randn(1, 3, 64, 96)).shape == (1, channels, 64 // stride, 96 // stride)
    for wrong in (3, 6):
        with pytest.raises(ValueError, match="stage"):
            ResNetBackbone("resnet18", wrong)


def test_resnet_takes_weights_from_files_without_the_classifier_or_of_rvos(resnet18, tmp_path):
    backbone = {name: value for name, value in resnet18.state_dict().items() if not name.startswith("fc.")}
    rvos = {f"module.base.{name}": value for name, value in backbone.items()}
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    torch.save(backbone, tmp_path / "backbone.pth")
    (tmp_path / "rvos").mkdir()
    rvos |= {"module.sk5.weight": torch.zeros(2), "module.bn5.bias": torch.zeros(2)}
    torch.save(rvos, tmp_path / "rvos/encoder.pt")
    image = torch.randn(1, 3, 64, 64)
    expected = resnet18.maxpool(resnet18.relu(resnet18.bn1(resnet18.conv1(image))))
    for layer in (resnet18.layer1, resnet18.layer2, resnet18.layer3):
        expected = layer(expected)
    for path in ("resnet18.pth", "backbone.pth", "rvos/encoder.pt"):
        assert_close(ResNetBackbone("resnet18", 4, tmp_path / path).eval()(image), expected)
        assert_close(ResNetBackbone("resnet18", 5, str(tmp_path / path)).eval()(image), resnet18.layer4(expected))


BROKEN = {
    "prefixed": lambda state: {f"module.{name}": value for name, value in state.items()},
    "missing": lambda state: {**state, "layer3.0.conv2.weight": None},
    "extra": lambda state: {**state, "layer5.weight": torch.zeros(1)},
    "shape": lambda state: {**state, "conv1.weight": torch.zeros(64, 4, 7, 7)},
    "other": lambda state: torchvision.models.resnet34(weights=None).state_dict(),
    "nested": lambda state: {"state_dict": state, "epoch": 3},
    "tensor": lambda state: torch.zeros(3),
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


def test_missing_files_are_refused_and_pickled_code_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"conv1.weight": Harmful()}, tmp_path / "harmful.pth")
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("harmful.pth", r"harmful\.pth"),
        ("absent.pth", r"absent\.pth: no such file"),
        ("folder", r"folder: holds neither .* nor resnet18\.pth"),
    ):
        with pytest.raises(InputError, match=message):
            ResNetBackbone("resnet18", 5, tmp_path / name)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("mode", ["crop", "roi"])
@pytest.mark.parametrize(("pool", "out_features", "made"), [("avg", None, 16), ("mask", None, 32), ("mask", 7, 7)])
def test_features_have_gradients_and_proposals_are_independent(mode, pool, out_features, made):
    encoder = ProposalEncoder(SmallBackbone(4, 16), mode, pool, out_features, size=32)
    image, masks = torch.randn(3, 64, 96), torch.rand(3, 64, 96)
    features = encoder(image, BOXES, masks)
    assert features.shape == (3, made) and encoder.out_features == made and bool(features.isfinite().all())
    assert encoder(image, BOXES[:0], masks[:0]).shape == (0, made)
    for k in range(3):
        assert_close(encoder(image, BOXES[k : k + 1], masks[k : k + 1])[0], features[k], atol=1e-5, rtol=1e-4)
    check_gradients(encoder, features)
    for arguments in ({"mode": "box"}, {"pool": "max"}):
        with pytest.raises(ValueError, match="mode is 'crop' or 'roi'"):
            ProposalEncoder(Colours(), **arguments)


@pytest.mark.parametrize(("mode", "passes"), [("crop", (3, 3, 64, 64)), ("roi", (1, 3, 64, 96))])
def test_features_are_means_over_the_box_and_over_the_mask_in_it(mode, passes):
    """By crops in a pass a box, by regions of interest in one pass for all."""
    backbone, red, blue = Colours(), [1.0, 0, 0], [0.0, 0, 1]
    boxes = torch.tensor([[8.0, 8, 40, 40], [56.0, 16, 88, 48], [32.0, 16, 64, 48]])
    average, masked = (ProposalEncoder(backbone, mode, pool, size=64, margin=0.0) for pool in ("avg", "mask"))
    features = average(TWO_COLOURS, boxes, torch.zeros(3, 64, 96))
    assert_close(features, torch.tensor([red, blue, [0.5, 0, 0.5]]), atol=0.05, rtol=0)
    assert backbone.shapes == [passes]
    inside_and_outside = torch.tensor([red + blue, blue + red])
    assert_close(masked(TWO_COLOURS, boxes[2:].expand(2, 4), HALVES), inside_and_outside, atol=0.15, rtol=0)
    extreme = masked(TWO_COLOURS, boxes[:1].expand(2, 4), torch.stack([torch.zeros(64, 96), torch.ones(64, 96)]))
    assert_close(extreme, torch.tensor([[0.0] * 3 + red, red + [0.0] * 3]), atol=1e-3, rtol=0)
    assert_close(masked(TWO_COLOURS, boxes[:1], HALVES[:1] > 0.5), extreme[1:], atol=0.15, rtol=0)


def test_crop_features_do_not_see_beyond_their_window():
    boxes, masks, image = torch.tensor([[8.0, 8, 32, 32]]), torch.ones(1, 64, 96), torch.randn(3, 64, 96)
    other = image.clone()
    other[:, 50:, 60:] += 3
    backbone = SmallBackbone(4, 16)
    crop, roi = ProposalEncoder(backbone, "crop", size=32), ProposalEncoder(backbone, "roi", size=32)
    assert torch.equal(crop(image, boxes, masks), crop(other, boxes, masks))
    assert not torch.allclose(roi(image, boxes, masks), roi(other, boxes, masks), atol=1e-3)


@pytest.mark.parametrize(("out_channels", "grid", "positions"), [(None, 4, False), (6, 4, True), (6, 16, True)])
def test_keys_have_gradients_and_places_whatever_the_crop(out_channels, grid, positions):
    encoder, crops = (
        KeyEncoder(SmallBackbone(4, 16), out_channels, grid, positions=positions),
        torch.randn(2, 3, 32, 32),
    )
    keys = encoder(crops)
    assert keys.shape == (2, out_channels or 16, grid, grid) and encoder.out_channels == (out_channels or 16)
    assert encoder(crops[:0]).shape[1:] == keys.shape[1:]
    check_gradients(encoder, keys)
    encoder.positions, before = None, keys
    code = before - encoder(crops)
    assert_close(code[0], code[1], atol=1e-5, rtol=1e-4)
    places = code[0].detach().flatten(1).T
    assert not positions or float((torch.cdist(places, places) + 10 * torch.eye(grid**2)).min()) > 1e-3


def test_keys_are_those_of_the_backbone_on_any_grid():
    crops = torch.rand(2, 3, 32, 32)
    assert_close(KeyEncoder(Colours(), grid=4)(crops), F.avg_pool2d(crops, 8))
    for grid in (8, 32):  # literally, a key a pixel
        finer = KeyEncoder(Colours(), grid=grid)(crops)
        assert finer.shape == (2, 3, grid, grid)
        assert_close(finer.mean(dim=(2, 3)), crops.mean(dim=(2, 3)), atol=0.02, rtol=0)


def test_cosines_of_colours_are_bhattacharyya_coefficients_and_keys_are_mean_colours():
    image, masks, boxes = torch.zeros(3, 16, 24), torch.zeros(4, 16, 24), torch.zeros(4, 4)
    image[0, :, :8] = image[2, :, 8:] = 0.9
    masks[0, :8, :8] = masks[1, 8:, :8] = masks[2, :, 12:] = 1  # and an empty one
    image = normalize_image(image)
    feats = ColourEncoder()(image, boxes, masks)
    cos = feats @ feats.T
    assert torch.allclose(cos[:3, :3].diagonal(), torch.ones(3), atol=1e-5)
    assert cos[0, 1] > 0.999 and cos[0, 2] < 0.01 and not feats[3].any()
    encoder = ColourEncoder(bins=6)
    assert torch.equal(encoder(image, boxes, masks.bool()), encoder(image, boxes, masks))
    assert encoder(image, boxes[:0], masks[:0]).shape == (0, 216)
    crops = torch.arange(2 * 3 * 8 * 8).float().view(2, 3, 8, 8)
    keys = ColourKeys(grid=4)(crops)
    assert keys.shape == (2, 3, 4, 4) and torch.equal(keys[1, 2, 0, 0], crops[1, 2, :2, :2].mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_untrained_gate_is_the_score_and_stays_finite(dtype):
    gate, score = NodeGate().to(dtype), torch.tensor([0.0, 0.01, 0.2, 0.77, 1.0], dtype=dtype)
    out = gate(torch.randn(5, 5, dtype=dtype), score)
    assert_close(out, score, atol=0.01, rtol=0)
    assert_close(out[1:4], score[1:4])
    assert bool(((out > 0) & (out < 1)).all()) and gate(torch.randn(0, 5, dtype=dtype), score[:0]).shape == (0,)
    out.sum().backward()
    assert bool(gate.layers[-1].weight.grad.isfinite().all()) and float(gate.layers[-1].weight.grad.abs().sum()) > 0


def test_a_trained_gate_sees_score_and_evidence_of_each_node_alone():
    gate = NodeGate().double()
    nn.init.normal_(gate.layers[-1].weight)
    evidence = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    score = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gate, (evidence, score))
    out, order = gate(evidence, score), torch.tensor([2, 0, 1])
    assert_close(gate(evidence[order], score[order]), out[order])
    certain, doubtful = (gate(evidence, torch.full_like(score, s)).logit() for s in (0.99, 0.5))
    assert (certain - doubtful - torch.tensor(0.99).double().logit()).abs().max() > 1e-3
    gate.reset_parameters()
    assert_close(gate(evidence, score), score)
