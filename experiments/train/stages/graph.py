"""Stage 2: the spatial and the temporal graph, end to end by Eq. 9 over short clips with the model's own masks."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.base import VideoSequence
from experiments.common.presets import Preset
from experiments.runs.settings import path_state, weights_digest
from experiments.train import process_group
from experiments.train.board import rows_of
from experiments.train.trainer import Log, Stage, Trainer
from stg_pyg.errors import InputError
from stg_pyg.learning.first_frame import freeze_statistics
from stg_pyg.learning.steps import drawn_from
from stg_pyg.lucid.degrade import corrupt_mask
from stg_pyg.model.losses import TRAINING_REMEDY, check_finite, stg_loss_batched
from stg_pyg.model.stgnet import STGNet
from stg_pyg.ops.masks import paired_mask_iou
from stg_pyg.proposals.rle import ProposalSource
from stg_pyg.proposals.store import META, open_proposals
from stg_pyg.video.segmenter import StepResult, VideoSegmenter

CLIP_FRAMES = 6
MAX_STRIDE = 4
TERMS = ("loss", "distance", "bce", "gate", "frames")
"""What is logged of a step: means over its frames, and their number."""


class Clip(NamedTuple):
    """Frames uint8 [H, W, 3] and object ids uint8 [H, W] at the size that is trained at, and which frames they are."""

    images: list[np.ndarray]
    labels: list[np.ndarray]
    video: VideoSequence
    frames: list[int]


def train_graph(
    model: STGNet,
    videos: Sequence[VideoSequence],
    preset: Preset,
    path: Path,
    proposals: Path | None = None,
    **options: Any,
) -> Log:
    """Trains everything but the segmentation network of ``model``, in place; logs :data:`TERMS` every 10 steps.

    Of the clips of a step every process takes some, one after the other. The graph is trained in float32; of
    ``precision`` is the segmentation network that makes its proposals, if that is bfloat16. Batch normalisation of the
    encoders keeps its statistics, as detectors do that learn on few pictures at a time. X and K that come from the maps
    of the segmentation network do not learn here.

    Args:
        proposals: from outside, a file or a folder; None: the segmentation network makes its own.
        options: of :class:`~experiments.train.trainer.Trainer`.
    """
    source = None if proposals is None else open_proposals(proposals)
    origin = {
        "networks": options.get("origin"),
        "segmentation": model.segmentation and weights_digest(model.segmentation),
        "proposals": proposals and path_state(proposals / META if proposals.is_dir() else proposals),
    }
    trainer = Trainer(**{**options, "origin": origin})
    device, seed, mixed = trainer.device, trainer.seed, trainer.precision == torch.bfloat16
    model.to(device)
    optimizer, max_norm = make_optimizer(model, preset)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    batch_size, steps = preset.graph_batch_size, preset.graph_steps // (CLIP_FRAMES * preset.graph_batch_size)
    seen: list[Tensor] = []

    def begin(*_: object) -> Callable[[int], dict[str, float]]:
        if (count := process_group.size()) > batch_size and process_group.is_main():
            few = f"graph: {batch_size} of {count} processes have a clip in a step; raise --graph-batch-size"
            print(few, file=sys.stderr)
        return step_of

    def step_of(step: int) -> dict[str, float]:
        optimizer.zero_grad(set_to_none=True)
        sums = dict.fromkeys(TERMS, 0.0)
        for clip in range(step * batch_size + process_group.rank(), (step + 1) * batch_size, process_group.size()):
            rng = np.random.default_rng([seed, 1, clip])
            with drawn_from(device, seed, 8, clip):
                terms, seen[:] = train_clip(model, videos, preset, rng, mixed, source)
            sums = {name: sums[name] + terms[name] for name in TERMS}
        process_group.sum_gradients(trained)
        norm = torch.nn.utils.clip_grad_norm_(trained, max_norm)
        remedy = "take --recipe own" if preset.recipe == "printed" else TRAINING_REMEDY
        check_finite({"norm of the gradient": float(norm)}, f"graph, step {step + 1}", remedy)
        optimizer.step()
        totals = process_group.total(sums)
        return {name: totals[name] / totals["frames"] for name in TERMS if name != "frames"}

    about: dict[str, Any] = {"averaged": False, "left_out": "segmentation.", "warmup": 10, "log_every": 10}
    about["picture"] = lambda _: rows_of(*seen)
    if preset.recipe == "printed":
        about["schedule"] = printed_schedule(videos, batch_size)
    stage = Stage("graph", model, optimizer, steps, preset.graph_learning_rate, batch_size, begin, **about)
    return trainer.fit(stage, videos, preset, path)


def printed_schedule(videos: Sequence[VideoSequence], batch_size: int) -> Callable[[int], float]:
    """0.9 for every ten epochs that have gone by; an epoch is as many frames as the videos have."""
    frames = sum(video.num_frames for video in videos)
    return lambda step: 0.9 ** (step * CLIP_FRAMES * batch_size // (10 * frames))


def make_optimizer(model: STGNet, preset: Preset) -> tuple[torch.optim.Optimizer, float]:
    """That of the preset's recipe, and the norm that gradients are clipped to."""
    groups = parameter_groups(model)
    if preset.recipe == "own":
        return torch.optim.AdamW(groups, weight_decay=1e-3), 1.0
    return torch.optim.Adam([{**group, "factor": 1.0} for group in groups]), math.inf


def parameter_groups(model: STGNet) -> list[dict[str, Any]]:
    """Everything but the segmentation network; the gates, of a few dozen weights each, learn ten times as fast."""
    encoders = [*model.feature_encoder.parameters(), *model.key_encoder.parameters()]
    known = {id(p) for p in (*encoders, *(() if model.segmentation is None else model.segmentation.parameters()))}
    heads = [p for p in model.parameters() if id(p) not in known]
    groups = [{"params": encoders, "factor": 1.0}, {"params": heads, "factor": 10.0}]
    return [group for group in groups if group["params"]]


def train_clip(
    model: STGNet,
    videos: Sequence[VideoSequence],
    preset: Preset,
    rng: np.random.Generator,
    mixed_precision: bool,
    source: ProposalSource | None = None,
) -> tuple[dict[str, float], list[Tensor]]:
    """Adds the gradient of one clip, a share of a step's; frames after the first follow the model's own masks.

    Every frame weighs the same, however long the clips of a step are.

    Returns:
        The sums of :data:`TERMS` over the frames, and the last one for :func:`experiments.train.board.rows_of`: the
        image once for each of K objects, Q, the result and the true mask [K, H, W].
    """
    images, labels, video, frames = draw_clip(videos, rng, preset.graph_frame_size)
    model.train()
    for encoder in (model.feature_encoder, model.key_encoder):
        freeze_statistics(encoder)  # those of one frame would do for no other
    stream = VideoSegmenter(model, crop_size=preset.crop_size, mixed_precision=mixed_precision)
    with torch.no_grad():
        stream.step(images[0], masks=labels[0])
    if rng.random() < 0.6:
        for state in stream.objects:
            state.masks[0] = torch.from_numpy(corrupt_mask(rng, state.masks[0].cpu().numpy())).to(stream.device)
    sums = dict.fromkeys(TERMS, 0.0)
    for image, truth, t in zip(images[1:], labels[1:], frames[1:], strict=True):
        ids = [state.obj_id for state in stream.objects]
        target = torch.stack([torch.from_numpy(truth == i) for i in ids]).float().to(stream.device)
        found = None
        if source is not None:
            found = source.frame(video.name, video.frame_names[t], video.size).resized(truth.shape)
        result = stream.step(image, found, target=target)
        loss, values = frame_loss(model, result, target)
        (loss / (CLIP_FRAMES * preset.graph_batch_size)).backward()
        sums = {name: sums[name] + values[name] for name in TERMS}
    assert result.frame is not None
    shown = [result.frame.image.expand(len(target), -1, -1, -1), result.frame.q, result.masks.detach(), target]
    return sums, shown


def frame_loss(model: STGNet, result: StepResult, target: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Eq. 9, plus the cross-entropy of every node's gate with the true IoU of its proposal where there is a gate."""
    output, frame, config = result.output, result.frame, model.config
    assert output is not None and frame is not None and output.graphs is not None
    eq9 = stg_loss_batched(
        output.nodes,
        output.masks,
        target,
        frame.p,
        frame.q,
        output.batch,
        gamma=config.loss.gamma,
        lambda1=config.selection.lambda1,
        thr=config.selection.thr,
        reading=config.loss.reading,  # type: ignore[arg-type]
        reduction=config.loss.reduction,  # type: ignore[arg-type]
    )
    loss = eq9.total
    values = {"distance": float(eq9.distance.detach()), "bce": float(eq9.bce.detach()), "gate": 0.0}
    if model.node_gate is not None and len(output.gate):
        if not bool(output.gate.isfinite().all()):  # binary_cross_entropy would not say what is wrong
            check_finite({**values, "gate": float(output.gate.detach().sum())}, f"graph, frame {frame.frame_idx}")
        proposals = (output.graphs.x[:, 0] > 0.5).float()
        quality = paired_mask_iou(proposals, target, output.batch)
        gate = F.binary_cross_entropy(output.gate, quality)
        loss = loss + gate
        values["gate"] = float(gate.detach())
    return loss, values | {"loss": float(loss.detach()), "frames": 1.0}


def draw_clip(videos: Sequence[VideoSequence], rng: np.random.Generator, max_size: int) -> Clip:
    """A clip that starts with a visible object, played up to four times as fast, at reduced size."""
    for _ in range(50):
        video = videos[int(rng.integers(len(videos)))]
        stride = int(rng.integers(1, MAX_STRIDE + 1))
        length = min(CLIP_FRAMES, (video.num_frames - 1) // stride + 1)
        start = int(rng.integers(video.num_frames - (length - 1) * stride))
        frames = [start + i * stride for i in range(length)]
        labels = [video.labels(t) for t in frames]
        annotated = [label for label in labels if label is not None]
        if length < 2 or len(annotated) < length or not annotated[0].any():
            continue
        images = [video.image(t) for t in frames]
        factor = min(1.0, max_size / max(images[0].shape[:2]))
        size = (round(images[0].shape[1] * factor), round(images[0].shape[0] * factor))
        small = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
        masks = [cv2.resize(label, size, interpolation=cv2.INTER_NEAREST) for label in annotated]
        if masks[0].any():
            return Clip(small, masks, video, frames)
    names = ", ".join(video.name for video in videos[:3])
    raise InputError(
        f"videos {names}, ...: no clip of two annotated frames with an object in the first was found in 50 draws; "
        "train on videos with masks of all frames"
    )
