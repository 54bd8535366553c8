"""The proposals of one frame: boxes, masks and scores, and where each of them came from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stg_pyg.errors import InputError
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.ops.regions import Window, windows_of_boxes, windows_of_masks

Index = int | slice | Tensor | Sequence[int] | Sequence[bool]


@dataclass(eq=False, repr=False)
class Proposals:
    """The N proposals of one frame of H x W pixels, all on one device.

    Raises:
        InputError: when the fields disagree on N, or boxes or scores are not finite.
    """

    boxes: Tensor
    """[N, 4] (x0, y0, x1, y1) in pixels of the frame, x1 and y1 exclusive."""
    masks: Tensor
    """[N, H, W] full-size masks, bool or values in [0, 1]."""
    scores: Tensor
    """[N] confidence of the detector."""
    feats: Tensor | None = None
    """[N, F] the features X of Eq. 3, where they are computed in advance."""
    origin: list[str] | None = None
    """N names of the evidence that the proposals came from."""
    has_mask: Tensor | None = None
    """[N] bool, False where only the box is known and the mask is all zeros; None: all have a mask."""
    extent: Tensor | None = None
    """[N, 4] boxes in whole pixels outside of which each mask is exactly 0, always on the CPU; None: not known."""

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise InputError(f"Proposals.boxes must be [N, 4], not {list(self.boxes.shape)}")
        if self.masks.ndim != 3:
            raise InputError(f"Proposals.masks must be [N, H, W], not {list(self.masks.shape)}")
        if self.scores.ndim != 1:
            raise InputError(f"Proposals.scores must be [N], not {list(self.scores.shape)}")
        if self.feats is not None and self.feats.ndim != 2:
            raise InputError(f"Proposals.feats must be [N, F], not {list(self.feats.shape)}")
        for name in ("masks", "scores", "feats", "origin", "has_mask", "extent"):
            field = getattr(self, name)
            if field is not None and len(field) != len(self.boxes):
                raise InputError(f"Proposals.{name} has {len(field)} entries for {len(self.boxes)} boxes")
        if not bool(torch.isfinite(self.boxes).all() & torch.isfinite(self.scores).all()):
            raise InputError(
                "Proposals.boxes and Proposals.scores must be finite: drop the proposals with NaN or infinity"
            )

    @classmethod
    def empty(cls, height: int, width: int, device: torch.device | str | None = None) -> Proposals:
        """No proposals for a frame of ``height`` x ``width`` pixels."""
        return cls(
            boxes=torch.zeros(0, 4, device=device),
            masks=torch.zeros(0, height, width, device=device),
            scores=torch.zeros(0, device=device),
        )

    @classmethod
    def from_masks(
        cls,
        masks: Tensor,
        scores: Tensor | None = None,
        *,
        feats: Tensor | None = None,
        origin: list[str] | None = None,
        threshold: float = 0.5,
    ) -> Proposals:
        """Proposals of masks [N, H, W], with the boxes of ``masks > threshold`` and scores [N], or 1."""
        boxes = masks_to_boxes(masks, threshold)
        return cls(boxes, masks, boxes.new_ones(len(masks)) if scores is None else scores, feats, origin)

    @classmethod
    def cat(cls, parts: Sequence[Proposals]) -> Proposals:
        """All proposals of ``parts``, in order; empty parts may lack ``feats``, and unknown origins become ``""``.

        Raises:
            InputError: when there are no parts, their frame sizes differ, or only some of them have ``feats``.
        """
        if len(parts) == 0:
            raise InputError("Proposals.cat needs at least one part: use Proposals.empty(height, width) for none")
        if len(parts) == 1:
            return parts[0]
        if len({part.size for part in parts}) > 1:
            raise InputError(f"Proposals.cat got frames of different sizes {sorted({part.size for part in parts})}")
        feats = [part.feats for part in parts if len(part)] or [parts[0].feats]
        known = [x for x in feats if x is not None]
        if 0 < len(known) < len(feats):
            raise InputError("Proposals.cat got parts with and without feats: compute them for all parts or for none")
        origin: list[str] | None = None
        if any(part.origin is not None for part in parts):
            origin = [name for part in parts for name in (part.origin or [""] * len(part))]
        has_mask: Tensor | None = None
        if any(part.has_mask is not None for part in parts):
            has_mask = torch.cat([part.mask_known for part in parts])
        extents = [part.extent for part in parts if part.extent is not None]
        return cls._of_checked(
            boxes=torch.cat([part.boxes for part in parts]),
            masks=_joined([part.masks for part in parts]),
            scores=torch.cat([part.scores for part in parts]),
            feats=torch.cat(known) if known else None,
            origin=origin,
            has_mask=has_mask,
            extent=torch.cat(extents) if len(extents) == len(parts) else None,
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Index) -> Proposals:
        """The proposals at an index (one proposal), a slice, a bool mask [N] or positions [K]."""
        return self.select(index)

    def __repr__(self) -> str:
        height, width = self.size
        feats = "" if self.feats is None else f", feats={self.feats.shape[1]}"
        return f"{type(self).__name__}({len(self)}, size={height}x{width}{feats})"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frame."""
        return self.masks.shape[1], self.masks.shape[2]

    @property
    def mask_known(self) -> Tensor:
        """[N] bool, whether the mask of each proposal is known."""
        if self.has_mask is not None:
            return self.has_mask
        return torch.ones(len(self), dtype=torch.bool, device=self.device)

    @property
    def window(self) -> Window:
        """(x0, y0, x1, y1) in whole pixels, outside of which all masks are 0: by ``extent``, else by the masks."""
        if self.extent is not None:
            return windows_of_boxes(self.extent, [len(self)], *self.size)[0]
        return windows_of_masks(self.masks[:, None], [len(self)])[0]

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.boxes.device

    def select(self, index: Index) -> Proposals:
        """The same as indexing: an index, a slice, a bool mask [N] or positions [K], which may repeat.

        Raises:
            IndexError: when a position is outside the N proposals or a bool mask has another length.
        """
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"index {index} is outside {len(self)} proposals")
            index = [index]
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.device)
            index = index.long() if index.numel() == 0 and index.dtype != torch.bool else index
        origin = self.origin
        if origin is not None:
            origin = [origin[i] for i in torch.arange(len(self), device=self.device)[index].tolist()]
        feats = None if self.feats is None else self.feats[index]
        has_mask = None if self.has_mask is None else self.has_mask[index]
        extent = None if self.extent is None else self.extent[index.cpu() if isinstance(index, Tensor) else index]
        return Proposals(self.boxes[index], self.masks[index], self.scores[index], feats, origin, has_mask, extent)

    def split(self, sizes: Sequence[int]) -> list[Proposals]:
        """Consecutive parts of these sizes, whose tensors are views."""
        columns: dict[str, Sequence[Any]] = {}
        ends = list(itertools.accumulate(sizes))
        for name in ("boxes", "masks", "scores", "feats", "has_mask", "extent"):
            field = getattr(self, name)
            columns[name] = [None] * len(sizes) if field is None else field.split(list(sizes))
        origin = self.origin
        starts = [end - size for end, size in zip(ends, sizes, strict=True)]
        columns["origin"] = [None if origin is None else origin[a:b] for a, b in zip(starts, ends, strict=True)]
        parts = []
        for n in range(len(sizes)):
            parts.append(self._of_checked(**{name: column[n] for name, column in columns.items()}))
        return parts

    @classmethod
    def _of_checked(cls, **fields: Any) -> Proposals:
        """Proposals of tensors that were checked before; to check them again is to wait for the device."""
        made = cls.__new__(cls)
        for name, field in fields.items():
            setattr(made, name, field)
        return made

    def to(self, device: torch.device | str) -> Proposals:
        """A copy with all tensors on ``device``."""
        feats = None if self.feats is None else self.feats.to(device)
        has_mask = None if self.has_mask is None else self.has_mask.to(device)
        boxes, masks, scores = self.boxes.to(device), self.masks.to(device), self.scores.to(device)
        return Proposals(boxes, masks, scores, feats, self.origin, has_mask, self.extent)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The concatenation of masks; without a copy where they are consecutive parts of one tensor, as of ``split``."""
    filled = [part for part in parts if part.numel()] or parts[:1]
    first, end = filled[0], filled[0].data_ptr()
    for part in filled:
        alike = part.is_contiguous() and (part.dtype, part.device) == (first.dtype, first.device)
        if not alike or part.data_ptr() != end or part.requires_grad:
            return torch.cat(list(parts))
        if part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return torch.cat(list(parts))
        end += part.numel() * part.element_size()
    return first.as_strided((sum(map(len, filled)), *first.shape[1:]), first.stride())
