"""Training: reproducible batches of lucid samples, steps on batches that come in parts, averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from stg_pyg.lucid.dreamer import DreamCache
from stg_pyg.lucid.samples import AnnotatedVideo, LucidConfig, Sample, draw_sample
from stg_pyg.model.identity import feature_loss, key_loss
from stg_pyg.model.losses import ONLINE_REMEDY, check_finite
from stg_pyg.nn.backbones.guided_unet import GuidedUNet
from stg_pyg.nn.backbones.segmentation import segmentation_terms
from stg_pyg.ops.crops import normalize_image

T = TypeVar("T")
SegmentationBatch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Images [B, 3, S, S], q and targets [B, S, S], uint8, and whose object it is [B], int64."""
IDENTITY_WEIGHT = 0.3
"""Of the losses of X and K beside those of mask and quality."""
MAX_NORM = 5.0
"""Norm that the gradients of the segmentation network are clipped to."""


class LucidBatches(Dataset[SegmentationBatch]):
    """The batches of a training run, of its ``steps`` (the first and one past the last): each, a
    :data:`SegmentationBatch`, is the same whenever and by whichever worker it is drawn."""

    def __init__(
        self, videos: Sequence[AnnotatedVideo], config: LucidConfig, batch_size: int, steps: tuple[int, int], seed: int
    ):
        self.videos, self.config, self.batch_size, self.seed = list(videos), config, batch_size, seed
        self.first, self.last = steps
        self.dreamers = DreamCache()
        self._stills = [n for n, video in enumerate(self.videos) if video.num_frames == 1]
        self._moving = [n for n, video in enumerate(self.videos) if video.num_frames > 1]

    def __len__(self) -> int:
        return max(self.last - self.first, 0)

    def __getitem__(self, position: int) -> SegmentationBatch:
        if position >= len(self):
            raise IndexError(position)
        rng = np.random.default_rng([self.seed, self.first + position])
        samples: list[Sample] = []
        owners: list[int] = []
        for number in range(self.batch_size):
            if number % self.config.views == 0:
                video, obj = self._draw_video(rng), None
            samples.append(draw_sample(rng, self.videos, self.config, video, self.dreamers, obj))
            obj = samples[-1].obj
            owners.append(256 * video + obj)
        return stack_samples(samples, owners)

    def _draw_video(self, rng: np.random.Generator) -> int:
        if not self._stills or not self._moving:
            return int(rng.integers(len(self.videos)))
        group = self._stills if rng.random() < self.config.still_share else self._moving
        return group[int(rng.integers(len(group)))]


def stack_samples(samples: Sequence[Sample], owners: Sequence[int] = ()) -> SegmentationBatch:
    """Samples as one batch; without ``owners`` each is of an object of its own."""
    images = np.stack([sample.image.transpose(2, 0, 1) for sample in samples])
    q, targets = np.stack([sample.q for sample in samples]), np.stack([sample.target for sample in samples])
    whose = torch.tensor(list(owners) if owners else range(len(samples)))
    return torch.from_numpy(images), torch.from_numpy(q), torch.from_numpy(targets), whose


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)


def batches(dataset: Dataset[T], workers: int) -> Iterator[T]:
    """The items of a data set of whole batches in order, drawn ahead by ``workers`` processes (0: in this one)."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)


@contextmanager
def drawn_from(device: torch.device, *key: int) -> Iterator[None]:
    """Lets what PyTorch draws on the processor and on ``device``, as dropout does, depend on numbers alone: those of
    ``key``. The generators are afterwards as they were."""
    cuda = [device] if device.type == "cuda" else []
    number = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(number)
        for gpu in cuda:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(number)
        yield


@dataclass(frozen=True)
class Part(Generic[T]):
    """Some samples of a batch, and how much of it they are, in (0, 1]."""

    share: float
    samples: T


def optimisation_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Part[T]],
    losses_of: Callable[[T], dict[str, Tensor]],
    *,
    max_norm: float,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, float]:
    r"""One step along the gradient of a batch that is taken in parts, clipped to the norm ``max_norm``.

    .. math:: \nabla L = \sum_r \sum_{m \in r} s_m \nabla L_m

    over the parts m, with their shares s, of all processes r: that of the whole batch where L is a mean of samples.

    Args:
        net: a ``DistributedDataParallel`` where several processes train it.
        parts: those of this process.
        losses_of: losses of a part by name; the one named ``loss`` is minimised.
        scaler: of the loss, for float16.

    Returns:
        The losses of this process's parts, each multiplied by its share, summed.
    """
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    replicas = dist.get_world_size() if isinstance(net, DistributedDataParallel) else 1
    optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for number, part in enumerate(parts, start=1):
        last = number == len(parts)
        with net.no_sync() if isinstance(net, DistributedDataParallel) and not last else nullcontext():
            losses = losses_of(part.samples)
            # Processes average their gradients, and the shares of all processes sum to one.
            scaler.scale(losses["loss"] * (part.share * replicas)).backward()
        for name, value in losses.items():
            sums[name] = value.detach() * part.share + sums.get(name, 0.0)
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_([p for p in net.parameters() if p.requires_grad], max_norm)
    scaler.step(optimizer)
    scaler.update()
    return {name: float(value) for name, value in sums.items()}


def segmentation_losses(
    net: nn.Module,
    batch: SegmentationBatch,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    identity: bool = False,
) -> dict[str, Tensor]:
    """The ``loss`` of a uint8 batch and its terms; the forward pass runs in ``precision``.

    ``identity`` adds the losses of X and K (:mod:`stg_pyg.model.identity`) of a network that makes them.
    """
    images, q, targets = (x.to(device).float().div_(255) for x in batch[:3])
    with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        output = net(normalize_image(images), q)
    terms = segmentation_terms(output, targets)
    own = net.module if isinstance(net, DistributedDataParallel) else net
    if identity and isinstance(own, GuidedUNet):
        assert output.maps is not None
        terms["features"] = feature_loss(own, output.maps, q, targets, batch[3].to(device))
        terms["keys"] = key_loss(own, output.maps, targets, batch[3].to(device))
        terms["loss"] = terms["loss"] + IDENTITY_WEIGHT * (terms["features"] + terms["keys"])
    return terms


def segmentation_step(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: SegmentationBatch,
    device: torch.device,
    mixed_precision: bool,
) -> dict[str, float]:
    """One optimisation step on a uint8 batch; returns the loss and its terms.

    Raises:
        InputError: the loss is not finite.
    """
    precision = torch.bfloat16 if mixed_precision else torch.float32

    def losses_of(samples: SegmentationBatch) -> dict[str, Tensor]:
        return segmentation_losses(net, samples, device, precision)

    losses = optimisation_step(net, optimizer, [Part(1.0, batch)], losses_of, max_norm=MAX_NORM)
    check_finite(losses, "online learning", ONLINE_REMEDY)
    return losses


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then half a cosine to a hundredth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class AveragedWeights:
    """Exponential moving average of a network's weights and statistics, with a short memory at the start."""

    def __init__(self, net: nn.Module, decay: float = 0.998):
        self.decay = decay
        self.net = copy.deepcopy(net).eval()
        self.updates = 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, value in zip(self.net.state_dict().values(), net.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)
