"""The class-agnostic segmentation network of a crop: RGB and a rough mask Q in, a mask and its expected quality out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class SegmentationOutput(NamedTuple):
    """What the network says of a batch of crops."""

    logits: Tensor
    """[N, S, S] mask logits."""
    quality: Tensor
    """[N] logits of the IoU that the mask is expected to have with the true one."""
    maps: list[Tensor] | None = None
    """Of a network that has an ``encode``: what it makes of RGB."""


def conv_norm(
    in_channels: int, out_channels: int, stride: int = 1, size: int = 3, norm: Norm = nn.BatchNorm2d
) -> nn.Sequential:
    """Convolution without bias, then normalisation."""
    conv = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, norm(out_channels))


def conv_relu(in_channels: int, out_channels: int, stride: int = 1, norm: Norm = nn.BatchNorm2d) -> nn.Sequential:
    """3 x 3 convolution, normalisation, ReLU."""
    return nn.Sequential(*conv_norm(in_channels, out_channels, stride, norm=norm), nn.ReLU(inplace=True))


def group_norm(channels: int) -> nn.Module:
    """Where a batch is too small or too alike for statistics."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (He et al., CVPR 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, norm: Norm = nn.BatchNorm2d):
        super().__init__()
        self.conv1 = conv_relu(in_channels, out_channels, stride, norm)
        self.conv2 = conv_norm(out_channels, out_channels, norm=norm)
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv_norm(in_channels, out_channels, size=1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        # Taking every other pixel first is what a strided 1 x 1 convolution does, whose gradient crashes on some CPUs.
        same = x[:, :, :: self.stride, :: self.stride].contiguous(memory_format=torch.channels_last)
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(same if self.stride > 1 else x))


class SmallSegmentationNet(nn.Module):
    """A residual encoder-decoder of a few million parameters, trainable on a CPU from random initialisation.

    Args:
        width: channels of the first stage; the stages have 1, 2, 4 and 6 times as many.

    Shapes:
        - input: images [N, 3, S, S], normalised; q [N, S, S] in [0, 1], zeros where no rough mask is known. S is a
          multiple of 16.
        - output: :class:`SegmentationOutput`.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        self.width = width
        w1, w2, w3, w4 = width, 2 * width, 4 * width, 6 * width
        self.full = conv_relu(4, width // 2)
        self.stage1 = nn.Sequential(conv_relu(4, w1, stride=2), ResidualBlock(w1, w1))
        self.stage2 = nn.Sequential(ResidualBlock(w1, w2, stride=2), ResidualBlock(w2, w2))
        self.stage3 = nn.Sequential(ResidualBlock(w2, w3, stride=2), ResidualBlock(w3, w3))
        self.stage4 = nn.Sequential(ResidualBlock(w3, w4, stride=2), ResidualBlock(w4, w4))
        self.context = nn.Linear(w4, w4)
        self.up3, self.up2, self.up1 = conv_relu(w4 + w3, w3), conv_relu(w3 + w2, w2), conv_relu(w2 + w1, w1)
        self.up0 = conv_relu(w1 + width // 2, width // 2)
        self.mask_head = nn.Conv2d(width // 2, 1, 1)
        self.quality_head = nn.Sequential(nn.Linear(w4 + w1, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, images: Tensor, q: Tensor) -> SegmentationOutput:
        x0 = torch.cat([images, 2 * q[:, None] - 1], dim=1).contiguous(memory_format=torch.channels_last)
        x1 = self.stage1(x0)
        x2 = self.stage2(x1)
        x3 = self.stage3(x2)
        x4 = self.stage4(x3)
        pooled = x4.mean(dim=(2, 3))
        y = x4 + self.context(pooled)[:, :, None, None]
        y = self.up3(torch.cat([double(y), x3], dim=1))
        y = self.up2(torch.cat([double(y), x2], dim=1))
        y1 = self.up1(torch.cat([double(y), x1], dim=1))
        y = self.up0(torch.cat([double(y1), self.full(x0)], dim=1))
        logits = self.mask_head(y)[:, 0].float()
        # The quality judges the mask that came out, so it pools the decoder inside of it.
        inside = F.avg_pool2d(logits.detach().sigmoid()[:, None], 2)
        quality = self.quality_head(torch.cat([pooled, mean_inside(y1, inside)], dim=1))[:, 0].float()
        return SegmentationOutput(logits, quality)


def double(x: Tensor) -> Tensor:
    """Maps of twice the size."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def mean_inside(maps: Tensor, weight: Tensor, least: float = 1.0) -> Tensor:
    """[N, C] means of maps [N, C, h, w] inside soft masks [N, 1, h, w], of an area that counts as ``least`` or more."""
    return (maps * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).clamp(min=least)


def segmentation_loss(output: SegmentationOutput, target: Tensor) -> Tensor:
    """``loss`` of :func:`segmentation_terms`."""
    return segmentation_terms(output, target)["loss"]


def segmentation_terms(output: SegmentationOutput, target: Tensor) -> dict[str, Tensor]:
    """Scalars: ``bce``, binary cross-entropy, + ``iou``, 1 - soft IoU of the masks, + half of ``quality``, the
    cross-entropy of the expected quality; ``loss`` is their sum.

    Args:
        target: [N, S, S] in [0, 1].
    """
    bce = F.binary_cross_entropy_with_logits(output.logits, target)
    mask = output.logits.sigmoid()
    intersection = (mask * target).sum(dim=(1, 2))
    union = (mask + target - mask * target).sum(dim=(1, 2))
    soft_iou = ((intersection + 1) / (union + 1)).mean()
    hard, true = output.logits.detach() > 0, target > 0.5
    overlap, either = (hard & true).sum(dim=(1, 2)), (hard | true).sum(dim=(1, 2))
    iou = torch.where(either > 0, overlap / either.clamp(min=1), torch.ones_like(overlap, dtype=torch.float))
    quality = F.binary_cross_entropy_with_logits(output.quality, iou)
    distance = 1 - soft_iou
    return {"loss": bce + distance + 0.5 * quality, "bce": bce, "iou": distance, "quality": quality}
