"""Learnable CNNs: features X of proposals (Eq. 3) and keys K of the memory (Eq. 7)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from stg_pyg.nn.backbones.guided_unet import GuidedUNet
from stg_pyg.nn.backbones.segmentation import ResidualBlock, conv_relu, group_norm, mean_inside
from stg_pyg.ops.crops import crop_resize, crop_resize_masks, crop_windows
from stg_pyg.utils.pretrained import load_torchvision


class SmallBackbone(nn.Module):
    """Three residual stages for a CPU: [N, 3, S, S] -> [N, out_channels, S/8, S/8].

    Normalised in groups: the crops of one frame are too few and too alike for the statistics of a batch.
    """

    stride = 8

    def __init__(self, width: int = 24, out_channels: int = 64):
        super().__init__()
        self.out_channels = out_channels
        self.layers = nn.Sequential(
            conv_relu(3, width, 2, group_norm),
            ResidualBlock(width, 2 * width, 2, group_norm),
            ResidualBlock(2 * width, out_channels, 2, group_norm),
            ResidualBlock(out_channels, out_channels, 1, group_norm),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.contiguous(memory_format=torch.channels_last))


class ResNetBackbone(nn.Module):
    """A torchvision ResNet up to one of its stages.

    Args:
        name: ``resnet50``, ``resnet101``, or another ResNet of torchvision.
        stage: last stage kept, 4 (stride 16, the paper's keys) or 5 (stride 32, the paper's proposal features).
        weights: ``None`` or ``none``, random initialisation; ``auto``, torchvision's; ``rvos``, those that the
            paper's ``resnet101`` starts from; or a path, see :func:`stg_pyg.utils.pretrained.load_torchvision`.
        dilated: the last stage kept is dilated instead of strided, so the stride is half as large (the ResNets of
            bottlenecks, from ``resnet50`` on).

    Raises:
        InputError: if the weights are missing, damaged or of another network.
    """

    def __init__(
        self, name: str = "resnet101", stage: int = 5, weights: str | Path | None = None, dilated: bool = False
    ):
        super().__init__()
        if stage not in (4, 5):
            raise ValueError(f"stage must be 4 or 5, not {stage}")
        dilation = [False, dilated and stage == 4, dilated and stage == 5]
        net = torchvision.models.get_model(name, weights=None, replace_stride_with_dilation=dilation)
        state = load_torchvision(name, weights)
        if state is not None:
            net.load_state_dict(state, strict=False)  # the classifier may be missing
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.Sequential(*[getattr(net, f"layer{i}") for i in range(1, stage)])
        self.stride = 2 ** (stage - dilated)
        self.out_channels = net.fc.in_features // 2 ** (5 - stage)

    def forward(self, images: Tensor) -> Tensor:
        return self.stages(self.stem(images))


class ProposalEncoder(nn.Module):
    """Features X of the proposals of a frame.

    Args:
        backbone: images [B, 3, H, W] -> features [B, C, H / stride, W / stride], with ``out_channels`` and ``stride``.
        mode: ``crop``, a pass of the backbone over the crop of every box, or ``roi``, RoIAlign on one pass over the
            frame.
        pool: ``avg``, the mean over the box as in the paper, or ``mask``, the mean inside the proposal's mask and the
            mean over the rest of the box, so that proposals of one box with different masks differ.
        out_features: F, size of the features after a linear map; none: the pooled channels as they are.
        size: side of a crop in pixels (``crop``), or of the pooled grid times 8 (``roi``).

    Shapes:
        - input: image [3, H, W] normalised; boxes [N, 4]; masks [N, H, W].
        - output: [N, F].
    """

    def __init__(
        self,
        backbone: nn.Module,
        mode: str = "crop",
        pool: str = "avg",
        out_features: int | None = None,
        size: int = 64,
        margin: float = 0.15,
    ):
        super().__init__()
        if mode not in ("crop", "roi") or pool not in ("avg", "mask"):
            raise ValueError(f"mode is 'crop' or 'roi' and pool 'avg' or 'mask', not {mode!r} and {pool!r}")
        self.backbone, self.mode, self.pool, self.size, self.margin = backbone, mode, pool, size, margin
        channels = int(backbone.out_channels) * (2 if pool == "mask" else 1)  # type: ignore[arg-type]
        self.out_features = out_features or channels
        self.project = nn.Linear(channels, out_features) if out_features else nn.Identity()

    def forward(self, image: Tensor, boxes: Tensor, masks: Tensor) -> Tensor:
        if len(boxes) == 0:
            return image.new_zeros(0, self.out_features)
        windows = crop_windows(boxes, self.margin).to(image.dtype)
        if self.mode == "crop":
            maps = self.backbone(crop_resize(image[None], windows, self.size))
        else:
            stride = float(self.backbone.stride)  # type: ignore[arg-type]
            maps = crop_resize(self.backbone(image[None]), windows / stride, max(self.size // 8, 1))
        maps = maps.to(image.dtype)
        if self.pool == "avg":
            return self.project(maps.mean(dim=(2, 3)))
        inside = crop_resize_masks(masks, windows, maps.shape[-1])
        return self.project(torch.cat([mean_inside(maps, part, 1e-3) for part in (inside, 1 - inside)], dim=1))


class SharedFeatures(nn.Module):
    """Features X of proposals from the maps of the segmentation network, which they share without owning it; they are
    not trained by Eq. 9.

    Args:
        net: the segmentation network.
        size: side of the crops in pixels.
        margin: of the crops, share of the box.

    Shapes:
        - as :class:`ProposalEncoder`; features have length 1.
    """

    def __init__(self, net: GuidedUNet, size: int = 128, margin: float = 0.25):
        super().__init__()
        self._net, self.size, self.margin, self.out_features = (net,), size, margin, net.out_features

    @torch.no_grad()
    def forward(self, image: Tensor, boxes: Tensor, masks: Tensor) -> Tensor:
        (net,) = self._net
        if len(boxes) == 0:
            return image.new_zeros(0, self.out_features)
        net.eval()
        windows = crop_windows(boxes, self.margin).to(image.dtype)
        maps = net.encode(crop_resize(image[None], windows, self.size))
        return net.features(maps, crop_resize_masks(masks, windows, self.size))[:, 0].to(image.dtype)


class SharedKeys(nn.Module):
    """Keys K of crops from the maps of the segmentation network: [N, 3, S, S] -> [N, C, g, g], as
    :class:`SharedFeatures`.

    Args:
        net: the segmentation network.
        grid: g, side of the grid on which keys and masks meet.
    """

    def __init__(self, net: GuidedUNet, grid: int = 32):
        super().__init__()
        self._net, self.grid, self.out_channels = (net,), grid, net.key_channels

    @torch.no_grad()
    def forward(self, crops: Tensor) -> Tensor:
        (net,) = self._net
        net.eval()
        return self.of_maps(net.encode(crops)).to(crops.dtype)

    def of_maps(self, maps: list[Tensor]) -> Tensor:
        """The keys of crops whose maps are known."""
        return _on_grid(self._net[0].keys(maps), self.grid)


class KeyEncoder(nn.Module):
    """Keys K of crops: [N, 3, S, S] -> [N, C, g, g], the backbone's map resampled to the grid of the values.

    Args:
        backbone: as for :class:`ProposalEncoder`.
        out_channels: C, size of a key; none: the backbone's channels.
        grid: g, side of the grid on which keys and masks meet; the literal per-pixel reading is the side of the crop.
        positions: add a learned embedding of the place in the crop, as crops of one object are roughly aligned.
    """

    def __init__(self, backbone: nn.Module, out_channels: int | None = None, grid: int = 32, positions: bool = False):
        super().__init__()
        self.backbone, self.grid = backbone, grid
        channels = int(backbone.out_channels)  # type: ignore[arg-type]
        self.out_channels = out_channels or channels
        self.project = nn.Conv2d(channels, out_channels, 1) if out_channels else nn.Identity()
        self.positions = nn.Conv2d(4, self.out_channels, 1, bias=False) if positions else None

    def forward(self, crops: Tensor) -> Tensor:
        keys = _on_grid(self.project(self.backbone(crops)).to(crops.dtype), self.grid)
        if self.positions is None:
            return keys
        line = torch.linspace(-1, 1, self.grid, device=keys.device, dtype=keys.dtype)
        y, x = torch.meshgrid(line, line, indexing="ij")
        code = torch.stack([x, y, torch.cos(torch.pi * x), torch.cos(torch.pi * y)])
        return keys + self.positions(code[None])


def _on_grid(keys: Tensor, grid: int) -> Tensor:
    if keys.shape[-2:] == (grid, grid):
        return keys
    return F.interpolate(keys, (grid, grid), mode="bilinear", align_corners=False)
