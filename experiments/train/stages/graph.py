"""Stage 2: the spatial and the temporal graph, end to end by Eq. 9 over short clips with the model's own masks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.base import VideoSequence
from experiments.common import checkpoints
from experiments.common.presets import Preset
from experiments.runs.settings import weights_digest
from experiments.train import process_group
from experiments.train.begun import check_begun, stage_fingerprint
from experiments.train.board import open_board, rows_of
from experiments.train.trainer import History, Log, run_steps
from stg_pyg.errors import InputError
from stg_pyg.learning.first_frame import freeze_statistics
from stg_pyg.learning.steps import drawn_from, learning_rate
from stg_pyg.lucid.degrade import corrupt_mask
from stg_pyg.model.losses import check_finite, stg_loss_batched
from stg_pyg.model.stgnet import STGNet
from stg_pyg.ops.masks import paired_mask_iou
from stg_pyg.video.segmenter import StepResult, VideoSegmenter

CLIP_FRAMES = 6
MAX_STRIDE = 4
TERMS = ("loss", "distance", "bce", "gate", "frames")
"""What is logged of a step: means over its frames, and their number."""


def train_graph(
    model: STGNet,
    videos: Sequence[VideoSequence],
    preset: Preset,
    path: Path,
    *,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    seed: int = 0,
    resume: bool = False,
    tensorboard: Path | None = None,
    origin: Any = None,
) -> Log:
    """Trains everything but the segmentation network of ``model``, in place; resumable as the first stage is.

    Of the clips of a step every process takes some, one after the other. The graph is trained in float32; of
    ``precision`` is the segmentation network that makes its proposals, if that is bfloat16. Batch normalisation of the
    encoders keeps its statistics, as detectors do that learn on few pictures at a time.

    Returns:
        One entry {"step", "loss", "distance", "bce", "gate"} every 10 steps, means over their frames.
    """
    model.to(device)
    optimizer = torch.optim.AdamW(parameter_groups(model), weight_decay=1e-3)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    batch_size = preset.graph_batch_size
    steps = preset.graph_steps // (CLIP_FRAMES * batch_size)
    start, history = 0, History()
    before = {"networks": origin, "segmentation": model.segmentation and weights_digest(model.segmentation)}
    options: dict[str, Any] = {"seed": seed, "precision": precision, "origin": before}
    settings = stage_fingerprint("graph", preset, videos, device, **options)
    if resume and path.is_file():
        content = checkpoints.load(path, "graph")
        checkpoints.load_weights(model, {**model.state_dict(), **content["graph"]}, path)
        check_begun(path, content["settings"], settings)
        optimizer.load_state_dict(content["optimizer"])
        start, history = content["clip"] // batch_size, History.of(content)
    process_group.agree(start, path)
    if process_group.size() > batch_size and process_group.is_main():
        count = process_group.size()
        print(
            f"graph: {batch_size} of {count} processes have a clip in a step; raise --graph-batch-size", file=sys.stderr
        )
    seen: list[Tensor] = []

    def train_step(step: int) -> dict[str, float]:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, preset.graph_learning_rate * group["factor"], warmup=10)
        optimizer.zero_grad(set_to_none=True)
        sums = dict.fromkeys(TERMS, 0.0)
        for clip in range(step * batch_size + process_group.rank(), (step + 1) * batch_size, process_group.size()):
            rng = np.random.default_rng([seed, 1, clip])
            with drawn_from(device, seed, 8, clip):
                terms, seen[:] = train_clip(model, videos, preset, rng, precision == torch.bfloat16)
            sums = {name: sums[name] + terms[name] for name in TERMS}
        process_group.sum_gradients(trained)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        totals = process_group.total(sums)
        return {name: totals[name] / totals["frames"] for name in TERMS if name != "frames"}

    def save(step: int) -> None:
        state = {n: v for n, v in model.state_dict().items() if not n.startswith("segmentation.")}
        content = {"kind": "graph", "settings": settings, "clip": step * batch_size, "graph": state}
        checkpoints.save(path, {**content, "optimizer": optimizer.state_dict(), **history.state()})

    board = open_board(tensorboard, path, range(start, steps), batch_size, optimizer, lambda: rows_of(*seen))
    run_steps("graph", range(start, steps), train_step, save, history, log_every=10, board=board)
    model.eval()
    return history.log


def parameter_groups(model: STGNet) -> list[dict[str, Any]]:
    """Everything but the segmentation network; the gates, of a few dozen weights each, learn ten times as fast."""
    encoders = [*model.feature_encoder.parameters(), *model.key_encoder.parameters()]
    known = {id(p) for p in encoders}
    segmentation = () if model.segmentation is None else model.segmentation.parameters()
    known |= {id(p) for p in segmentation}
    heads = [p for p in model.parameters() if id(p) not in known]
    groups = [{"params": encoders, "factor": 1.0}, {"params": heads, "factor": 10.0}]
    return [group for group in groups if group["params"]]


def train_clip(
    model: STGNet, videos: Sequence[VideoSequence], preset: Preset, rng: np.random.Generator, mixed_precision: bool
) -> tuple[dict[str, float], list[Tensor]]:
    """Adds the gradient of one clip, a share of a step's; frames after the first follow the model's own masks.

    Every frame weighs the same, however long the clips of a step are.

    Returns:
        The sums of :data:`TERMS` over the frames, and the last one for :func:`experiments.board.rows_of`: the image
        once for each of K objects, Q, the result and the true mask [K, H, W].
    """
    images, labels = draw_clip(videos, rng, preset.graph_frame_size)
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
    for image, truth in zip(images[1:], labels[1:], strict=True):
        ids = [state.obj_id for state in stream.objects]
        target = torch.stack([torch.from_numpy(truth == i) for i in ids]).float().to(stream.device)
        result = stream.step(image, target=target)
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


def draw_clip(
    videos: Sequence[VideoSequence], rng: np.random.Generator, max_size: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A clip that starts with a visible object, played up to four times as fast, at reduced size: frames and masks."""
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
            return small, masks
    names = ", ".join(video.name for video in videos[:3])
    raise InputError(
        f"videos {names}, ...: no clip of two annotated frames with an object in the first was found in 50 draws; "
        "train on videos with masks of all frames"
    )
