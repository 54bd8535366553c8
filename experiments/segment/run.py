"""One run over somebody's own video: what is given is checked, the network adapted, and every frame segmented."""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from PIL import Image
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from tqdm import tqdm

from experiments.common import cli
from experiments.common.proposals_option import find_detector
from experiments.runs.settings import fingerprint, weights_digest
from experiments.segment.frames import FrameResult, reduce_frame, reduce_labels, reduced_size
from experiments.segment.given.proposals import DetectedProposals, VideoProposals
from experiments.segment.given.shapes import GivenShapes
from experiments.segment.options import (
    STATE_FOLDER,
    choose_flow,
    choose_given,
    choose_model,
    choose_online_steps,
    output_folder,
)
from experiments.segment.outputs import BAR, overlay_codec
from experiments.segment.resume import CONFIDENCE, RunSettings, SavedRun, Stand, finished_stand
from stg_pyg.flow.ahead import flow_ahead, prepare_flow
from stg_pyg.flow.interface import FlowEstimator
from stg_pyg.learning.lesson import Lesson, adapted_networks
from stg_pyg.proposals.guided import GuidedProposer
from stg_pyg.utils.images import UInt8Array, remove_leftovers, write_atomic, write_label_map
from stg_pyg.utils.read_ahead import ReadAhead
from stg_pyg.video.frames import open_source
from stg_pyg.video.grouped import GroupedSegmenter
from stg_pyg.video.segmenter import VideoSegmenter
from stg_pyg.video.snapshot import restore_stream, stream_state
from stg_pyg.video.trace import Tracer, forget_traces

MOST_LEARNT = 24
"""Most given frames that the network is trained on, spread over the video, so that few are in memory."""
FRAMES_AHEAD = 2
"""Frames that are read before their turn: the next one, for its flow, and the one that is read meanwhile."""
SAVE_SECONDS = 30.0
"""At most this much work, and a frame, is done again after a run was killed."""


class InputFrame(NamedTuple):
    """What a frame is segmented from: its picture [H, W, 3] RGB and given object ids [H, W] at the size that is worked
    on, and these ids at the full size."""

    name: str
    image: UInt8Array
    given: UInt8Array | None
    masks: UInt8Array | None


class Run:
    """Everything of one run, checked before anything slow begins.

    Attributes:
        folder: of the masks, which has the name of the video.
        saved: what an earlier run of the same command left.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, cli.choose_device(args.device)
        cli.seed_everything(args.seed)
        torch.backends.cudnn.deterministic = True
        self.source = open_source(args.video, args.every)
        if args.overlay:
            overlay_codec()
        self.given = choose_given(args, self.source)
        self.size = reduced_size(self.source.size, args.max_size)
        self.model, self.preset = choose_model(args)
        self.steps = choose_online_steps(args, self.model)
        if isinstance(self.given, GivenShapes):
            assert self.model.segmentation is not None
            net, margin = self.model.segmentation.to(self.device), self.model.config.proposals.crop_margin
            proposer = GuidedProposer(net, self.preset.crop_size, margin)
            self.given.segment(proposer, next(iter(self.source))[1], self.device)
        if self.size != self.source.size:
            for name in self.given.frames:
                self.given_at(name)  # complains of objects that are too small
        self.proposals: VideoProposals | DetectedProposals | None = None
        self.detector = ""
        if isinstance(args.proposals, Path):
            self.proposals = VideoProposals(args.proposals, self.source, args.sequence)
        elif args.proposals is not None:
            detector = find_detector(args.detector, args.checkpoint)
            self.proposals, self.detector = DetectedProposals(detector, self.device), weights_digest(detector)
        self.flow = choose_flow(args, self.source, self.given.frames[0], self.device)
        self.folder = output_folder(args, self.source)
        self.sequence = self.folder.name
        self.saved = SavedRun(args.out / STATE_FOLDER / self.sequence, fingerprint(self.settings(), self.device))
        self._stream: VideoSegmenter | None = None

    def settings(self) -> RunSettings:
        """Everything that the masks depend on."""
        names = [field.name for field in fields(RunSettings) if hasattr(self.args, field.name)]
        chosen = {
            "sequence": self.sequence,
            "detector": self.detector,
            "online_steps": self.steps,
            "max_size": self.size,
            "device": self.device.type,
            "preset": self.preset,
            "config": self.model.config,
        }
        return RunSettings(**{name: getattr(self.args, name) for name in names} | chosen)

    def frame_names(self, count: int) -> list[str]:
        """Names of the first ``count`` frames that are segmented."""
        return [self.source.frame_name(n * self.source.every) for n in range(count)]

    def given_at(self, name: str) -> tuple[UInt8Array | None, UInt8Array | None]:
        """Given object ids of a frame at the full size and at the size that is worked on."""
        labels = self.given.at(name)
        if labels is None:
            return None, None
        return labels, reduce_labels(labels, self.size, f"{self.given.path}, frame {name}")

    def earlier_stand(self) -> tuple[Stand, str]:
        """How far earlier runs of the same command came, and a line that tells so; masks that are gone are made
        again."""
        out = self.args.out
        for folder in [out, self.folder, self.saved.folder, *(out / "alpha" / self.sequence).glob("*")]:
            remove_leftovers(folder)
        finished = finished_stand(out, self.saved.fingerprint)
        stand = finished or self.saved.load_stand()
        names = self.frame_names(stand.position)
        if not all((self.folder / f"{name}.png").is_file() for name in names):
            return Stand(), f"masks of an earlier run are gone from {self.folder}, so this one begins anew"
        if finished is not None:
            return stand, f"all masks are there from an earlier run; remove {out / 'run.json'} to make them again"
        if names:
            return stand, f"going on after frame {names[-1]} of a run that was stopped"
        return stand, self.saved.note

    def make_masks(self, stand: Stand) -> Stand:
        """Adapts the network, writes the masks that are missing, and saves now and then where the run stands."""
        if stand.complete:
            return stand
        for name in ("run.json", CONFIDENCE):
            (self.args.out / name).unlink(missing_ok=True)
        stand.online_seconds = self.learn()
        ids, before, started = self.given.object_ids, stand.seconds, time.perf_counter()
        saved = started
        options: dict[str, Any] = {"unit": "frame", "dynamic_ncols": True, "disable": None, "bar_format": BAR}
        with tqdm(total=self.source.num_frames, initial=stand.position, desc=self.sequence, **options) as bar:
            for frame in self.frames(stand.position, stand.stream):
                self._write(frame)
                for obj_id, score in frame.scores(ids).items():
                    stand.scores.setdefault(obj_id, []).append(score)
                stand.position += 1
                bar.update()
                now = time.perf_counter()
                stand.seconds = before + now - started
                if now - saved >= SAVE_SECONDS:
                    stand.stream = None if self._stream is None else stream_state(self._stream)
                    self.saved.save_stand(stand)
                    saved = now
        stand.stream, stand.complete = None, True
        self.saved.save_stand(stand)
        return stand

    def learn(self) -> float:
        """Trains the networks on the given frames, if they are to be trained; the seconds that took.

        What an earlier run learned is taken from there.
        """
        if not self.steps or self.model.segmentation is None:
            return 0.0
        known = self.saved.load("network.pt", ["weights", "seconds"])
        if known is None:
            started, online = time.perf_counter(), self.model.config.online
            lesson = Lesson(
                self.steps,
                self.args.online_seconds,
                self.preset.online_lucid,
                online.batch,
                self.preset.learning_rate if self.args.checkpoint is None else online.rate,
                self.device,
                zlib.crc32(self.sequence.encode(errors="surrogateescape")) ^ self.args.seed,
                cli.bfloat16_is_fast(self.device),
                online.layers,
                online.enough,
            )
            images, labels = self._frames_to_learn()
            with _progress_of(self.model.segmentation, self.steps):
                networks = adapted_networks(self.model, images, labels, lesson)
            weights = {name: network.state_dict() for name, network in networks.items()}
            known = {"weights": weights, "seconds": time.perf_counter() - started}
            self.saved.save("network.pt", known)
        networks = {name: copy.deepcopy(getattr(self.model, name)).eval() for name in known["weights"]}
        for name, state in known["weights"].items():
            # Loaded in both cases, so that the network is the same to the last bit and the layout in memory.
            networks[name].load_state_dict(state)
        self.model.put(networks)
        return float(known["seconds"])

    def _frames_to_learn(self) -> tuple[list[UInt8Array], list[UInt8Array]]:
        """Images and labels of the given frames at the size that is worked on, the first one always among them."""
        names = self.given.frames
        step = max(1.0, len(names) / MOST_LEARNT)
        wanted = {names[int(n * step)] for n in range(min(len(names), MOST_LEARNT))}
        images, maps = [], []
        for name, frame in self.source:
            labels = self.given_at(name)[1] if name in wanted else None
            if labels is not None:
                images.append(reduce_frame(frame, self.size))
                maps.append(labels)
            if len(images) == len(wanted):
                break
        return images, maps

    def frames(self, start: int = 0, state: dict[str, Any] | None = None) -> Iterator[FrameResult]:
        """The results of all frames from position ``start`` on, where the history of the video was ``state``.

        With :func:`spare_cores` the next frames are read, and the flow of the next one is computed, while the network
        works on this one.
        """
        self._stream, cores = None, spare_cores(self.device)
        with (
            self._tracer(start) as tracer,
            _opencv_on(cores),
            ReadAhead(self._read(start), FRAMES_AHEAD if cores else 0) as frames,
            flow_ahead(self.flow, self.model.config, wanted=cores > 0) as flow,
        ):
            for frame in frames:
                if self._stream is None and (state is not None or frame.masks is not None):
                    self._stream = self._make_segmenter(flow)
                    if state is not None:
                        restore_stream(self._stream, state)
                result = None
                if self._stream is not None:
                    t = self._stream.first_frame + self._stream.frame_idx + 1
                    for ahead, coming in enumerate((frame, frames.peek())):
                        if coming is not None:
                            prepare_flow(flow, t + ahead, coming.image)
                    proposals = None if self.proposals is None else self.proposals.at(frame.name, frame.image)
                    with torch.no_grad():
                        result = self._stream.step(frame.image, proposals=proposals, masks=frame.masks)
                    if tracer is not None:
                        tracer.write(frame.name, result, frame.masks)
                yield FrameResult(frame.name, self.source.size, self.model.config.selection.thr, frame.given, result)

    def _read(self, start: int) -> Iterator[InputFrame]:
        for name, frame in self.source.frames(start):
            yield InputFrame(name, reduce_frame(frame, self.size), *self.given_at(name))

    def _write(self, frame: FrameResult) -> None:
        if self.args.alpha:
            for obj_id, alpha in frame.alphas(self.given.object_ids):
                path = self.args.out / "alpha" / self.sequence / str(obj_id) / f"{frame.name}.png"
                write_atomic(path, partial(Image.fromarray(alpha).save, format="PNG"))
        write_label_map(self.folder / f"{frame.name}.png", frame.labels())

    def _tracer(self, start: int) -> contextlib.AbstractContextManager[Tracer | None]:
        folder = self.args.out / "trace" / self.sequence
        if self.args.trace:
            return Tracer(self.model, folder, self.frame_names(start))
        forget_traces(folder)
        return contextlib.nullcontext()

    def _make_segmenter(self, flow: FlowEstimator) -> VideoSegmenter:
        mixed_precision = cli.bfloat16_is_fast(self.device) and self.device.type == "cpu"
        arguments = (self.model.to(self.device).eval(), flow, self.preset.crop_size, mixed_precision)
        if self.args.max_objects_at_once is not None:
            return GroupedSegmenter(*arguments, max_objects=self.args.max_objects_at_once, seed=self.args.seed)
        return VideoSegmenter(*arguments, seed=self.args.seed)


def spare_cores(device: torch.device) -> int:
    """Cores that the network leaves to other threads: all on a GPU, else those beyond the threads of PyTorch.

    With as many threads as cores they would get in each other's way: PyTorch's wait for one another without sleeping.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if device.type == "cuda" else max(0, cores - torch.get_num_threads())


@contextlib.contextmanager
def _opencv_on(cores: int) -> Iterator[None]:
    """Keeps OpenCV, whose results do not depend on its threads, off the cores of the network; 0: leaves it alone."""
    before = cv2.getNumThreads()
    if 0 < cores < before:
        cv2.setNumThreads(cores)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


@contextlib.contextmanager
def _progress_of(net: nn.Module, steps: int) -> Iterator[None]:
    """A bar that advances whenever a network of this kind is run."""
    with tqdm(total=steps, desc="learning the given masks", unit="step", dynamic_ncols=True, disable=None) as bar:
        hook = register_module_forward_hook(lambda module, *_: bar.update() if type(module) is type(net) else None)
        try:
            yield
        finally:
            hook.remove()
