"""A training run of seconds, for the tests of the command and of its stages."""

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from datasets import SyntheticVideos, VideoSequence
from experiments.common import checkpoints
from experiments.common.presets import PRESETS, Preset
from experiments.runs import scoring
from experiments.train import trainer
from experiments.train.stages import detector, graph, segmentation
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.model.stgnet import STGNet
from stg_pyg.nn.backbones.registry import LITE0
from stg_pyg.nn.detector.mask_rcnn import Detector

CPU = torch.device("cpu")
SYNTHETIC = PRESETS["synthetic-small"]
TINY = dataclasses.replace(
    SYNTHETIC,
    config=SYNTHETIC.config.replace(
        {"online.steps": 2, "online.batch": 4, "warping.gaps": (1, 2), "temporal.key_size": 64}
    ),
    backbone=None,
    width=8,
    crop_size=32,
    lucid=LucidConfig(size=32),
    segmentation_steps=5,
    batch_size=3,
    graph_steps=18,
    graph_frame_size=48,
    detector_width=8,
    detector_size=48,
    detector_steps=4,
    detector_batch_size=2,
)
PRETRAINED = dataclasses.replace(TINY, backbone=LITE0, lucid=LucidConfig(size=32, views=2, dream_share=0.5))
NUM_FRAMES = 5


class InProcess:
    """A pool of processes that runs everything here and at once, so that the presets of the tests are known."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function: Callable[..., Any], *arguments: object) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future


def make_tiny(patch: pytest.MonkeyPatch) -> None:
    """Makes ``synthetic`` a matter of seconds: a few small videos, and networks of that size."""

    def videos(split: str, num_videos: int | None = None, seed: int = 0) -> SyntheticVideos:
        return SyntheticVideos(split, 2, NUM_FRAMES, height=32, width=48, seed=seed, max_objects=2)

    patch.setitem(PRESETS, "synthetic-small", TINY)
    patch.setattr("experiments.common.presets.SyntheticVideos", videos)
    patch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    patch.setattr(torch, "set_num_threads", lambda _: None)  # waiting threads are slow where cores are shared


@functools.lru_cache
def tiny_videos() -> tuple[VideoSequence, ...]:
    return tuple(SyntheticVideos("train", 2, 8, height=32, width=48, seed=1, max_objects=2))


def tiny_model(seed: int, preset: Preset = TINY) -> STGNet:
    torch.manual_seed(seed)
    return checkpoints.build_model(preset)


def tiny_detector(seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return Detector.small(8, 48)


def assert_same_weights(a: nn.Module | dict[str, Any], b: nn.Module | dict[str, Any]) -> None:
    first, second = (x.state_dict() if isinstance(x, nn.Module) else x for x in (a, b))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def masks_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob("*/*.png"))}


class Killed(Exception):
    pass


def killer(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """The function, until it has been called so many times; then it stops the run."""
    left = [calls]

    def limited(*args: Any, **kwargs: Any) -> Any:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return function(*args, **kwargs)

    return limited


def run_segmentation(net: nn.Module, path: Path, preset: Preset = TINY, **options: Any) -> list[dict[str, float]]:
    options = {"device": CPU, "seed": 2, "workers": 0} | options
    return segmentation.train_segmentation(net, tiny_videos(), preset, path, **options)


def run_graph(model: STGNet, path: Path, preset: Preset = TINY, **options: Any) -> list[dict[str, float]]:
    return graph.train_graph(model, tiny_videos(), preset, path, **{"device": CPU, "seed": 2} | options)


def run_detector(net: Detector, path: Path, preset: Preset = TINY, **options: Any) -> list[dict[str, float]]:
    options = {"device": CPU, "seed": 2, "workers": 0} | options
    return detector.train_detector(net, tiny_videos(), preset, path, **options)


def kill_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Stops training of any stage after so many steps, each of which is saved."""
    patch.setattr(trainer, "SAVE_EVERY_SECONDS", -1.0)
    for module, step in ((segmentation, "optimisation_step"), (detector, "optimisation_step"), (graph, "train_clip")):
        patch.setattr(module, step, killer(getattr(module, step), steps))
