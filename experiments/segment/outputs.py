"""What is made of the masks of somebody's own video: the overlay video, COCO results, and confidence."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import cv2
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from tqdm import tqdm

from stg_pyg.errors import InputError
from stg_pyg.proposals.rle import encode_masks, mask_boxes
from stg_pyg.utils.images import UInt8Array, overlay, read_label_map, write_atomic
from stg_pyg.video.frames import FrameSource

Scores = dict[int, list[float | None]]
"""Confidence by object and frame, None where the object has no pixel."""
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
"""A bar of progress that tells frames a second, also where a frame takes longer than one."""
DEFAULT_FPS = Fraction(10)
CODECS = {"libx264": {"crf": "18", "preset": "veryfast"}, "libvpx-vp9": {"crf": "24", "b": "0", "deadline": "realtime"}}
"""Those that browsers play, the first that there is being taken, with a quality at which no loss is seen."""
_FINEST_RATE = 65535  # denominator


def overlay_codec() -> str:
    """The codec that overlays are written in.

    Raises:
        InputError: PyAV was built without any.
    """
    for codec in CODECS:
        with contextlib.suppress(ValueError):  # not built in
            return av.Codec(codec, "w").name
    raise InputError(f"--overlay: PyAV was built without {' and '.join(CODECS)}; install its wheel, or go without it")


def write_overlay(path: Path, source: FrameSource, folder: Path) -> None:
    """The video with the masks of a folder drawn over it.

    Raises:
        InputError: it cannot be written, or a mask is gone.
    """

    def pictures() -> Iterator[UInt8Array]:
        options: dict[str, Any] = {"unit": "frame", "dynamic_ncols": True, "disable": None, "bar_format": BAR}
        with tqdm(total=source.num_frames, desc=path.name, **options) as bar:
            for name, frame in source:
                yield overlay(frame, read_label_map(folder / f"{name}.png"))
                bar.update()

    try:
        write_atomic(path, lambda file: encode_video(file, pictures(), source.fps))
    except av.FFmpegError as error:
        raise InputError(f"{path}: cannot be written as a video ({error}); go without --overlay") from error


def encode_video(file: IO[bytes], pictures: Iterable[UInt8Array], fps: Fraction | None) -> None:
    """Writes pictures [H, W, 3] RGB as an MP4 of ``fps`` frames a second, None: 10.

    Raises:
        av.FFmpegError, OSError: it cannot be encoded or written.
    """
    container = av.open(file, mode="w", format="mp4")
    stream: Any = None
    try:
        for picture in pictures:
            # Colours are stored at half the size, so sides are made even.
            height, width = picture.shape[:2]
            even = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            if stream is None:
                codec = overlay_codec()
                rate = Fraction(fps or 0).limit_denominator(_FINEST_RATE) or DEFAULT_FPS
                stream = container.add_stream(codec, rate=rate, options=CODECS[codec])
                (stream.height, stream.width), stream.pix_fmt = even.shape[:2], "yuv420p"
                stream.codec_context.colorspace, stream.codec_context.color_range = Colorspace.ITU709, ColorRange.MPEG
                stream.codec_context.thread_count = 1  # the same bytes on every machine
            frame = av.VideoFrame.from_ndarray(np.asarray(even, np.uint8), format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
            )
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))
    except BaseException:
        with contextlib.suppress(Exception):  # the first error counts
            container.close()
        raise
    container.close()


def write_coco(path: Path, folder: Path, names: list[str], scores: Scores) -> None:
    """The masks of a folder as COCO results, one entry an object and frame, with the object's id as ``category_id``.

    Raises:
        InputError: it cannot be written, or a mask is gone.
    """

    def write(file: IO[bytes]) -> None:
        separator = "[\n"
        for entry in _entries(folder, names, scores):
            file.write((separator + json.dumps(entry, separators=(",", ":"))).encode())
            separator = ",\n"
        file.write(b"[]\n" if separator == "[\n" else b"\n]\n")

    write_atomic(path, write)


def _entries(folder: Path, names: list[str], scores: Scores) -> Iterator[dict[str, Any]]:
    for position, name in enumerate(names):
        labels = read_label_map(folder / f"{name}.png")
        for obj_id in (int(i) for i in np.unique(labels) if i):
            counts = encode_masks(torch.from_numpy(labels == obj_id)[None])
            x0, y0, x1, y1 = mask_boxes(counts, labels.shape)[0].tolist()
            score = scores[obj_id][position]
            yield {
                "image_id": f"{folder.name}/{name}",
                "category_id": obj_id,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": 1.0 if score is None else score,
                "segmentation": {"size": list(labels.shape), "counts": counts[0].decode("ascii")},
            }


def lost_objects(names: list[str], scores: Scores) -> list[str]:
    """A line for each object that gets lost after it was there."""
    notes = []
    for obj_id, row in scores.items():
        seen = next((n for n, score in enumerate(row) if score is not None), len(row))
        lost = [n for n in range(seen, len(row)) if row[n] is None]
        if lost:
            frames = "frame" if len(lost) == 1 else "frames"
            notes.append(f"object {obj_id} has no pixel in {len(lost)} {frames}, {names[lost[0]]} the first")
    return notes
