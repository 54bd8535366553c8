"""Stage 2: the spatial and the temporal graph, end to end by Eq. 9 over short clips with the model's own masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.base import VideoSequence
from experiments import checkpoints
from experiments.presets import Preset
from experiments.training_loop import Log, run_steps
from stg_pyg.losses import stg_loss_batched
from stg_pyg.lucid import corrupt_mask
from stg_pyg.model import STGNet
from stg_pyg.selection import paired_mask_iou
from stg_pyg.stream import StepResult, VideoSegmenter
from stg_pyg.training import learning_rate

CLIP_FRAMES = 6
MAX_STRIDE = 4


def train_graph(
    model: STGNet,
    videos: Sequence[VideoSequence],
    preset: Preset,
    path: Path,
    *,
    device: torch.device,
    mixed_precision: bool,
    seed: int = 0,
    resume: bool = False,
) -> list[dict[str, float]]:
    """Trains everything but the segmentation network of ``model``, in place; resumable as the first stage is.

    Returns:
        One entry {"step", "loss", "distance", "bce", "gate"} every 10 clips.
    """
    model.to(device)
    optimizer = torch.optim.AdamW(parameter_groups(model), weight_decay=1e-3)
    clips = preset.graph_steps // CLIP_FRAMES
    start, log = 0, []
    if resume and path.is_file():
        content = checkpoints.load(path, "graph")
        checkpoints.load_weights(model, {**model.state_dict(), **content["graph"]}, path)
        optimizer.load_state_dict(content["optimizer"])
        start, log = content["clip"], content["log"]

    def train_step(clip: int) -> dict[str, float]:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(clip, clips, preset.graph_learning_rate * group["factor"], warmup=10)
        model.train()
        return train_clip(model, optimizer, videos, preset, np.random.default_rng([seed, 1, clip]), mixed_precision)

    def save(clip: int, log: Log) -> None:
        state = {n: v for n, v in model.state_dict().items() if not n.startswith("segmentation.")}
        content = {"kind": "graph", "preset": preset.name, "clip": clip, "graph": state, "log": log}
        checkpoints.save(path, {**content, "optimizer": optimizer.state_dict()})

    run_steps("graph", range(start, clips), train_step, save, log, log_every=10, unit="clip")
    model.eval()
    return log


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
    model: STGNet,
    optimizer: torch.optim.Optimizer,
    videos: Sequence[VideoSequence],
    preset: Preset,
    rng: np.random.Generator,
    mixed_precision: bool,
) -> dict[str, float]:
    """One clip: every frame adds its gradient, then one step; frames after the first follow the model's own masks."""
    images, labels = draw_clip(videos, rng, preset.graph_frame_size)
    stream = VideoSegmenter(model, crop_size=preset.crop_size, mixed_precision=mixed_precision)
    with torch.no_grad():
        stream.step(images[0], masks=labels[0])
    if rng.random() < 0.6:
        for state in stream.objects:
            state.masks[0] = torch.from_numpy(corrupt_mask(rng, state.masks[0].cpu().numpy())).to(stream.device)
    optimizer.zero_grad(set_to_none=True)
    terms: list[dict[str, float]] = []
    for image, truth in zip(images[1:], labels[1:], strict=True):
        ids = [state.obj_id for state in stream.objects]
        target = torch.stack([torch.from_numpy(truth == i) for i in ids]).float().to(stream.device)
        result = stream.step(image, target=target)
        loss, values = frame_loss(model, result, target)
        (loss / CLIP_FRAMES).backward()
        terms.append(values)
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    return {key: float(np.mean([term[key] for term in terms])) for key in terms[0]}


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
        gamma=config.gamma,
        lambda1=config.lambda1,
        thr=config.thr,
        reading=config.loss_reading,  # type: ignore[arg-type]
    )
    loss = eq9.total
    values = {"distance": float(eq9.distance.detach()), "bce": float(eq9.bce.detach()), "gate": 0.0}
    if model.node_gate is not None and len(output.gate):
        proposals = (output.graphs.x[:, 0] > 0.5).float()
        quality = paired_mask_iou(proposals, target, output.batch)
        gate = F.binary_cross_entropy(output.gate, quality)
        loss = loss + gate
        values["gate"] = float(gate.detach())
    values["loss"] = float(loss.detach())
    return loss, values


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
    raise ValueError("no clip with annotated frames and an object in its first frame was found")
