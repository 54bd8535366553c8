"""Proposals with run-length encoded masks: thousands a frame stay small, and only the chosen ones are decoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from stg_pyg.errors import InputError
from stg_pyg.proposals.base import Index, Proposals, check_rows, rows_of

IntArray = NDArray[np.int64]
Size = tuple[int, int]
_LONGEST = 7  # characters of a run: 35 bits, beyond any picture, and sums stay far from the limit of int64
_FLOAT16_MAX = 65504.0


def encode_masks(masks: Tensor) -> list[bytes]:
    """COCO's compressed RLE of masks [N, H, W], bool or soft (inside is > 0.5)."""
    inside = masks if masks.dtype == torch.bool else masks > 0.5
    columns_first = np.asfortranarray(inside.cpu().numpy().transpose(1, 2, 0).astype(np.uint8))
    return [item["counts"] for item in coco_mask.encode(columns_first)]


def decode_masks(counts: Sequence[bytes], size: Size) -> Tensor:
    """Masks bool [N, H, W] of COCO's compressed RLE; ``size`` is (H, W).

    Raises:
        InputError: a mask is broken or has another size.
    """
    fault = find_fault(counts, size)
    if fault is not None:
        raise InputError(f"mask {fault[0]} {fault[1]}; encode the masks again")
    masks = np.empty((len(counts), *size), np.bool_)
    for n, item in enumerate(counts):
        masks[n] = coco_mask.decode({"size": list(size), "counts": item})
    return torch.from_numpy(masks)


def find_fault(counts: Sequence[bytes], size: Size) -> tuple[int, str] | None:
    """The position and the fault of a mask that is no compressed RLE of H x W pixels; None when all are sound.

    pycocotools trusts the counts and may read or write out of bounds, so nothing reaches it unchecked.
    """
    lengths = np.array([len(item) for item in counts], np.int64)
    if not lengths.all():
        return int(lengths.argmin()), "has no runs"
    ends = lengths.cumsum()
    chars = np.frombuffer(b"".join(counts), np.uint8) - np.uint8(48)
    foreign = np.flatnonzero(chars > 63)
    if len(foreign):
        return int(np.searchsorted(ends, foreign[0], "right")), "holds characters that are not of compressed RLE"
    cut = np.flatnonzero(chars[ends - 1] & 32)
    if len(cut):
        return int(cut[0]), "is cut short"
    _, stops = _groups(chars)
    too_long = np.flatnonzero(np.diff(stops, prepend=-1) > _LONGEST)
    if len(too_long):
        return int(np.searchsorted(ends, stops[too_long[0]], "right")), "has a run that no picture holds"
    runs, first = _parse_runs(chars, ends)
    negative = np.flatnonzero(runs < 0)
    if len(negative):
        return int(np.searchsorted(first, negative[0], "right")) - 1, "has a negative run"
    area = size[0] * size[1]
    totals = np.add.reduceat(runs, first) if len(first) else runs
    wrong = np.flatnonzero(totals != area)
    if len(wrong):
        return int(wrong[0]), f"covers {totals[wrong[0]]} pixels, not {size[0]} x {size[1]} = {area}"
    return None


def mask_boxes(counts: Sequence[bytes], size: Size) -> NDArray[np.float32]:
    """Tight boxes [N, 4] (x0, y0, x1, y1) of sound RLE masks without decoding them; zeros for an empty mask."""
    ends = np.array([len(item) for item in counts], np.int64).cumsum()
    runs, first = _parse_runs(np.frombuffer(b"".join(counts), np.uint8) - np.uint8(48), ends)
    height, width = size
    owner = np.repeat(np.arange(len(counts)), np.diff(first, append=len(runs)))
    stop = runs.cumsum() - owner * (height * width)
    inside = ((np.arange(len(runs)) - first[owner]) % 2 == 1) & (runs > 0)
    owner, start, last = owner[inside], (stop - runs)[inside], stop[inside] - 1
    wraps = start // height != last // height  # such a run reaches the bottom, and the top of the next column
    low = np.full((len(counts), 2), max(height, width), np.int64)
    high = np.full((len(counts), 2), -1, np.int64)
    np.minimum.at(low, owner, np.stack([start // height, np.where(wraps, 0, start % height)], 1))
    np.maximum.at(high, owner, np.stack([last // height, np.where(wraps, height - 1, last % height)], 1))
    boxes = np.concatenate([low, high + 1], axis=1)
    return np.where(high[:, :1] < 0, 0, boxes).astype(np.float32)


def compress_runs(runs: Sequence[int], size: Size) -> bytes:
    """Compressed RLE of uncompressed runs, column by column, that begin with background and fill ``size``."""
    return coco_mask.frPyObjects({"counts": list(runs), "size": list(size)}, *size)["counts"]


def _groups(chars: NDArray[np.uint8]) -> tuple[IntArray, IntArray]:
    """Positions of the first and the last character of every number: bit 5 says that another one follows."""
    stops = np.flatnonzero((chars & 32) == 0)
    return np.concatenate([[0], stops[:-1] + 1])[: len(stops)], stops


def _parse_runs(chars: NDArray[np.uint8], ends: IntArray) -> tuple[IntArray, IntArray]:
    """All runs [R] of well-formed characters, and the position of each mask's first run.

    A number is little-endian in groups of five bits, bit 4 of the last one is its sign, and from the fourth on it is
    the difference to the run two before.
    """
    if len(ends) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts, stops = _groups(chars)
    place = 5 * (np.arange(len(chars)) - np.repeat(starts, stops - starts + 1))
    values = np.add.reduceat((chars & 31).astype(np.int64) << place, starts)
    values -= np.where(chars[stops] & 16, np.int64(1) << 5 * (stops - starts + 1), 0)
    first = np.searchsorted(stops, np.concatenate([[0], ends[:-1]]))
    owner = np.repeat(np.arange(len(first)), np.diff(first, append=len(stops)))
    rank = np.arange(len(values)) - first[owner]
    for parity in (1, 0):
        chain = np.flatnonzero((rank % 2 == parity) & (rank > 0))
        total, head = values[chain].cumsum(), rank[chain] <= 2
        base = (total - values[chain])[head]
        values[chain] = total - (base[head.cumsum() - 1] if len(base) else 0)
    return values, first


@dataclass(eq=False, repr=False)
class EncodedProposals:
    """The N proposals of one frame, on the CPU, with masks as COCO's compressed RLE.

    Raises:
        InputError: when the fields disagree on N.
    """

    boxes: Tensor
    """[N, 4] float32 (x0, y0, x1, y1) in pixels of the frame, x1 and y1 exclusive."""
    scores: Tensor
    """[N] float32 confidence of the detector."""
    counts: list[bytes | None]
    """N masks; None where only the box is known."""
    size: Size
    """(H, W) of the frame; (0, 0) where neither a mask nor the reader tells it."""
    feats: Tensor | None = None
    """[N, F] float32 features X of Eq. 3 with values that float16 holds."""

    def __post_init__(self) -> None:
        check_rows(self, {"boxes": "[N, 4]"})

    @classmethod
    def empty(cls, size: Size, num_features: int | None = None) -> EncodedProposals:
        """No proposals for a frame of ``size`` (H, W)."""
        feats = None if num_features is None else torch.zeros(0, num_features)
        return cls(torch.zeros(0, 4), torch.zeros(0), [], size, feats)

    @classmethod
    def from_proposals(cls, proposals: Proposals) -> EncodedProposals:
        """Encodes the masks (> 0.5) and rounds the features to float16, as a file holds them."""
        encoded = iter(encode_masks(proposals.masks[proposals.mask_known]))
        counts = [next(encoded) if has else None for has in proposals.mask_known.tolist()]
        boxes, scores = proposals.boxes.detach().float().cpu(), proposals.scores.detach().float().cpu()
        feats = None if proposals.feats is None else round_features(proposals.feats)
        return cls(boxes, scores, counts, proposals.size, feats)

    def __len__(self) -> int:
        return len(self.boxes)

    __repr__ = Proposals.__repr__

    @property
    def has_mask(self) -> Tensor:
        """[N] bool, whether the mask of each proposal is known."""
        return torch.tensor([item is not None for item in self.counts], dtype=torch.bool)

    def keep(self, index: Index) -> EncodedProposals:
        """Some of the proposals, still encoded."""
        rows = torch.arange(len(self))[rows_of(index, len(self))]
        feats = None if self.feats is None else self.feats[rows]
        counts = [self.counts[n] for n in rows.tolist()]
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], counts=counts, feats=feats)

    def resized(self, size: Size) -> EncodedProposals:
        """The proposals for the same frame at another size (H, W); masks are decoded one at a time."""
        if self.size == size:
            return self
        factors = torch.tensor([size[1] / self.size[1], size[0] / self.size[0]] * 2)
        counts: list[bytes | None] = list(self.counts)
        for n in torch.nonzero(self.has_mask)[:, 0].tolist():
            mask = self.select(n).masks[0].numpy().astype(np.float32)
            reduced = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_AREA) > 0.5
            (counts[n],) = encode_masks(torch.from_numpy(reduced)[None])
        return replace(self, boxes=self.boxes * factors, counts=counts, size=size)

    def select(self, index: Index) -> Proposals:
        """Some of the proposals, decoded, by what :meth:`Proposals.select` takes; a broken mask is an InputError.

        Masks are bool; a row without one is all zeros and ``has_mask`` of the result is False there.
        """
        chosen = self.keep(index)
        known = chosen.has_mask
        decoded = decode_masks([item for item in chosen.counts if item is not None], self.size)
        if bool(known.all()):
            return Proposals(chosen.boxes, decoded, chosen.scores, chosen.feats)
        masks = torch.zeros(len(chosen), *self.size, dtype=torch.bool)
        masks[known] = decoded
        return Proposals(chosen.boxes, masks, chosen.scores, chosen.feats, has_mask=known)


def round_features(feats: Tensor) -> Tensor:
    """Features as float32 with the nearest finite values of float16, on the CPU."""
    return feats.detach().float().cpu().clamp(-_FLOAT16_MAX, _FLOAT16_MAX).half().float()


class ProposalSource(ABC):
    """Stored proposals of videos, whatever the files; see :func:`stg_pyg.proposals.store.open_proposals`."""

    path: Path
    """The file or folder that was opened."""
    features: bool = False
    """Whether the proposals come with the features X of Eq. 3."""

    @property
    @abstractmethod
    def sequences(self) -> list[str]:
        """Names of the videos that have proposals."""

    @abstractmethod
    def check(self, sequence: str, frame_names: Sequence[str]) -> None:
        """Refuses frames that the video ``sequence`` does not have, and the lack of one that has to be there."""

    @abstractmethod
    def frame(self, sequence: str, stem: str, size: Size) -> EncodedProposals:
        """The proposals of a frame of ``size`` (H, W) pixels; an InputError where they are of another size."""

    def check_any(self, sequences: Sequence[str]) -> None:
        """Refuses proposals of other videos alone, which are a matter of wrong names."""
        own = self.sequences
        if own and sequences and not set(own) & set(sequences):
            raise InputError(
                f"{self.path}: has proposals of {len(own)} videos such as {own[0]!r} and none of {sequences[0]!r}; "
                "name the videos in image_id as the data set does"
            )
