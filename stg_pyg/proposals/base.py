"""The proposals of one frame: boxes, masks and scores, and where each of them came from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
        check_rows(self, {"boxes": "[N, 4]", "masks": "[N, H, W]", "scores": "[N]", "feats": "[N, F]"})
        if not bool(torch.isfinite(self.boxes).all() & torch.isfinite(self.scores).all()):
            raise InputError(
                "Proposals.boxes and Proposals.scores must be finite: drop the proposals with NaN or infinity"
            )

    @classmethod
    def empty(cls, height: int, width: int, device: torch.device | str | None = None) -> Proposals:
        """No proposals for a frame of ``height`` x ``width`` pixels."""
        boxes, scores = torch.zeros(0, 4, device=device), torch.zeros(0, device=device)
        return cls(boxes, torch.zeros(0, height, width, device=device), scores)

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
        named = any(part.origin is not None for part in parts)
        partial = any(part.has_mask is not None for part in parts)
        extents = [part.extent for part in parts if part.extent is not None]
        return cls._of_checked(
            boxes=torch.cat([part.boxes for part in parts]),
            masks=_joined([part.masks for part in parts]),
            scores=torch.cat([part.scores for part in parts]),
            feats=torch.cat(known) if known else None,
            origin=[name for part in parts for name in part.origin or [""] * len(part)] if named else None,
            has_mask=torch.cat([part.mask_known for part in parts]) if partial else None,
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
        """The same as indexing: an index, a slice, a bool mask [N] or positions [K], which may repeat; an IndexError
        for positions outside of them, and a bool mask of another length."""
        rows = rows_of(index, len(self), self.device)
        near = rows.cpu() if isinstance(rows, Tensor) else rows
        chosen = {name: field[rows] for name, field in self._tensors().items() if name != "extent"}
        if self.extent is not None:
            chosen["extent"] = self.extent[near]
        names = self.origin
        if names is not None:
            names = [names[i] for i in torch.arange(len(self))[near].tolist()]
        return Proposals(**chosen, origin=names)

    def split(self, sizes: Sequence[int]) -> list[Proposals]:
        """Consecutive parts of these sizes, whose tensors are views."""
        columns = {name: field.split(list(sizes)) for name, field in self._tensors().items()}
        parts = []
        for n, end in enumerate(itertools.accumulate(sizes)):
            names = None if self.origin is None else self.origin[end - sizes[n] : end]
            parts.append(self._of_checked(**{name: column[n] for name, column in columns.items()}, origin=names))
        return parts

    @classmethod
    def _of_checked(cls, **fields: Any) -> Proposals:
        """Proposals of tensors that were checked before; to check them again is to wait for the device."""
        made = cls.__new__(cls)
        vars(made).update(fields)
        return made

    def to(self, device: torch.device | str) -> Proposals:
        """A copy with all tensors on ``device``, but for ``extent``."""
        moved: dict[str, Any] = {n: f.to(device) for n, f in self._tensors().items() if n != "extent"}
        return replace(self, **moved)

    def _tensors(self) -> dict[str, Tensor]:
        """The fields that are known, by name, without the origin."""
        return {name: field for name, field in vars(self).items() if isinstance(field, Tensor)}


def check_rows(proposals: Any, shapes: Mapping[str, str]) -> None:
    """Refuses fields that are not of their shape, written like ``[N, 4]``, or have another length than the boxes."""
    kind, number = type(proposals).__name__, len(proposals.boxes)
    for name, shape in shapes.items():
        field = getattr(proposals, name)
        if field is not None and (field.ndim != len(shape.split(",")) or (name == "boxes" and field.shape[1] != 4)):
            raise InputError(f"{kind}.{name} must be {shape}, not {list(field.shape)}")
    for name, field in vars(proposals).items():
        if field is not None and name != "size" and len(field) != number:
            raise InputError(f"{kind}.{name} has {len(field)} entries for {number} boxes")


def rows_of(index: Index, number: int, device: torch.device | str = "cpu") -> slice | Tensor:
    """An index of ``number`` proposals as what indexes their tensors."""
    if isinstance(index, slice):
        return index
    if isinstance(index, int):
        if not -number <= index < number:
            raise IndexError(f"index {index} is outside {number} proposals")
        index = [index]
    rows = torch.as_tensor(index, device=device)
    return rows.long() if rows.numel() == 0 and rows.dtype != torch.bool else rows


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
