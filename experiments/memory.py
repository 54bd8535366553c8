"""Measures whether memory grows with the length of a video: python -m experiments.memory"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from datasets.base import VideoSequence
from datasets.synthetic import SyntheticVideos
from experiments import cli
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.io import write_image, write_json
from stg_pyg.model import STGNet
from stg_pyg.proposals import Proposals
from stg_pyg.stream import VideoSegmenter

SAMPLE_EVERY = 10
SCENE_FRAMES = 12
"""Different frames of the scene, which is played forwards and backwards, so that making it costs little."""
SCENES_TRIED = 60


def parse() -> argparse.Namespace:
    parser = cli.make_parser(
        "Streams a synthetic video with proposals from outside through the network, as long as asked for, and writes "
        "the memory in use every 10 frames to memory.json and memory.png.",
        out="runs/memory",
    )
    parser.add_argument("--frames", type=int, default=500, help="length of the video")
    parser.add_argument("--objects", type=int, default=5, help="objects in the video")
    parser.add_argument("--proposals", type=int, default=100, help="proposals a frame, of all objects together")
    parser.add_argument("--height", type=int, default=480, help="of the frames in pixels")
    parser.add_argument("--width", type=int, default=854, help="of the frames in pixels")
    parser.add_argument("--memory-frames", type=int, default=8, help="frames that the temporal graph keeps")
    parser.add_argument("--unbounded", action="store_true", help="keep all frames in the temporal graph, as printed")
    return parser.parse_args()


class RepeatedScene:
    """One synthetic scene played forwards and backwards without end.

    Args:
        num_objects: objects in it, all visible in its first frame.
        height, width: of the frames in pixels.
        seed: of the scenes that are tried.

    Raises:
        InputError: no scene has so many objects, or an argument is out of range.
    """

    def __init__(self, num_objects: int, height: int, width: int, seed: int = 0) -> None:
        scene = _scene_with(num_objects, height, width, seed)
        order = [*range(SCENE_FRAMES), *range(SCENE_FRAMES - 2, 0, -1)]
        frames = [(scene.image(t), scene.labels(t)) for t in range(SCENE_FRAMES)]
        self._frames = [frames[t] for t in order]

    def image(self, t: int) -> np.ndarray:
        """Frame ``t`` as uint8 [H, W, 3]."""
        return self._frames[t % len(self._frames)][0]

    def labels(self, t: int) -> np.ndarray:
        """Object ids of frame ``t`` as uint8 [H, W]."""
        labels = self._frames[t % len(self._frames)][1]
        assert labels is not None
        return labels


def _scene_with(num_objects: int, height: int, width: int, seed: int) -> VideoSequence:
    try:
        videos = SyntheticVideos("val", SCENES_TRIED, SCENE_FRAMES, height, width, seed, max_objects=num_objects)
    except ValueError as error:
        raise InputError(f"--height, --width, --objects or --seed: {error}") from error
    for index in range(SCENES_TRIED):
        try:
            labels = videos[index].labels(0)
        except RuntimeError:  # so many objects do not fit
            continue
        if labels is not None and labels.max() == num_objects:
            return videos[index]
    raise InputError(f"--objects {num_objects}: no synthetic scene shows so many; ask for fewer")


def jittered_proposals(labels: np.ndarray, count: int, rng: np.random.Generator) -> Proposals:
    """Proposals such as a detector could deliver: masks of the objects, turned, scaled, moved and with a patch wrong.

    Args:
        labels: uint8 [H, W] true object ids.
        count: N; the visible objects take turns.

    Returns:
        N proposals with bool masks and their IoU with the truth as scores; none where no object is visible.
    """
    height, width = labels.shape
    ids = np.flatnonzero(np.bincount(labels.ravel(), minlength=1)[1:]) + 1
    if len(ids) == 0:
        return Proposals(torch.zeros(0, 4), torch.zeros(0, height, width, dtype=torch.bool), torch.zeros(0))
    truths = {int(i): (labels == i).astype(np.uint8) for i in ids}
    masks, scores = np.empty((count, height, width), bool), np.empty(count, np.float32)
    for n in range(count):
        truth = truths[int(ids[n % len(ids)])]
        masks[n] = _jitter(rng, truth)
        overlap, either = masks[n] & (truth > 0), masks[n] | (truth > 0)
        scores[n] = overlap.sum() / max(int(either.sum()), 1)
    return Proposals.from_masks(torch.from_numpy(masks), torch.from_numpy(scores))


def _jitter(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    left, top, w, h = cv2.boundingRect(mask)
    center = np.array([left + w / 2, top + h / 2])
    turn, scale = float(rng.normal(0, 6)), float(np.exp(rng.normal(0, 0.08)))
    matrix = np.asarray(cv2.getRotationMatrix2D(center.tolist(), turn, scale), np.float64)
    matrix[:, 2] += rng.normal(0, 0.06, 2) * (w, h)
    moved = np.asarray(cv2.warpAffine(mask, matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST))
    patch = (center + rng.uniform(-0.6, 0.6, 2) * (w, h)).astype(int).tolist()
    axes = np.maximum(rng.uniform(0.03, 0.2, 2) * (w, h), 1).astype(int).tolist()
    cv2.ellipse(moved, patch, axes, float(rng.uniform(0, 180)), 0, 360, int(rng.integers(2)), -1)
    return moved > 0


class MemoryMeter:
    """Memory in use in MB (2**20 bytes): of the process on the CPU, of PyTorch's tensors on a GPU.

    Raises:
        InputError: the system does not tell (``/proc`` is missing) and the device is the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._peak = 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif not Path("/proc/self/status").is_file():
            raise InputError("/proc/self/status: is missing, memory can be measured on Linux or with --device cuda")

    def sample(self) -> float:
        """Resident memory now, or on a GPU the most that was allocated since the last sample."""
        if self.device.type != "cuda":
            return _status("VmRSS")
        most = torch.cuda.max_memory_allocated(self.device) / 2**20
        torch.cuda.reset_peak_memory_stats(self.device)
        self._peak = max(self._peak, most)
        return most

    @property
    def peak(self) -> float:
        """The most that was ever in use, until the last sample on a GPU."""
        return self._peak if self.device.type == "cuda" else _status("VmHWM")


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise InputError(f"/proc/self/status: has no {key}; measure on Linux or with --device cuda")


def growth(frames: list[int], megabytes: list[float]) -> float:
    """Least-squares slope over the second half of the samples, in MB per 100 frames; NaN with fewer than two."""
    half = len(frames) // 2
    if len(frames) - half < 2:
        return float("nan")
    return float(100 * np.polyfit(frames[half:], megabytes[half:], 1)[0])


def draw(frames: list[int], megabytes: list[float], title: str) -> np.ndarray:
    """The curve as a picture, uint8 [H, W, 3]."""
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(7.0, 4.0), dpi=120, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.plot(frames, megabytes, marker=".", linewidth=1, label="measured")
        half = len(frames) // 2
        if len(frames) - half > 1:
            line = np.polyval(np.polyfit(frames[half:], megabytes[half:], 1), frames[half:])
            axes.plot(frames[half:], line, linestyle="--", label="line through the second half")
        axes.set(xlabel="frame", ylabel="memory in MB", title=title, ylim=(0, 1.15 * max(megabytes)))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@torch.no_grad()
def stream(model: STGNet, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Streams the video; the content of ``memory.json`` without its configuration."""
    video = RepeatedScene(args.objects, args.height, args.width, args.seed)
    segmenter = VideoSegmenter(model)
    meter = MemoryMeter(device)
    frames: list[int] = []
    megabytes: list[float] = []
    started = time.perf_counter()
    for t in tqdm(range(args.frames), desc="streaming", unit="frame", mininterval=2.0, dynamic_ncols=True):
        image = video.image(t)
        if t == 0:
            segmenter.step(image, masks=video.labels(0))
        else:
            proposals = jittered_proposals(video.labels(t), args.proposals, np.random.default_rng([args.seed, t]))
            segmenter.step(image, proposals=proposals)
        if (t + 1) % SAMPLE_EVERY == 0 or t + 1 == args.frames:
            frames.append(t + 1)
            megabytes.append(meter.sample())
    return {
        "frames": args.frames,
        "sampled_at": frames,
        "rss_mb": megabytes,
        "peak_mb": meter.peak,
        "growth_mb_per_100_frames": growth(frames, megabytes),
        "seconds_per_frame": (time.perf_counter() - started) / args.frames,
    }


def main() -> None:
    args = parse()
    for name in ("frames", "objects", "proposals", "memory_frames"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    device = cli.choose_device(args.device)
    cli.make_folder(args.out)
    cli.seed_everything(args.seed)
    config = STGConfig.small().with_options(memory_frames=None if args.unbounded else args.memory_frames)
    model = STGNet.small(config).to(device).eval()
    result = stream(model, args, device)
    video = {name: getattr(args, name) for name in ("objects", "proposals", "height", "width", "seed")}
    result["config"] = {**video, "device": device.type, "stg": config.to_dict()}
    write_json(args.out / "memory.json", result)
    what = f"{args.objects} objects, {args.proposals} proposals a frame, {args.width} x {args.height}"
    write_image(args.out / "memory.png", draw(result["sampled_at"], result["rss_mb"], what))
    print(
        f"{args.frames} frames, {what}: peak {result['peak_mb']:.0f} MB, growth "
        f"{result['growth_mb_per_100_frames']:+.1f} MB per 100 frames, {result['seconds_per_frame']:.2f} s a frame"
    )


if __name__ == "__main__":
    cli.run(main)
