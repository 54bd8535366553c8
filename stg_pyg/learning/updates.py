"""Online learning that goes on while a video runs, on the frames whose result can be trusted."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stg_pyg.config import OnlineConfig
from stg_pyg.learning.first_frame import AnnotatedFrames, of_one_video, train_mode
from stg_pyg.learning.steps import SegmentationBatch, drawn_from, segmentation_step, stack_samples
from stg_pyg.lucid.dreamer import DreamCache
from stg_pyg.lucid.samples import LucidConfig, draw_sample
from stg_pyg.proposals.base import Proposals

BEST = 3
"""Proposals whose expected IoU counts."""
Frame = tuple[int, np.ndarray, np.ndarray]
"""Number, uint8 image [H, W, 3] and uint8 object ids [H, W]."""


def expected_quality(proposals: Sequence[Proposals], like: Tensor) -> Tensor:
    """Mean expected IoU [K] of the best three proposals of each of K objects, 0 without any."""
    best = [part.scores.topk(min(BEST, len(part))).values.mean() if len(part) else None for part in proposals]
    return torch.stack([like.new_zeros(()) if value is None else value.to(like) for value in best])


def agreement(masks: Tensor, q: Tensor, thr: float) -> Tensor:
    """IoU [K] of the results [K, H, W] above ``thr`` with Q [K, H, W], 0 where both are empty."""
    a, b = (masks > thr).flatten(1), (q > 0.5).flatten(1)
    both, either = (a & b).sum(dim=1), (a | b).sum(dim=1)
    return both.to(masks.dtype) / either.clamp(min=1)


def is_trusted(quality: Tensor, agreement: Tensor, config: OnlineConfig) -> Tensor:
    """Which results [K] are learned from, by :func:`expected_quality` and :func:`agreement`."""
    return (quality > config.trusted_quality) & (agreement > config.trusted_agreement)


class OnlineUpdates:
    """A segmentation network that learns on from its own results (the online adaptation of Voigtlaender and Leibe,
    BMVC 2017, with samples of :mod:`stg_pyg.lucid.samples`).

    Every ``config.update_every`` frames the network does ``config.update_steps`` steps of Adam. Half of the samples are
    of the given frames, so that it does not drift, and half of the latest trusted results, which show what the given
    frames do not: another side, another light. A video has a network of its own; that of the model stays as it is.

    Args:
        net: the network to begin with; it is copied.
        crop_size: side of the crops.
        mixed_precision: train in bfloat16.
        seed: of the samples and of dropout, which depend on it and on the number of the frame alone.
    """

    @torch.inference_mode(False)
    def __init__(
        self, net: nn.Module, config: OnlineConfig, crop_size: int, mixed_precision: bool = False, seed: int = 0
    ):
        self.net = copy.deepcopy(net)
        self.config, self.mixed_precision, self.seed = config, mixed_precision, seed
        given = of_one_video(LucidConfig(size=crop_size, dream_share=config.dream_share))
        self._sampling = (given, of_one_video(LucidConfig(size=crop_size)))
        self._given: list[Frame] = []
        self._late: deque[Frame] = deque(maxlen=self.config.late_frames)
        self._dreamers = DreamCache(self.config.given_frames)
        train_mode(self.net, config.update_layers)
        learning = [p for p in self.net.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(learning, lr=config.update_rate)
        self.net.eval()

    def give(self, t: int, image: np.ndarray, labels: np.ndarray, ids: Sequence[int]) -> None:
        """Takes in a frame, uint8 [H, W, 3] with object ids [H, W], of which the objects ``ids`` were given."""
        known = _only(labels, ids)
        if known.any():
            self._given.append((t, image, known))
            del self._given[1 : 1 - self.config.given_frames]
            self._dreamers = DreamCache(self.config.given_frames)

    def see(self, t: int, image: np.ndarray, labels: np.ndarray, ids: Sequence[int]) -> None:
        """Takes in a result, of which the objects ``ids`` are trusted."""
        known = _only(labels, ids)
        if t % self.config.late_every == 0 and known.any():
            self._late.append((t, image, known))

    def learn(self, t: int) -> bool:
        """Updates the network after frame ``t``, if it is time and something new is there; tells whether it did."""
        every = self.config.update_every
        if t % every or not self._given or not self._late or self._late[-1][0] <= t - every:
            return False
        device = next(self.net.parameters()).device
        for step in range(self.config.update_steps):
            batch = self._draw(np.random.default_rng([self.seed, 3, t, step]))
            with torch.enable_grad(), drawn_from(device, self.seed, 6, t, step):
                segmentation_step(self.net, self._optimizer, batch, device, self.mixed_precision)
        return True

    def _draw(self, rng: np.random.Generator) -> SegmentationBatch:
        videos = []
        for frames in (self._given, self._late):
            _, images, labels = zip(*frames, strict=True)
            videos.append(AnnotatedFrames(list(images), list(labels)))
        samples = []
        for number in range(self.config.update_batch):
            late = number % 2
            samples.append(draw_sample(rng, [videos[late]], self._sampling[late], 0, None if late else self._dreamers))
        return stack_samples(samples)

    def state(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs, as tensors and plain values."""
        frames = {
            name: [[t, torch.from_numpy(image), torch.from_numpy(labels)] for t, image, labels in kept]
            for name, kept in (("given", self._given), ("late", self._late))
        }
        return {"net": self.net.state_dict(), "optimizer": self._optimizer.state_dict(), **frames}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state` was taken, to the last bit."""
        self.net.load_state_dict(state["net"])
        self._optimizer.load_state_dict(state["optimizer"])
        given, late = ([(t, *(x.numpy() for x in frame)) for t, *frame in state[name]] for name in ("given", "late"))
        self._given, self._late = given, deque(late, maxlen=self.config.late_frames)
        self._dreamers = DreamCache(self.config.given_frames)


def _only(labels: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    return np.where(np.isin(labels, list(ids)), labels, np.uint8(0))
