"""RAFT: a network for optical flow, in place of the paper's FlowNet 2.0."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import optical_flow

from stg_pyg.flow.interface import ImageFlow
from stg_pyg.flow.warping import Flow, Image
from stg_pyg.utils.pretrained import load_torchvision

_STRIDE = 8
_MIN_SIDE = 128
"""The correlation pyramid halves feature maps of stride 8 three times and needs 16 of their pixels."""


class RAFTFlow(ImageFlow):
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
        super().__init__(max_size)
        if name not in ("raft_large", "raft_small"):
            raise ValueError(f"name must be raft_large or raft_small, not {name!r}")
        if num_updates < 1:
            raise ValueError(f"num_updates must be at least 1, not {num_updates}")
        self.name, self.num_updates = name, num_updates
        self.device = torch.device(device)
        self.network = _network(name, weights).to(self.device)

    @torch.inference_mode()
    def search(self, current: Image, previous: Image, size: tuple[int, int]) -> Flow:
        images = [self._prepare(frame, size) for frame in (current, previous)]
        flow = self.network(*images, num_flow_updates=self.num_updates)[-1][0]
        return flow[:, : size[0], : size[1]].permute(1, 2, 0).float().cpu().numpy()

    def _prepare(self, frame: Image, size: tuple[int, int]) -> Tensor:
        """[1, 3, h, w] in [-1, 1], reduced, right and lower border repeated to sides that the network takes."""
        # A copy, as NumPy calls a mirrored frame one pixel wide contiguous, and PyTorch takes no negative stride.
        image = torch.from_numpy(np.array(frame, order="C"))[None].to(self.device).permute(0, 3, 1, 2).float()
        if image.shape[2:] != size:
            image = F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
        missing = [max(_MIN_SIDE, -(-side // _STRIDE) * _STRIDE) - side for side in size]
        return F.pad(image / 127.5 - 1, [0, missing[1], 0, missing[0]], mode="replicate")

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
