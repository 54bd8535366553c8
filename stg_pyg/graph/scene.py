"""The memory of whole frames: keys of all pixels, and the shares of background and objects in each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

GIVEN_FRAMES = 4


class SceneMemory:
    """What :class:`~stg_pyg.nn.temporal.label_propagation.LabelPropagation` reads: frames in which objects were given,
    the first and the latest three others, and recent ones.

    Args:
        gaps: of the recent frames, how far they lie behind the current one.
        detail: parts of a cell of the keys, along and across, whose shares are kept apart.
    """

    def __init__(self, gaps: Sequence[int], detail: int = 1):
        self.gaps, self.detail = list(gaps), detail
        self._given: list[int] = []
        self._keys: dict[int, Tensor] = {}
        self._shares: dict[int, Tensor] = {}

    def write(self, frame_idx: int, key: Tensor, masks: Tensor, given: bool) -> None:
        """Stores a frame.

        Args:
            frame_idx: its position in the video.
            key: [C, h, w].
            masks: [K, H, W] masks of all objects that are known by now, disjoint.
            given: objects were given in it.
        """
        shares = F.adaptive_avg_pool2d(masks.to(key.dtype), (self.detail * key.shape[1], self.detail * key.shape[2]))
        self._keys[frame_idx] = key
        self._shares[frame_idx] = torch.cat([1 - shares.sum(dim=0, keepdim=True), shares])
        if given:
            self._given.append(frame_idx)
            del self._given[1 : 1 - GIVEN_FRAMES]
        for old in [t for t in self._keys if t not in self._given and t <= frame_idx - max(self.gaps)]:
            del self._keys[old], self._shares[old]

    def read(self, frame_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys [R, C, h, w] and shares [R, 1 + K, h', w'] of the parts of their cells for the frame ``frame_idx``, and
        which frames [R] are recent only. An object that came later has no share in earlier frames."""
        recent = [t for t in (frame_idx - gap for gap in self.gaps) if t in self._keys and t not in self._given]
        frames = self._given + recent
        count = max(len(self._shares[t]) for t in frames)
        shares = [F.pad(self._shares[t], (0, 0, 0, 0, 0, count - len(self._shares[t]))) for t in frames]
        local = torch.arange(len(frames)) >= len(self._given)
        return torch.stack([self._keys[t] for t in frames]), torch.stack(shares), local
