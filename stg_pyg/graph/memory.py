"""The memory of the temporal graph: keys and masks of past frames, one bank an object (Eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stg_pyg.graph.temporal import MemoryGraph


class MemoryBank:
    """The history of one object: the nodes r < t of the temporal graph of Liu et al., AAAI 2021, arXiv:2012.05499.

    As printed every frame is kept. Bounded, the first frame and the most recent ``max_frames - 1`` others are, so that
    the storage does not grow with the video.

    Args:
        max_frames: most frames held, None for all.
        detach: store copies that are outside of the autograd graph.
        dtype: of the keys as they are stored and read, None: as they come. Masks stay as they are.
        cell: of keys and masks the means of ``cell`` x ``cell`` pixels are stored, so that to read the memory takes
            ``cell``^2 times less.

    Raises:
        ValueError: when ``max_frames`` or ``cell`` is less than 1, or ``dtype`` is not floating.
    """

    dtype: torch.dtype | None = None  # both also of banks that were stored by a version without them
    cell: int = 1

    def __init__(
        self, max_frames: int | None = None, detach: bool = True, dtype: torch.dtype | None = None, cell: int = 1
    ) -> None:
        if max_frames is not None and max_frames < 1:
            raise ValueError(f"max_frames must be at least 1 or None, not {max_frames}")
        if cell < 1:
            raise ValueError(f"cell must be at least 1, not {cell}")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype must be floating or None, not {dtype}")
        self.max_frames, self.detach, self.dtype, self.cell = max_frames, detach, dtype, cell
        self._frames: list[int] = []  # of every slot; slot 0 is the first frame
        self._ordinals: list[int] = []
        self._written = 0
        self._masks: Tensor | None = None
        self._keys: Tensor | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)}, max_frames={self.max_frames})"

    @property
    def frames(self) -> list[int]:
        """The frames held, in the order of :meth:`read`; the first one is the first written."""
        return list(self._frames)

    def write(self, frame_idx: int, key: Tensor, mask: Tensor) -> None:
        """Stores a frame; one that is held already is replaced.

        Args:
            frame_idx: its position in the video.
            key: [C, h, w] key map.
            mask: [h, w] mask at the grid of the key.

        Raises:
            ValueError: when the shapes disagree with each other or with what is stored, or h or w is no multiple of
                ``cell``.
        """
        if key.ndim != 3 or key.shape[1:] != mask.shape:
            raise ValueError(f"key {list(key.shape)} and mask {list(mask.shape)} must be [C, h, w] and [h, w]")
        mask = mask if mask.is_floating_point() else mask.to(key.dtype)
        if self.cell > 1:
            if key.shape[1] % self.cell or key.shape[2] % self.cell:
                raise ValueError(f"key {list(key.shape)} cannot be divided into cells of {self.cell} x {self.cell}")
            key, mask = F.avg_pool2d(key, self.cell), F.avg_pool2d(mask[None], self.cell)[0]
        if self._keys is not None and key.shape != self._keys.shape[1:]:
            raise ValueError(f"key {list(key.shape)} differs from those stored, {list(self._keys.shape[1:])}")
        slot = self._slot(frame_idx)
        if slot is None:
            return
        self._keys = self._put(self._keys, slot, key if self.dtype is None else key.to(self.dtype))
        self._masks = self._put(self._masks, slot, mask)
        if frame_idx not in self._frames:
            self._frames[slot : slot + 1] = [frame_idx]
            self._ordinals[slot : slot + 1] = [self._written]
            self._written += 1

    def read(self) -> tuple[Tensor, Tensor, list[int]]:
        """Masks [R, h, w], keys [R, C, h, w] and the R frames they are of, with h and w in cells.

        Keys are of ``dtype``, if there is one. Not sorted by time, which Eq. 7 does not ask for. Without gradients the
        tensors are views of the storage, valid until the next write.

        Raises:
            ValueError: when nothing was written.
        """
        if self._masks is None or self._keys is None:
            raise ValueError("the memory is empty: write a frame first")
        return self._masks[: len(self)], self._keys[: len(self)], self.frames

    def _slot(self, frame_idx: int) -> int | None:
        """Where the frame goes; None where it is not kept."""
        if frame_idx in self._frames:
            return self._frames.index(frame_idx)
        count = len(self)
        if self.max_frames is None or count < self.max_frames:
            return count
        return min(range(1, count), key=self._ordinals.__getitem__, default=None)

    def _put(self, buffer: Tensor | None, slot: int, value: Tensor) -> Tensor:
        """The buffer with the value at a slot: in place without gradients, so that a long memory is not copied."""
        value = value.detach() if self.detach else value
        if buffer is None:
            return value[None].clone()
        if torch.is_grad_enabled() or not self.detach:
            return _cat([buffer[:slot], value[None], buffer[slot + 1 : len(self)]])
        if slot == len(buffer):
            capacity = 2 * slot if self.max_frames is None else min(2 * slot, self.max_frames)
            buffer = _cat([buffer, buffer.new_empty(capacity - slot, *buffer.shape[1:])])
        buffer[slot] = value
        return buffer


def _cat(parts: Sequence[Tensor]) -> Tensor:
    with torch.autocast(parts[0].device.type, enabled=False):  # it refuses tensors of another half precision than its
        return torch.cat(list(parts))


def memory_graph(banks: Sequence[MemoryBank], mask: Tensor, key: Tensor) -> MemoryGraph:
    """The temporal graph of several objects: every memory frame points at the current node of its object.

    Args:
        banks: K banks with keys of one shape; empty ones contribute no nodes.
        mask: [K, h, w] current masks.
        key: [K, C, h, w] current keys.

    Raises:
        ValueError: when all banks are empty.
    """
    filled = [(position, *bank.read()) for position, bank in enumerate(banks) if len(bank)]
    if not filled:
        raise ValueError("the memory is empty: write a frame first")
    if len(filled) == 1:
        _, masks, keys, _ = filled[0]
    else:
        masks, keys = _cat([entry[1] for entry in filled]), _cat([entry[2] for entry in filled])
    owner, frame_idx = zip(*((position, t) for position, _, _, frames in filled for t in frames), strict=True)
    target = torch.tensor(owner, device=masks.device)
    return MemoryGraph(
        mask=mask,
        key=key,
        memory_mask=masks,
        memory_key=keys,
        edge_index=torch.stack([torch.arange(len(masks), device=masks.device), target]),
        memory_frame_idx=torch.tensor(frame_idx),
    )
