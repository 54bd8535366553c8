"""Flow computed elsewhere: Middlebury .flo files, and a folder of them as a source of flow."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stg_pyg.errors import InputError
from stg_pyg.flow.dis import DISFlow
from stg_pyg.flow.interface import FlowEstimator, check_frames
from stg_pyg.flow.warping import Flow, Image, compose_flows
from stg_pyg.utils.images import write_atomic

_MAGIC = 202021.25
_HEADER = struct.Struct("<fii")


def read_flo(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> Flow:
    """[H, W, 2] float32 flow in pixels (x, y) of a Middlebury .flo file.

    Values above 1e9 and NaN, which mark unknown flow, are as they are stored.

    Raises:
        InputError: when the file is missing, is no .flo file, is truncated or has another size (H, W) than ``size``.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path") from None
    remedy = "write it again as Middlebury .flo"
    if len(content) < _HEADER.size:
        raise InputError(f"{path}: {len(content)} bytes are too few for a flow file: {remedy}")
    magic, width, height = _HEADER.unpack_from(content)
    if magic != _MAGIC or width < 1 or height < 1:
        raise InputError(f"{path}: not a flow file (bad header): {remedy}")
    expected = _HEADER.size + 8 * width * height
    if len(content) != expected:
        raise InputError(f"{path}: {len(content)} bytes instead of {expected} for {width} x {height} flow: {remedy}")
    if size is not None and (height, width) != tuple(size):
        raise InputError(
            f"{path}: flow of {width} x {height} for frames of {size[1]} x {size[0]}: compute it at their size"
        )
    flow = np.frombuffer(content, dtype="<f4", offset=_HEADER.size).reshape(height, width, 2)
    return flow.astype(np.float32)


def write_flo(path: str | os.PathLike[str], flow: Flow) -> None:
    """Writes flow [H, W, 2] in pixels as Middlebury .flo, whole or not at all.

    Raises:
        InputError: it cannot be written.
        ValueError: when the shape is another.
    """
    if flow.ndim != 3 or flow.shape[2] != 2 or flow.size == 0:
        raise ValueError(f"flow must be [H, W, 2], not {list(flow.shape)}")
    header = _HEADER.pack(_MAGIC, flow.shape[1], flow.shape[0])
    write_atomic(path, lambda file: file.write(header + np.ascontiguousarray(flow, dtype="<f4").tobytes()))


class FloFiles:
    """A folder of stored flow, as FlowNet 2.0 (Ilg et al., CVPR 2017) of the paper writes it.

    ``<folder>/<sequence>/<frame stem>.flo`` is the backward flow from the frame to the one before it, so the first
    frame has none. ``<frame stem>.fw.flo``, which may be missing, is the forward flow of the same pair, from the frame
    before to this one, for the consistency mask.

    Args:
        folder: the folder that holds one of each sequence.
        fallback: estimator for frames that are given as images alone, and for nothing else.

    Raises:
        InputError: when there is no such folder.

    Example:
        >>> flow = FloFiles("flow").for_sequence("bmx-bumps", ["00000", "00001"])
        >>> flow.between(second_image, first_image, 1, 0)
    """

    def __init__(self, folder: str | os.PathLike[str], fallback: FlowEstimator | None = None) -> None:
        self.folder = Path(folder)
        self.fallback: FlowEstimator = fallback if fallback is not None else DISFlow("medium", max_size=480)
        if not self.folder.is_dir():
            raise InputError(f"{folder}: no such folder of .flo files: check the path")

    def for_sequence(self, name: str, frame_names: Sequence[str]) -> SequenceFlow:
        """The source for one sequence; frame t of its calls is ``frame_names[t]``, the stem of a file.

        Raises:
            InputError: when there is no folder of the sequence.
        """
        folder = self.folder / name
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder: put the flow of sequence {name} there as <frame stem>.flo")
        return SequenceFlow(folder, frame_names, self.fallback)

    def __call__(self, current: Image, previous: Image) -> Flow:
        """Raises ValueError, as images do not tell the files: ask ``for_sequence(...)`` instead."""
        raise ValueError(f"{self!r} does not know the sequence: bind it by for_sequence(name, frame_names)")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r}, fallback={self.fallback!r})"


class SequenceFlow:
    """Stored flow of one sequence, see :meth:`FloFiles.for_sequence`."""

    def __init__(self, folder: Path, frame_names: Sequence[str], fallback: FlowEstimator) -> None:
        self.folder, self.frame_names, self.fallback = folder, list(frame_names), fallback
        self._latest: tuple[int, int, Flow] | None = None  # source, target and the flow between them

    def __call__(self, current: Image, previous: Image) -> Flow:
        """Flow of the fallback estimator: without frame numbers there is no telling which file is meant."""
        return self.fallback(current, previous)

    def between(self, current: Image, previous: Image, t: int, t_prev: int) -> Flow:
        r"""Flow [H, W, 2] from frame t to frame t_prev, over several frames the composition of the stored ones.

        .. math::
            w_{t \to t-2}(i) = w_t(i) + w_{t-1}(i + w_t(i))

        Pixels whose flow is unknown in a file of the chain, or leads out of the frame on the way, are
        :data:`~stg_pyg.flow.warping.UNKNOWN_FLOW`; ``warp`` leaves them zero. With ``t_prev`` after ``t`` the forward
        files are composed.

        Raises:
            InputError: when a file of the chain is missing, damaged or of another size than the frames.
            ValueError: when a position is not in ``frame_names``, or both are the same.
        """
        check_frames(current, previous)
        size = current.shape[0], current.shape[1]
        reached, flow = t, None
        if self._latest is not None:
            source, end, kept = self._latest
            # The gaps of a frame, asked in turn, go on from the latest flow where it leads part of the way.
            if source == t and min(t, t_prev) <= end <= max(t, t_prev) and kept.shape[:2] == size:
                reached, flow = end, kept
        for path in self._chain(t, t_prev)[abs(t - reached) :]:
            step = read_flo(path, size)
            flow = step if flow is None else compose_flows(flow, step).numpy()
        assert flow is not None
        self._latest = (t, t_prev, flow)
        return flow.copy()

    def has_flow(self, t: int, t_prev: int) -> bool:
        """Whether every file from frame t to frame t_prev exists."""
        return all(path.is_file() for path in self._chain(t, t_prev))

    def _chain(self, t: int, t_prev: int) -> list[Path]:
        """The files whose flows lead from frame t to frame t_prev."""
        if not (0 <= t < len(self.frame_names) and 0 <= t_prev < len(self.frame_names)) or t == t_prev:
            raise ValueError(f"no flow from frame {t} to frame {t_prev} of {len(self.frame_names)} frames")
        if t_prev < t:
            return [self.folder / f"{self.frame_names[s]}.flo" for s in range(t, t_prev, -1)]
        return [self.folder / f"{self.frame_names[s]}.fw.flo" for s in range(t + 1, t_prev + 1)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r}, {len(self.frame_names)} frames)"
