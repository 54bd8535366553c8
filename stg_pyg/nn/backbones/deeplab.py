"""DeepLabv3+ of a crop with a rough mask Q as fourth channel, the paper's segmentation network."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import ASPP

from stg_pyg.nn.backbones.segmentation import ResidualBlock, SegmentationOutput, conv_relu, mean_inside
from stg_pyg.utils.pretrained import load_torchvision

_BASIC = ("resnet18", "resnet34")


class DeepLabV3Plus(nn.Module):
    r"""The network of `"Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation"
    <https://arxiv.org/abs/1802.02611>`_ (Chen et al., ECCV 2018), for one class.

    .. math::
        \mathbf{y} = D\left( \left[ P(\mathbf{x}_{low}), \; \mathrm{up}(\mathrm{ASPP}(\mathbf{x}_{out})) \right]
        \right)

    with features :math:`\mathbf{x}_{low}` of stride 4 and :math:`\mathbf{x}_{out}` of the output stride, a 1 x 1
    convolution :math:`P` and two 3 x 3 convolutions :math:`D`. The logits are a linear map of :math:`\mathbf{y}`,
    upsampled. The expected quality is read from the pooled pyramid and from the mean of :math:`\mathbf{y}` inside the
    mask, as in :class:`~stg_pyg.nn.backbones.segmentation.SmallSegmentationNet`. The convolutions are plain ones, not
    separable, as those of torchvision's pretrained pyramid are.

    Args:
        backbone: [N, 4, S, S] -> {"low": [N, low_channels, S/4, S/4], "out": [N, out_channels, S/stride, S/stride]}.
        rates: atrous rates of the pyramid.
        channels: of the pyramid and of the decoder, to which features of stride 4 come ``reduced``.
        dropout: share of the pyramid dropped in training.

    Shapes:
        - input: images [N, 3, S, S], normalised; q [N, S, S] in [0, 1], zeros where no rough mask is known. S is a
          multiple of the output stride.
        - output: :class:`~stg_pyg.nn.backbones.segmentation.SegmentationOutput`, logits [N, S, S] and quality [N].
    """

    def __init__(
        self,
        backbone: nn.Module,
        low_channels: int,
        out_channels: int,
        rates: tuple[int, ...],
        channels: int = 256,
        reduced: int = 48,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.backbone = backbone
        self.aspp = ASPP(out_channels, rates, channels)
        self.aspp.convs[-1][2] = _PooledBatchNorm(channels)
        self.aspp.project[3] = nn.Dropout(dropout)
        self.reduce = nn.Sequential(nn.Conv2d(low_channels, reduced, 1, bias=False), nn.BatchNorm2d(reduced), nn.ReLU())
        self.decoder = nn.Sequential(conv_relu(channels + reduced, channels), conv_relu(channels, channels))
        self.mask_head = nn.Conv2d(channels, 1, 1)
        self.quality_head = nn.Sequential(nn.Linear(2 * channels, 64), nn.ReLU(), nn.Linear(64, 1))

    @classmethod
    def resnet101(cls, weights: str | Path | None = "none", output_stride: int = 16) -> DeepLabV3Plus:
        """The paper's network: :meth:`resnet` of ResNet-101, 59 million parameters."""
        return cls.resnet("resnet101", weights, output_stride)

    @classmethod
    def resnet(cls, name: str, weights: str | Path | None = "none", output_stride: int = 16) -> DeepLabV3Plus:
        """The network on a ResNet of torchvision.

        The weights of the fourth channel start at zero, so at first the backbone does what it does without Q. The rates
        are 6, 12, 18 at an output stride of 16 and 12, 24, 36 at 8. Torchvision's weights were trained at the latter;
        as rate times stride, and so the offset in pixels at which a weight looks, is the same for both, they fit both,
        which is how Chen et al. change the stride of a trained network.

        Args:
            name: ``resnet101``, or another one; those without bottlenecks, ``resnet18`` and ``resnet34``, which
                torchvision cannot dilate, have an output stride of 32.
            weights: ``none``; ``auto``, torchvision's ``deeplabv3_resnet101``, trained on COCO; or a path, see
                :func:`stg_pyg.utils.pretrained.load_torchvision`. The backbone and the pyramid are taken, its
                classifiers not. Of a ResNet without a DeepLab of torchvision it is the backbone's weights.
            output_stride: 16 or 8, which takes about three times as long.

        Raises:
            InputError: the weights are missing, damaged or of another network.
        """
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride must be 8 or 16, not {output_stride}")
        whole = f"deeplabv3_{name}" in torchvision.models.list_models()
        state = load_torchvision(f"deeplabv3_{name}" if whole else name, weights)
        dilation = [False, False, False] if name in _BASIC else [False, output_stride == 8, True]
        resnet = torchvision.models.get_model(name, weights=None, replace_stride_with_dilation=dilation)
        backbone = IntermediateLayerGetter(resnet, {"layer1": "low", "layer4": "out"})
        base, channels = 3 if name in _BASIC else 96 // output_stride, resnet.fc.in_features
        net = cls(backbone, channels // 8, channels, (base, 2 * base, 3 * base))
        if state is not None and whole:
            backbone.load_state_dict(_part(state, "backbone."))
            net.aspp.load_state_dict(_part(state, "classifier.0."))
        elif state is not None:
            backbone.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})
        backbone["conv1"] = _with_fourth_channel(backbone["conv1"])
        return net

    @classmethod
    def small(cls, width: int = 32) -> DeepLabV3Plus:
        """A network of a few million parameters, from random initialisation, for crops of 64 to 128 pixels, whose last
        features are maps of 4 x 4 to 8 x 8."""
        rates = (1, 2, 4)
        return cls(_SmallResidual(width), 2 * width, 6 * width, rates, 4 * width, max(3 * width // 2, 1), dropout=0.1)

    def forward(self, images: Tensor, q: Tensor) -> SegmentationOutput:
        features = self.backbone(torch.cat([images, 2 * q[:, None] - 1], dim=1).contiguous())
        pyramid, low = self.aspp(features["out"]), self.reduce(features["low"])
        y = self.decoder(torch.cat([_resize(pyramid, low), low], dim=1))
        coarse = self.mask_head(y)
        logits = _resize(coarse.float(), images)[:, 0]
        # The quality judges the mask that came out, so it pools the decoder inside of it.
        detail = mean_inside(y, coarse.detach().sigmoid())
        quality = self.quality_head(torch.cat([pyramid.mean(dim=(2, 3)), detail], dim=1))[:, 0].float()
        return SegmentationOutput(logits, quality)


class _SmallResidual(nn.Module):
    """Four residual stages, features of stride 4 and 16."""

    def __init__(self, width: int):
        super().__init__()
        w1, w2, w3, w4 = width, 2 * width, 4 * width, 6 * width
        self.low = nn.Sequential(
            conv_relu(4, w1, 2), ResidualBlock(w1, w1), ResidualBlock(w1, w2, 2), ResidualBlock(w2, w2)
        )
        steps = ((w2, w3, 2), (w3, w3, 1), (w3, w4, 2), (w4, w4, 1))
        self.out = nn.Sequential(*(ResidualBlock(*step) for step in steps))

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        low = self.low(x.contiguous(memory_format=torch.channels_last))
        return OrderedDict(low=low, out=self.out(low))


class _PooledBatchNorm(nn.BatchNorm2d):
    """Of globally pooled features: a batch of one has no statistics of its own and takes the running ones."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def _with_fourth_channel(conv: nn.Conv2d) -> nn.Conv2d:
    """The first convolution of a ResNet for RGB and Q, which it ignores until it is trained."""
    wider = nn.Conv2d(4, conv.out_channels, 7, stride=2, padding=3, bias=False)
    with torch.no_grad():
        wider.weight.zero_()
        wider.weight[:, :3] = conv.weight
    return wider


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
