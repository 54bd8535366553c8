"""The segmentation network on a pretrained backbone: RGB is seen once a window, Q guides the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stg_pyg.errors import InputError
from stg_pyg.nn.backbones.registry import LITE0, Backbone, make_backbone
from stg_pyg.nn.backbones.segmentation import SegmentationOutput, conv_relu, double, mean_inside

STRIDES = [2, 4, 8, 16, 32]
STEM = "+q"
WIDTHS = (16, 32, 48, 64, 96, 128)
"""Channels of the decoder at strides 1, 2, 4, 8, 16 and 32."""


class GuidedUNet(nn.Module):
    r"""A U-Net (Ronneberger et al., MICCAI 2015) whose encoder looks at RGB and whose decoder looks at Q.

    .. math::
        \mathbf{y}_{s} = D_s\left(\mathrm{up}(R_s(\mathbf{y}_{2s})) + P_s([\mathbf{x}_s, q_s])\right)

    with the maps :math:`\mathbf{x}_s` of the backbone at stride s, the mean :math:`q_s` of Q over the pixels of a cell,
    1 x 1 convolutions :math:`R_s` and :math:`P_s`, and 3 x 3 convolutions :math:`D_s`; at stride 1 :math:`\mathbf{x}_1`
    is RGB itself.
    :meth:`encode` is the costly part, and all proposals that look at one window share it. From the same maps come the
    features X of Eq. 3 (:meth:`features`) and the keys K of Eq. 7 (:meth:`keys`).

    Args:
        backbone: maps of strides 2, 4, 8, 16 and 32.
        features: F, size of X.
        key_channels: C, size of a key.
        stem: Q is added to the maps after the stem of the backbone, too; proposals share no pass of it then.

    Shapes:
        - input: images [N, 3, S, S], normalised; q [N, S, S] in [0, 1], zeros where no rough mask is known. S is a
          multiple of 32.
        - output: :class:`~stg_pyg.nn.backbones.segmentation.SegmentationOutput`.
    """

    def __init__(
        self,
        backbone: Backbone,
        widths: Sequence[int] = WIDTHS,
        features: int = 64,
        key_channels: int = 48,
        stem: bool = False,
    ):
        super().__init__()
        if backbone.strides != STRIDES:
            raise ValueError(f"the backbone has strides {backbone.strides}, not {STRIDES}")
        self.backbone = backbone
        self.out_features, self.key_channels = features, key_channels
        self.stem = nn.Conv2d(1, backbone.stem.out_channels, 3, stride=2, padding=1, bias=False) if stem else None
        if self.stem is not None:
            nn.init.zeros_(self.stem.weight)
        c2, c4, c8, c16, c32 = backbone.channels
        w1, w2, w4, w8, w16, w32 = widths
        self.top = conv_relu(c32 + 1, w32)
        self.context = nn.Linear(w32, w32)
        skips = ((c16, w16), (c8, w8), (c4, w4), (c2, w2))
        self.skips = nn.ModuleList(nn.Conv2d(c + 1, w, 1, bias=False) for c, w in skips)
        self.skips.append(nn.Conv2d(4, w1, 3, padding=1, bias=False))
        steps = ((w32, w16), (w16, w8), (w8, w4), (w4, w2), (w2, w1))
        self.reduce = nn.ModuleList(nn.Conv2d(above, own, 1, bias=False) for above, own in steps)
        self.joined = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(own), nn.ReLU(inplace=True)) for _, own in steps)
        self.ups = nn.ModuleList(conv_relu(own, own) for _, own in steps)
        self.mask_head = nn.Conv2d(w1, 1, 3, padding=1)
        self.quality_head = nn.Sequential(nn.Linear(w32 + w2 + 1, 64), nn.ReLU(), nn.Linear(64, 1))
        self.object_head = nn.Sequential(nn.LayerNorm(c8 + c16), nn.Linear(c8 + c16, features))
        self.key_head = nn.Conv2d(c8 + c16, key_channels, 1)
        self.likeness = nn.Parameter(torch.tensor([8.0, -4.0]))

    @classmethod
    def of(cls, backbone: str = LITE0, weights: str = "none", **options: Any) -> GuidedUNet:
        """On a backbone of :func:`~stg_pyg.nn.backbones.registry.make_backbone`; a name that ends in ``+q`` is one with
        Q after the stem, too.

        Raises:
            InputError: there is no such backbone, its weights cannot be had, or its strides are others.
        """
        name = backbone.removesuffix(STEM)
        options.setdefault("stem", name != backbone)
        net = make_backbone(name, weights)
        if net.strides != STRIDES:
            raise InputError(
                f"--backbone {backbone}: has maps of strides {net.strides}, not {STRIDES}; take {LITE0} or resnet50"
            )
        return cls(net, **options)

    def forward(self, images: Tensor, q: Tensor) -> SegmentationOutput:
        return self.decode(images, self.encode(images, q), q)

    def encode(self, images: Tensor, q: Tensor | None = None) -> list[Tensor]:
        """The maps of images [N, 3, S, S]; Q [N, S, S] counts where it enters after the stem.

        Raises:
            InputError: S is no multiple of 32.
        """
        height, width = images.shape[-2:]
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise InputError(f"crops of {width} x {height} pixels: give sides that are multiples of {STRIDES[-1]}")
        added = None if self.stem is None or q is None else self.stem(2 * q[:, None].to(images.dtype) - 1)
        return self.backbone(images, added)

    def decode(self, images: Tensor, maps: list[Tensor], q: Tensor) -> SegmentationOutput:
        """Mask and quality of images [N, 3, S, S] with their ``maps``, guided by Q [N, S, S]."""
        guide = (2 * q[:, None] - 1).to(images.dtype)
        y = torch.cat([maps[4], F.avg_pool2d(guide, 32)], dim=1)
        y = self.top(y.contiguous(memory_format=torch.channels_last))
        pooled = y.mean(dim=(2, 3))
        y = y + self.context(pooled)[:, :, None, None]
        half = y
        for level, stride in enumerate((16, 8, 4, 2, 1)):
            x = maps[3 - level] if stride > 1 else images
            own = self.skips[level](torch.cat([x, F.avg_pool2d(guide, stride)], dim=1))
            half, y = y, self.ups[level](self.joined[level](own + double(self.reduce[level](y))))
        logits = self.mask_head(y)[:, 0].float()
        # The quality judges the mask that came out, so it pools the decoder inside of it.
        found = logits.detach().sigmoid()
        inside = F.avg_pool2d(found[:, None], 2)
        both = (found * q).sum(dim=(1, 2)) / (found + q - found * q).sum(dim=(1, 2)).clamp(min=1.0)
        quality = self.quality_head(torch.cat([pooled, mean_inside(half, inside), both[:, None]], dim=1))[:, 0].float()
        return SegmentationOutput(logits, quality, maps)

    def features(self, maps: list[Tensor], masks: Tensor) -> Tensor:
        r"""X [N, M, F] of masks [N, M, h, w] in N windows with these ``maps``, of length 1; zeros for an empty mask.

        .. math:: \mathbf{x} = \frac{H(\bar{\mathbf{x}})}{\lVert H(\bar{\mathbf{x}}) \rVert}, \qquad
            \bar{\mathbf{x}} = \frac{\sum_i m_i [\mathbf{x}_8, \mathbf{x}_{16}](i)}{\sum_i m_i}
        """
        with torch.autocast(masks.device.type, enabled=False):
            dense = self._dense(maps)
            weight = F.interpolate(masks.to(dense.dtype), dense.shape[-2:], mode="area")
            total = weight.sum(dim=(2, 3))[..., None]
            mean = torch.einsum("nchw,nmhw->nmc", dense, weight) / total.clamp(min=1e-3)
            return F.normalize(self.object_head(mean), dim=2) * (total > 1e-3)

    def same(self, features: Tensor, other: Tensor) -> Tensor:
        r"""IoU [N, M] that masks of X ``features`` [N, F] are expected to have with the objects of X ``other`` [M, F]:
        :math:`\sigma(s \, \mathbf{x}_i \cdot \mathbf{x}_j + b)` with the s and b of the loss of X."""
        return torch.sigmoid(features @ other.T * self.likeness[0] + self.likeness[1])

    def features_of_pixels(self, maps: list[Tensor]) -> Tensor:
        """X [N, F, S/8, S/8] of every pixel alone, of length 1."""
        with torch.autocast(maps[2].device.type, enabled=False):
            return F.normalize(self.object_head(self._dense(maps).movedim(1, -1)), dim=-1).movedim(-1, 1)

    def keys(self, maps: list[Tensor]) -> Tensor:
        """K [N, C, S/8, S/8] of windows with these ``maps``."""
        with torch.autocast(maps[2].device.type, enabled=False):
            return self.key_head(self._dense(maps))

    def _dense(self, maps: list[Tensor]) -> Tensor:
        """[N, c8 + c16, S/8, S/8] the maps that X and K are read from."""
        dtype = self.key_head.weight.dtype  # not that of mixed precision
        return torch.cat([maps[2].to(dtype), double(maps[3].to(dtype))], dim=1)
