"""One run over somebody's own video: what is given is checked, the network adapted, and every frame segmented."""

from __future__ import annotations

import argparse
import contextlib
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from tqdm import tqdm

from experiments import checkpoints, cli
from experiments.frame_source import FrameSource, open_source
from experiments.given_masks import GivenMasks, reduce_labels
from experiments.presets import Preset, find_preset
from experiments.video_proposals import VideoProposals
from stg_pyg.errors import InputError
from stg_pyg.flow import FlowEstimator, flow_for_sequence, resolve_flow
from stg_pyg.io import UInt8Array
from stg_pyg.model import STGNet
from stg_pyg.online import learn_online
from stg_pyg.stream import StepResult, VideoSegmenter

PRESET = "davis2016-small"
"""Sizes and constants where there is no checkpoint."""
STEPS_FROM_NOTHING = 400


class Run:
    """Everything of one run, checked before anything slow begins."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, cli.choose_device(args.device)
        cli.seed_everything(args.seed)
        torch.backends.cudnn.deterministic = True
        self.source = open_source(args.video, args.every)
        self.given = GivenMasks(args.masks, self.source)
        self.size = reduced_size(self.source.size, args.max_size)
        if self.size != self.source.size:
            for name in self.given.frames:
                self.given_at(name)  # complains of objects that are too small
        self.model, self.preset = choose_model(args)
        self.steps = choose_online_steps(args, self.model)
        self.proposals: VideoProposals | None = None
        if args.proposals is not None:
            self.proposals = VideoProposals(args.proposals, self.source, args.sequence)
        self.flow = choose_flow(args, self.source, self.given.frames[0], self.device)
        self.folder = output_folder(args, self.source)
        self.online_seconds = 0.0

    @property
    def sequence(self) -> str:
        """Name of the video and of the folder of its masks."""
        return self.folder.name

    @property
    def from_nothing(self) -> bool:
        """Whether the given mask is all that the network learns from."""
        return self.args.checkpoint is None and self.args.proposals is None

    def given_at(self, name: str) -> tuple[UInt8Array | None, UInt8Array | None]:
        """Given object ids of a frame at the full size and at the size that is worked on."""
        labels = self.given.at(name)
        if labels is None:
            return None, None
        return labels, reduce_labels(labels, self.size, f"{self.given.path}, frame {name}")

    def learn(self) -> None:
        """Trains the segmentation network on the first given mask, if it is to be trained."""
        if not self.steps:
            return
        for name, frame in self.source:
            _, labels = self.given_at(name)
            if labels is not None:
                self._learn_from(reduce_frame(frame, self.size), labels)
                break

    def _learn_from(self, image: UInt8Array, labels: UInt8Array) -> None:
        net, preset, fresh = self.model.segmentation, self.preset, self.args.checkpoint is None
        assert net is not None
        started = time.perf_counter()
        with progress_of(net, self.steps):
            self.model.segmentation = learn_online(
                net,
                image,
                labels,
                preset.lucid,
                steps=self.steps,
                batch_size=preset.online_batch_size,
                peak=preset.learning_rate if fresh else preset.online_learning_rate,
                device=self.device,
                mixed_precision=cli.bfloat16_is_fast(self.device),
                seed=zlib.crc32(self.sequence.encode()) ^ self.args.seed,
            )
        self.online_seconds = time.perf_counter() - started

    def labels(self) -> Iterator[tuple[str, UInt8Array, UInt8Array]]:
        """Name, picture and object ids of every frame, at the full size."""
        stream: VideoSegmenter | None = None
        for name, frame in self.source:
            given, masks = self.given_at(name)
            image = reduce_frame(frame, self.size)
            if stream is None and masks is not None:
                stream = self.make_segmenter()
            if stream is None:
                yield name, frame, np.zeros(self.source.size, np.uint8)
                continue
            proposals = self.proposals.at(name, self.size) if self.proposals is not None else None
            with torch.no_grad():
                result = stream.step(image, proposals=proposals, masks=masks)
            yield name, frame, full_labels(result, given, self.source.size, self.model.config.thr)

    def make_segmenter(self) -> VideoSegmenter:
        mixed_precision = cli.bfloat16_is_fast(self.device) and self.device.type == "cpu"
        model = self.model.to(self.device).eval()
        return VideoSegmenter(model, self.flow, self.preset.crop_size, mixed_precision)


def output_folder(args: argparse.Namespace, source: FrameSource) -> Path:
    """Where the masks go.

    Raises:
        InputError: the name is none of a folder, or results would replace what was given.
    """
    name = args.sequence or source.name
    if name in (".", "..") or "/" in name or "\\" in name:
        raise InputError(f"--sequence {name}: becomes the name of a folder, so it must have no slash")
    folder = args.out / name
    for given in (source.path, args.masks, args.proposals):
        if given is not None and given.is_dir() and given.resolve() == folder.resolve():
            raise InputError(f"{given}: results would be written into this very folder; choose another --out")
    if args.overlay and source.path.resolve() == (args.out / "overlay.mp4").resolve():
        raise InputError(f"{source.path}: the overlay would replace this very video; choose another --out")
    cli.make_folder(folder)
    (args.out / "run.json").unlink(missing_ok=True)
    return folder


def choose_model(args: argparse.Namespace) -> tuple[STGNet, Preset]:
    """The checkpoint's model, or one that needs no training for proposals, or one to be trained on the first mask."""
    if args.checkpoint is not None:
        model, preset = checkpoints.load_model(args.checkpoint)
    elif args.proposals is not None:
        preset = find_preset(PRESET)
        model = checkpoints.untrained_model(preset_name=PRESET)
    else:
        preset = find_preset(PRESET)
        model = checkpoints.build_model(preset).eval()
    if args.memory_frames is not None:
        model.config = model.config.with_options(memory_frames=args.memory_frames)
    return model, preset


def choose_online_steps(args: argparse.Namespace, model: STGNet) -> int:
    """Steps of training on the first mask."""
    if model.segmentation is None:
        return 0
    if args.online_steps is not None:
        return int(args.online_steps)
    from_nothing = args.checkpoint is None and args.proposals is None
    return STEPS_FROM_NOTHING if from_nothing else model.config.online_steps


def choose_flow(args: argparse.Namespace, source: FrameSource, start: str, device: torch.device) -> FlowEstimator:
    """The source of flow; one of stored files is told the frames from ``start`` on, the first the segmenter sees."""
    flow = resolve_flow(args.flow, weights=args.flow_weights, device=device)
    if hasattr(flow, "for_sequence"):
        for option in ("every", "max_size"):
            if getattr(args, option) not in (None, 1):
                name = option.replace("_", "-")
                raise InputError(f"--flow {args.flow}: is of the frames as they are, so it excludes --{name}")
        first = source.position(start) or 0
        names = [source.frame_name(t) for t in range(first, source.count())]
        flow = flow_for_sequence(flow, args.sequence or source.name, names)
    return flow


def reduced_size(size: tuple[int, int], max_size: int | None) -> tuple[int, int]:
    """(H, W) with the longer side at ``max_size`` at most."""
    scale = 1.0 if max_size is None else min(1.0, max_size / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def reduce_frame(frame: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """The frame at a smaller size (H, W)."""
    if frame.shape[:2] == size:
        return frame
    return np.asarray(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def full_labels(result: StepResult, given: UInt8Array | None, size: tuple[int, int], thr: float) -> UInt8Array:
    """Object ids [H, W] at the full size: soft masks are enlarged and merged, given objects are as they were given."""
    if tuple(result.labels.shape) == size:
        return result.labels.numpy()
    own = {int(i) for i in np.unique(given)} if given is not None else set()
    labels, best = np.zeros(size, np.uint8), np.full(size, thr, np.float32)
    for obj_id, mask in zip(result.obj_ids, result.masks, strict=True):
        if obj_id in own:
            continue
        height = cv2.resize(mask.float().cpu().numpy(), size[::-1], interpolation=cv2.INTER_LINEAR)
        labels[height > best] = obj_id
        best = np.maximum(best, height)
    return labels if given is None else np.where(given > 0, given, labels).astype(np.uint8)


@contextlib.contextmanager
def progress_of(net: nn.Module, steps: int) -> Iterator[None]:
    """A bar that advances whenever a network of this kind is run."""
    with tqdm(total=steps, desc="learning the first mask", unit="step", dynamic_ncols=True, disable=None) as bar:

        def advance(module: nn.Module, inputs: Any, output: Any) -> None:
            if type(module) is type(net):
                bar.update()

        hook = register_module_forward_hook(advance)
        try:
            yield
        finally:
            hook.remove()
