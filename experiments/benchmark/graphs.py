"""Spatial graphs with random masks, the inputs of the layers that are timed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stg_pyg.graph import edge_weight, fully_connected_edge_index

FEATURES = 32


@dataclass
class Graphs:
    """Fully connected graphs of ``proposals`` nodes, one an object, with masks that are 0 outside of the boxes."""

    x: Tensor
    """[N, H, W]."""
    edge_index: Tensor
    edge_attr: Tensor
    batch: Tensor
    boxes: Tensor
    """[N, 4], the same of all nodes of an object, in whole pixels."""
    feat: Tensor
    proposals: int

    @classmethod
    def random(
        cls, objects: int, proposals: int, height: int, width: int, device: torch.device, side: float | None = None
    ) -> Graphs:
        """Boxes of 20 % to 40 % of each side of the frame, or of ``side`` of it."""
        lengths = torch.rand(objects, 2) * 0.2 + 0.2 if side is None else torch.full((objects, 2), side)
        frame = torch.tensor([width, height])
        size = (lengths * frame).round().clamp(min=1)
        low = (torch.rand(objects, 2) * (frame - size)).floor()
        boxes = torch.cat([low, low + size], dim=1).repeat_interleave(proposals, dim=0)
        x = torch.zeros(objects * proposals, height, width, device=device)
        for mask, (x0, y0, x1, y1) in zip(x, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1].uniform_()
        edges = [fully_connected_edge_index(proposals) + k * proposals for k in range(objects)]
        edge_index = torch.cat(edges, dim=1).to(device)
        return cls(
            x,
            edge_index,
            torch.rand(edge_index.size(1), 2, device=device),
            torch.arange(objects, device=device).repeat_interleave(proposals),
            boxes,
            torch.randn(objects * proposals, FEATURES, device=device),
            proposals,
        )

    def part(self, start: int, stop: int) -> Graphs:
        """The graphs of the objects from ``start`` up to ``stop``, masks as views."""
        nodes = slice(start * self.proposals, stop * self.proposals)
        degree = self.proposals - 1
        edges = slice(nodes.start * degree, nodes.stop * degree)
        return Graphs(
            self.x[nodes],
            self.edge_index[:, edges] - nodes.start,
            self.edge_attr[edges],
            self.batch[nodes] - start,
            self.boxes[nodes],
            self.feat[nodes],
            self.proposals,
        )

    def parts(self, count: int) -> list[Graphs]:
        """The graphs of ``count`` objects at a time, in order."""
        return [self.part(start, min(start + count, self.objects)) for start in range(0, self.objects, count)]

    @property
    def weight(self) -> Tensor:
        """[E] of Eq. 3."""
        return edge_weight(self.edge_attr)

    @property
    def objects(self) -> int:
        return len(self.x) // self.proposals

    @property
    def input_mb(self) -> float:
        """MiB of all masks, as full frames."""
        return self.x.nbytes / 2**20

    @property
    def region_pixels(self) -> int:
        """Pixels inside the windows of all objects."""
        size = self.boxes[:: self.proposals, 2:] - self.boxes[:: self.proposals, :2]
        return int(size.prod(dim=1).sum())

    def crops(self, frames: Tensor) -> list[Tensor]:
        """Views of the windows, [proposals, h, w] of each object."""
        windows = self.boxes[:: self.proposals].int().tolist()
        parts = frames.split(self.proposals)
        return [part[:, y0:y1, x0:x1] for part, (x0, y0, x1, y1) in zip(parts, windows, strict=True)]

    def copy_regions(self) -> Tensor:
        """Reads the windows out of the frames and writes them to one new tensor."""
        crops = self.crops(self.x)
        flat = self.x.new_empty(sum(crop.numel() for crop in crops))
        for part, crop in zip(flat.split([crop.numel() for crop in crops]), crops, strict=True):
            part.view(crop.shape).copy_(crop)
        return flat

    def copy_into_zeros(self) -> Tensor:
        """Reads the windows and writes them to new frames of zeros."""
        frames = torch.zeros_like(self.x)
        for target, crop in zip(self.crops(frames), self.crops(self.x), strict=True):
            target.copy_(crop)
        return frames
