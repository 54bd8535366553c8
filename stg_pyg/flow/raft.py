"""RAFT: a network for optical flow, in place of the paper's FlowNet 2.0."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import optical_flow

from stg_pyg.flow.warping import Flow, Image, check_frames, check_max_size, reduced_size, resize_flow
from stg_pyg.utils.pretrained import load_torchvision

RAFT_STRIDE = 8
RAFT_MIN_SIDE = 128
"""The correlation pyramid halves feature maps of stride 8 three times and needs 16 of their pixels."""


class RAFTFlow:
    """RAFT (Teed and Deng, ECCV 2020, arXiv:2003.12039) of torchvision.

    The paper takes its flow from FlowNet 2.0 (Ilg et al., CVPR 2017). RAFT stands in for it: it is the more accurate
    one, and torchvision keeps it with weights. Flow of FlowNet 2.0 itself can be given as .flo files,
    see :class:`~stg_pyg.flow.flo_files.FloFiles`.

    Args:
        name: ``raft_large`` or ``raft_small``.
        weights: ``auto`` for those of torchvision, a file or folder, or ``none`` for random ones, which find no motion.
        device: where the network runs.
        max_size: frames with a longer side are reduced to it; None for full size. The memory for one pair is about
            (H W / 64)^2 x 5.3 bytes: 0.2 GB at 854 x 480, 5.6 GB at 1920 x 1080.
        num_updates: refinement steps.

    Raises:
        InputError: when the weights cannot be loaded or are of another network.
        ValueError: for another name, ``max_size`` or ``num_updates`` less than 1.
    """

    def __init__(
        self,
        name: Literal["raft_large", "raft_small"] = "raft_large",
        weights: str | os.PathLike[str] = "auto",
        device: torch.device | str = "cpu",
        max_size: int | None = None,
        num_updates: int = 12,
    ) -> None:
        if name not in ("raft_large", "raft_small"):
            raise ValueError(f"name must be raft_large or raft_small, not {name!r}")
        if num_updates < 1:
            raise ValueError(f"num_updates must be at least 1, not {num_updates}")
        check_max_size(max_size)
        self.name, self.max_size, self.num_updates = name, max_size, num_updates
        self.device = torch.device(device)
        self.network = _network(name, weights).to(self.device)

    def __call__(self, current: Image, previous: Image) -> Flow:
        """Backward flow [H, W, 2], float32, in pixels of the full size.

        Args:
            current: [H, W, 3] uint8 RGB.
            previous: [H, W, 3] uint8 RGB.

        Raises:
            InputError: when the frames are not uint8 RGB or differ in size.
        """
        check_frames(current, previous)
        return self.pairs(current[None], previous[None])[0]

    @torch.inference_mode()
    def pairs(self, currents: NDArray[np.uint8], previous: NDArray[np.uint8]) -> Flow:
        """Backward flow of B pairs of frames in one pass, [B, H, W, 2].

        Args:
            currents: [B, H, W, 3] uint8 RGB, or one frame [H, W, 3] for all.
            previous: [B, H, W, 3] uint8 RGB, or one frame [H, W, 3] for all.

        Raises:
            InputError: when the frames are not uint8 RGB or differ in size.
            ValueError: when there is no pair, or the numbers of frames differ.
        """
        first, second = (frames if frames.ndim == 4 else frames[None] for frames in (currents, previous))
        if not len(first) or not len(second) or (len(first) != len(second) and 1 not in (len(first), len(second))):
            raise ValueError(f"{len(first)} current and {len(second)} previous frames do not make pairs")
        check_frames(first[0], second[0])
        count = max(len(first), len(second))
        height, width = first.shape[1:3]
        small = reduced_size((height, width), self.max_size)
        images = [self._prepare(frames, small).expand(count, -1, -1, -1) for frames in (first, second)]
        flow = self.network(*images, num_flow_updates=self.num_updates)[-1]
        fields = flow[..., : small[0], : small[1]].permute(0, 2, 3, 1).float().cpu().numpy()
        return np.stack([resize_flow(field, (height, width)) for field in fields])

    def _prepare(self, frames: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
        """[B, 3, h, w] in [-1, 1], reduced, right and lower border repeated to sides that the network takes."""
        # A copy, as NumPy calls a mirrored frame one pixel wide contiguous, and PyTorch takes no negative stride.
        images = torch.from_numpy(np.array(frames, order="C")).to(self.device).permute(0, 3, 1, 2).float()
        if images.shape[2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        missing = [max(RAFT_MIN_SIDE, -(-side // RAFT_STRIDE) * RAFT_STRIDE) - side for side in size]
        return F.pad(images / 127.5 - 1, [0, missing[1], 0, missing[0]], mode="replicate")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, max_size={self.max_size}, num_updates={self.num_updates})"


def _network(name: str, weights: str | os.PathLike[str]) -> nn.Module:
    """The network in evaluation mode, with its weights; random ones are the same in every process."""
    state = load_torchvision(name, os.fspath(weights))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network: nn.Module = getattr(optical_flow, name)(weights=None, progress=False)
    if state is not None:
        network.load_state_dict(state)
    return network.eval().requires_grad_(False)
