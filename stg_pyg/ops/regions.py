"""Masks of a batch of graphs kept only inside one window a graph, and the products of Eqs. 4 and 5 there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from stg_pyg.ops.boxes import masks_to_boxes, shift_boxes

Window = tuple[int, int, int, int]
Tile = tuple[int, tuple[slice | int, ...], slice]

_TILE = {"cpu": 2**19}
_LARGE_TILE = 2**22
"""Elements that are converted and multiplied at once, by device: on a CPU they stay in a cache, elsewhere launches are
few. They bound what is allocated beside the result."""


@dataclass(frozen=True)
class RegionLayout:
    """Where the windows of G graphs lie in their frames [N, C, H, W], and in one flat tensor.

    Args:
        sizes: number of nodes of each graph, in the order of the nodes.
        windows: (x0, y0, x1, y1) of each graph in whole pixels, inside the frame; x1 and y1 exclusive.
        shape: (C, H, W) of a frame.
    """

    sizes: tuple[int, ...]
    windows: tuple[Window, ...]
    shape: tuple[int, int, int]

    @property
    def columns(self) -> list[int]:
        """C h w of each graph: the elements of one node inside the window."""
        return [self.shape[0] * (x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in self.windows]

    @classmethod
    def whole(cls, sizes: Sequence[int], height: int, width: int) -> RegionLayout:
        """Windows as large as frames [N, 1, H, W]."""
        return cls(tuple(sizes), ((0, 0, width, height),) * len(sizes), (1, height, width))

    @property
    def lengths(self) -> list[int]:
        """Elements of each graph in the flat tensor."""
        return [n * c for n, c in zip(self.sizes, self.columns, strict=True)]

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views [N_g, C h w] of the flat tensor, one a graph."""
        parts = flat.split(self.lengths)
        return [part.view(n, c) for part, n, c in zip(parts, self.sizes, self.columns, strict=True)]

    def crops(self, frames: Tensor) -> list[Tensor]:
        """Views [N_g, C, h, w] of frames [N, C, H, W], one a graph."""
        parts = frames.split(list(self.sizes))
        return [p[:, :, y0:y1, x0:x1] for p, (x0, y0, x1, y1) in zip(parts, self.windows, strict=True)]

    def tiles(self, most: int) -> Iterator[Tile]:
        """(graph, index into its crop, columns of its flat view) of tiles: of ``most`` elements, or of one row."""
        for graph, (n, (x0, y0, x1, y1)) in enumerate(zip(self.sizes, self.windows, strict=True)):
            width, height = x1 - x0, y1 - y0
            rows = max(1, most // max(1, n * width))
            for channel in range(self.shape[0] if width > 0 else 0):
                for top in range(0, height, rows):
                    bottom = min(top + rows, height)
                    first = (channel * height + top) * width
                    columns = slice(first, first + (bottom - top) * width)
                    yield graph, (slice(None), channel, slice(top, bottom)), columns


@dataclass(frozen=True)
class MaskRegions:
    """Node states that are 0 outside of one window a graph: what :meth:`MaskPropagation.regions` returns.

    Attributes:
        flat: all values, graph by graph, each as [N_g, C, h, w].
        layout: the windows and sizes of the G graphs that have nodes.
        graphs: [G] numbers of these graphs in ``batch``; 0 without ``batch``.
        tail: the shape of a node's state, of which the last two dimensions are the frame.
    """

    flat: Tensor
    layout: RegionLayout
    graphs: Tensor
    tail: tuple[int, ...]

    @classmethod
    def cropped(
        cls, frames: Tensor, layout: RegionLayout, graphs: Tensor, dtype: torch.dtype | None = None
    ) -> MaskRegions:
        """Frames [N, C, H, W] inside the windows, differentiable; no copy where the windows are whole frames.

        ``dtype`` is that of the result where ``frames`` are not floating point.
        """
        shape = layout.shape
        if all(window == (0, 0, shape[2], shape[1]) for window in layout.windows):
            flat = frames.reshape(-1)
        else:
            flat = _Moved.apply(frames, layout, True)
        return cls(flat if dtype is None or flat.is_floating_point() else flat.to(dtype), layout, graphs, shape)

    @property
    def values(self) -> list[Tensor]:
        """Of each graph, the states [N_g, *, h, w] inside its window; views of ``flat``."""
        parts = zip(self.layout.split(self.flat), self.layout.windows, strict=True)
        return [part.view(len(part), *self.tail[:-2], y1 - y0, x1 - x0) for part, (x0, y0, x1, y1) in parts]

    @property
    def batch(self) -> Tensor:
        """[N] number in ``graphs`` of every node's graph."""
        sizes = torch.tensor(self.layout.sizes, dtype=torch.long).to(self.graphs.device)
        return self.graphs.repeat_interleave(sizes, output_size=sum(self.layout.sizes))

    @property
    def windows(self) -> Tensor:
        """[G, 4] windows as whole numbers (x0, y0, x1, y1)."""
        return torch.tensor(self.layout.windows, dtype=torch.long, device=self.flat.device).view(-1, 4)

    def to_frame(self) -> Tensor:
        """The states [N, *, H, W] with zeros outside of the windows; writing these costs most of the time."""
        frames = _Moved.apply(self.flat, self.layout, False)
        return frames.reshape(sum(self.layout.sizes), *self.tail)

    def select(self, nodes: Tensor) -> Tensor:
        """Full frames [G, *, H, W] of one node of each graph, ``nodes`` [G] counted inside the graph."""
        _, height, width = self.layout.shape
        chosen = [self.flat.new_zeros(0, *self.tail)]
        for g, (values, (x0, y0, x1, y1)) in enumerate(zip(self.values, self.layout.windows, strict=True)):
            chosen.append(F.pad(values.index_select(0, nodes[g : g + 1]), (x0, width - x1, y0, height - y1)))
        return torch.cat(chosen)

    def boxes(self, threshold: float = 0.5) -> Tensor:
        """[N, 4] boxes of all states, as :func:`stg_pyg.ops.boxes.masks_to_boxes` finds them in the full frames."""
        parts = [self.flat.new_zeros(0, 4)]
        for values, (x0, y0, _, _) in zip(self.values, self.layout.windows, strict=True):
            frames = values.detach().reshape(len(values), *values.shape[-2:])
            parts.append(shift_boxes(masks_to_boxes(frames, threshold), x0, y0))
        return torch.cat(parts)


def graphs_of(batch: Tensor, layout: RegionLayout) -> Tensor:
    """[G] numbers in ``batch`` [N], sorted, of the graphs of a layout, which are those that have nodes."""
    first = torch.tensor(layout.sizes, dtype=torch.long).cumsum(0) - 1
    return batch[first.to(batch.device)]


def region_product(frames: Tensor, matrices: Sequence[Tensor], layout: RegionLayout, dtype: torch.dtype) -> Tensor:
    """The product of a matrix [N_g, N_g] of ``dtype`` of each graph with the masks inside its window.

    Masks ``frames`` [N, C, H, W], floating point, bool or uint8, are converted tile by tile, and never held in
    ``dtype`` as a whole. Returns the flat tensor of ``layout``, once differentiable in ``frames`` and ``matrices``.
    """
    return _RegionProduct.apply(frames, layout, dtype, *matrices)


class _Tiles:
    """Copies of the tiles of frames as matrices [N_g, pixels] of ``dtype``, in one buffer that is used again."""

    def __init__(self, frames: Tensor, layout: RegionLayout, dtype: torch.dtype):
        self.crops, self.layout = layout.crops(frames), layout
        self.most = _TILE.get(frames.device.type, _LARGE_TILE)
        rows = (n * (x1 - x0) for n, (x0, _, x1, _) in zip(layout.sizes, layout.windows, strict=True))
        self.buffer = frames.new_empty(min(max(self.most, *rows, 0), sum(layout.lengths)), dtype=dtype)

    def __iter__(self) -> Iterator[tuple[int, Tensor, tuple[slice | int, ...], slice]]:
        for graph, index, columns in self.layout.tiles(self.most):
            part = self.crops[graph][index]
            tile = self.buffer[: part.numel()].view(part.shape).copy_(part)
            yield graph, tile.view(part.size(0), -1), index, columns


class _RegionProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frames: Tensor, layout: RegionLayout, dtype: torch.dtype, *matrices: Tensor) -> Tensor:
        ctx.layout = layout
        ctx.save_for_backward(frames, *matrices)
        flat = frames.new_empty(sum(layout.lengths), dtype=dtype)
        outputs = layout.split(flat)
        with torch.autocast(frames.device.type, enabled=False):
            if frames.dtype == dtype and frames.device.type == "cpu" and torch.get_num_threads() == 1:
                _multiply_rows(frames, matrices, layout, outputs)
            else:
                for graph, tile, _, columns in _Tiles(frames, layout, dtype):
                    torch.mm(matrices[graph], tile, out=outputs[graph][:, columns])
        return flat

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        frames, *matrices = ctx.saved_tensors
        layout: RegionLayout = ctx.layout
        gradients = layout.split(grad.contiguous())
        grad_frames: Tensor | None = None
        grad_matrices: list[Tensor] = []
        with torch.autocast(frames.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                grad_frames = torch.zeros_like(frames)
                targets = layout.crops(grad_frames)
                for graph, index, columns in layout.tiles(_TILE.get(frames.device.type, _LARGE_TILE)):
                    target = targets[graph][index]
                    target.copy_((matrices[graph].t() @ gradients[graph][:, columns]).view(target.shape))
            if any(ctx.needs_input_grad[3:]):
                grad_matrices = [torch.zeros_like(matrix) for matrix in matrices]
                for graph, tile, _, columns in _Tiles(frames, layout, grad.dtype):
                    grad_matrices[graph].addmm_(gradients[graph][:, columns], tile.t())
        return grad_frames, None, None, *(grad_matrices or (None,) * len(matrices))


def _multiply_rows(frames: Tensor, matrices: Sequence[Tensor], layout: RegionLayout, outputs: Sequence[Tensor]) -> None:
    """The products of floating point frames, as a batch of one product a row of pixels, which reads and writes strided
    memory without a buffer between. On one thread that takes three quarters of the time of the tiles; on several it
    takes longer, as the threads meet once a row."""
    for matrix, crop, output in zip(matrices, layout.crops(frames), outputs, strict=True):
        n, channels, height, width = crop.shape
        if n * height * width == 0:
            continue
        rows = output.view(n, channels, height, width)
        left = matrix.expand(height, n, n)
        for channel in range(channels):
            torch.bmm(left, crop[:, channel].transpose(0, 1), out=rows[:, channel].transpose(0, 1))


class _Moved(torch.autograd.Function):
    """Between frames and the flat tensor; each way is the gradient of the other."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, layout: RegionLayout, cut: bool) -> Tensor:
        ctx.layout, ctx.cut = layout, cut
        return _moved(source, layout, cut)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _moved(grad, ctx.layout, not ctx.cut), None, None


def _moved(source: Tensor, layout: RegionLayout, cut: bool) -> Tensor:
    """The windows of frames as the flat tensor, or frames [N, C, H, W] of zeros with the flat tensor in the windows."""
    if cut:
        frames, flat = source, source.new_empty(sum(layout.lengths))
    else:
        frames, flat = source.new_zeros(sum(layout.sizes), *layout.shape), source
    for crop, values in zip(layout.crops(frames), layout.split(flat), strict=True):
        pair = values.view(crop.shape), crop
        pair[not cut].copy_(pair[cut])
    return flat if cut else frames


def windows_of_boxes(boxes: Tensor, sizes: Sequence[int], height: int, width: int) -> tuple[Window, ...]:
    """The smallest whole-pixel window around the boxes [N, 4] of the nodes of each graph, cut at the frame; a box
    without area does not count."""
    rows = iter(boxes.detach().tolist())
    windows = []
    for size in sizes:
        low_x, low_y, high_x, high_y = width, height, 0, 0
        for x0, y0, x1, y1 in itertools.islice(rows, size):
            x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
            if x0 < x1 and y0 < y1:  # False where a number is missing (NaN), too
                low_x, low_y = min(low_x, math.floor(x0)), min(low_y, math.floor(y0))
                high_x, high_y = max(high_x, math.ceil(x1)), max(high_y, math.ceil(y1))
        windows.append((low_x, low_y, high_x, high_y) if low_x < high_x else (0, 0, 0, 0))
    return tuple(windows)


def windows_of_masks(frames: Tensor, sizes: Sequence[int]) -> tuple[Window, ...]:
    """The smallest window of each graph with all pixels of its masks [N, C, H, W] that are not 0.

    Reads the rows of all frames, then the columns of the rows that are taken; allocates one number a row and a column.
    """
    frames = frames.detach()
    if frames.numel() == 0:
        return ((0, 0, 0, 0),) * len(sizes)
    frames = frames.view(torch.uint8) if frames.dtype == torch.bool else frames
    rows = _any_nonzero(frames, -1)
    windows = []
    for part, taken in zip(frames.split(list(sizes)), rows.split(list(sizes)), strict=True):
        y0, y1 = _extent(taken)
        x0, x1 = _extent(_any_nonzero(part[:, :, y0:y1], -2)) if y1 > y0 else (0, 0)
        windows.append((x0, y0, x1, y1))
    return tuple(windows)


def _any_nonzero(frames: Tensor, dim: int) -> Tensor:
    # The extremes are several times faster than `any` or a comparison of all pixels.
    found = frames.amax(dim) != 0
    return found | (frames.amin(dim) != 0) if frames.is_floating_point() else found


def _extent(taken: Tensor) -> tuple[int, int]:
    places = taken.flatten(0, 1).any(dim=0).nonzero()
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
