"""One run over somebody's own video: what is given is checked, the network adapted, and every frame segmented."""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
import zlib
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import cv2
import torch

from experiments.common import cli
from experiments.runs.settings import fingerprint
from experiments.segment.frames import FrameResult, InputFrame, reduce_frame, reduced_size
from experiments.segment.given.masks import reduce_labels
from experiments.segment.given.proposals import VideoProposals
from experiments.segment.given.shapes import GivenShapes
from experiments.segment.options import (
    STATE_FOLDER,
    choose_flow,
    choose_given,
    choose_model,
    choose_online_steps,
    output_folder,
    spare_cores,
)
from experiments.segment.overlay_video import overlay_codec
from experiments.segment.progress import progress_of
from experiments.segment.resume import RunSettings, SavedRun
from stg_pyg.flow.ahead import flow_ahead, prepare_flow
from stg_pyg.flow.interface import FlowEstimator
from stg_pyg.learning.lesson import Lesson, adapted_networks
from stg_pyg.proposals.guided import GuidedProposer
from stg_pyg.utils.images import UInt8Array
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


class Run:
    """Everything of one run, checked before anything slow begins.

    Attributes:
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
            self._segment_shapes(self.given)
        if self.size != self.source.size:
            for name in self.given.frames:
                self.given_at(name)  # complains of objects that are too small
        self.proposals: VideoProposals | None = None
        if args.proposals is not None:
            self.proposals = VideoProposals(args.proposals, self.source, args.sequence)
        self.flow = choose_flow(args, self.source, self.given.frames[0], self.device)
        self.folder = output_folder(args, self.source)
        self.saved = SavedRun(args.out / STATE_FOLDER / self.sequence, fingerprint(self.settings(), self.device))
        self._stream: VideoSegmenter | None = None

    @property
    def sequence(self) -> str:
        """Name of the video and of the folder of its masks."""
        return self.folder.name

    @property
    def from_nothing(self) -> bool:
        """Whether the given mask is all that the network learns from."""
        return self.args.checkpoint is None and self.args.proposals is None

    def settings(self) -> RunSettings:
        """Everything that the masks depend on."""
        args = self.args
        same = [field.name for field in fields(RunSettings) if hasattr(args, field.name)]
        chosen = {
            "sequence": self.sequence,
            "online_steps": self.steps,
            "max_size": self.size,
            "device": self.device.type,
            "preset": self.preset,
            "config": self.model.config,
        }
        return RunSettings(**{**{name: getattr(args, name) for name in same}, **chosen})

    def given_at(self, name: str) -> tuple[UInt8Array | None, UInt8Array | None]:
        """Given object ids of a frame at the full size and at the size that is worked on."""
        labels = self.given.at(name)
        if labels is None:
            return None, None
        return labels, reduce_labels(labels, self.size, f"{self.given.path}, frame {name}")

    def learn(self) -> float:
        """Trains the networks on the given frames, if they are to be trained; the seconds that took.

        What an earlier run learned is taken from there.
        """
        if not self.steps or self.model.segmentation is None:
            return 0.0
        known = self.saved.load_network()
        if known is None:
            started = time.perf_counter()
            images, labels = self._frames_to_learn()
            with progress_of(self.model.segmentation, self.steps):
                networks = adapted_networks(self.model, images, labels, self._lesson())
            weights = {name: network.state_dict() for name, network in networks.items()}
            known = weights, time.perf_counter() - started
            self.saved.save_network(*known)
        networks = {name: copy.deepcopy(getattr(self.model, name)).eval() for name in known[0]}
        for name, weights in known[0].items():
            # Loaded in both cases, so that the network is the same to the last bit and the layout in memory.
            networks[name].load_state_dict(weights)
        self.model.put(networks)
        return known[1]

    def _lesson(self) -> Lesson:
        preset, fresh = self.preset, self.args.checkpoint is None
        return Lesson(
            self.steps,
            self.args.online_seconds,
            preset.online_lucid,
            self.model.config.online.batch,
            preset.learning_rate if fresh else self.model.config.online.rate,
            self.device,
            zlib.crc32(self.sequence.encode(errors="surrogateescape")) ^ self.args.seed,
            cli.bfloat16_is_fast(self.device),
            self.model.config.online.layers,
            self.model.config.online.enough,
        )

    def _frames_to_learn(self) -> tuple[list[UInt8Array], list[UInt8Array]]:
        """Images and labels of the given frames at the size that is worked on, the first one always among them."""
        names = self.given.frames
        step = max(1.0, len(names) / MOST_LEARNT)
        wanted = {names[int(n * step)] for n in range(min(len(names), MOST_LEARNT))}
        images, maps = [], []
        for name, frame in self.source:
            if name not in wanted:
                continue
            _, labels = self.given_at(name)
            assert labels is not None
            images.append(reduce_frame(frame, self.size))
            maps.append(labels)
            if len(images) == len(wanted):
                break
        return images, maps

    def frames(self, start: int = 0, state: dict[str, Any] | None = None) -> Iterator[FrameResult]:
        """The results of all frames from position ``start`` on, where :meth:`state` was ``state``.

        With :func:`~experiments.segment.options.spare_cores` the next frames are read, and the flow of the next one is
        computed, while the network works on this one.
        """
        self._stream, cores = None, spare_cores(self.device)
        with (
            self._tracer(start) as tracer,
            _opencv_on(cores),
            ReadAhead(self._read(start), FRAMES_AHEAD if cores else 0) as frames,
            flow_ahead(self.flow, self.model.config, wanted=cores > 0) as flow,
        ):
            if state is not None:
                self._stream = self._make_segmenter(flow)
                restore_stream(self._stream, state)
            for frame in frames:
                if self._stream is None and frame.masks is not None:
                    self._stream = self._make_segmenter(flow)
                result = None
                if self._stream is not None:
                    self._prepare_flow(self._stream, frame, frames.peek())
                    proposals = self.proposals.at(frame.name, self.size) if self.proposals is not None else None
                    with torch.no_grad():
                        result = self._stream.step(frame.image, proposals=proposals, masks=frame.masks)
                    if tracer is not None:
                        tracer.write(frame.name, result, frame.masks)
                yield FrameResult(frame.name, self.source.size, self.model.config.selection.thr, frame.given, result)

    def _read(self, start: int) -> Iterator[InputFrame]:
        """The frames from position ``start`` on with what is given of them."""
        for name, frame in self.source.frames(start):
            yield InputFrame(name, reduce_frame(frame, self.size), *self.given_at(name))

    @staticmethod
    def _prepare_flow(stream: VideoSegmenter, frame: InputFrame, upcoming: InputFrame | None) -> None:
        t = stream.first_frame + stream.frame_idx + 1
        prepare_flow(stream.flow, t, frame.image)
        if upcoming is not None:
            prepare_flow(stream.flow, t + 1, upcoming.image)

    def state(self) -> dict[str, Any] | None:
        """The history of the video as it is between two of the :meth:`frames`."""
        return None if self._stream is None else stream_state(self._stream)

    def _tracer(self, start: int) -> contextlib.AbstractContextManager[Tracer | None]:
        folder = self.args.out / "trace" / self.sequence
        if not self.args.trace:
            forget_traces(folder)
            return contextlib.nullcontext()
        return Tracer(self.model, folder, [self.source.frame_name(n * self.source.every) for n in range(start)])

    def _make_segmenter(self, flow: FlowEstimator) -> VideoSegmenter:
        mixed_precision = cli.bfloat16_is_fast(self.device) and self.device.type == "cpu"
        model = self.model.to(self.device).eval()
        arguments = (model, flow, self.preset.crop_size, mixed_precision)
        if self.args.max_objects_at_once is not None:
            return GroupedSegmenter(*arguments, max_objects=self.args.max_objects_at_once, seed=self.args.seed)
        return VideoSegmenter(*arguments, seed=self.args.seed)

    def _segment_shapes(self, given: GivenShapes) -> None:
        net, config = self.model.segmentation, self.model.config
        assert net is not None
        proposer = GuidedProposer(net.to(self.device), self.preset.crop_size, config.proposals.crop_margin)
        _, frame = next(iter(self.source))
        given.segment(proposer, frame, self.device)


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
