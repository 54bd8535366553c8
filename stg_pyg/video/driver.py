"""A whole video, from its frames and the mask of the first one to the mask of every frame."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stg_pyg.errors import InputError
from stg_pyg.flow.interface import FlowEstimator
from stg_pyg.learning.lesson import Lesson, adapted_networks
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.model.checkpoint import load_model
from stg_pyg.model.stgnet import STGNet
from stg_pyg.proposals.outside import ProposalSet
from stg_pyg.utils.images import read_label_map
from stg_pyg.video.frames import open_source
from stg_pyg.video.grouped import GroupedSegmenter
from stg_pyg.video.inputs import given_masks, image_forms
from stg_pyg.video.segmenter import StepResult, VideoSegmenter

Path_ = str | os.PathLike[str]
Image = np.ndarray | Tensor
Masks = Path_ | Image | Mapping[int, Image]


@torch.no_grad()
def segment_video(
    video: Path_ | Iterable[Image],
    masks: Masks,
    model: STGNet | Path_ = "shipped",
    *,
    proposals: Mapping[int, ProposalSet] | None = None,
    flow: FlowEstimator | None = None,
    online_steps: int | None = None,
    max_objects: int | None = None,
    mixed_precision: bool = False,
    seed: int = 0,
) -> Iterator[StepResult]:
    """The masks of some objects in every frame of a video, from those in its first.

    Args:
        video: a video file, a folder of pictures, or the frames themselves, each as :meth:`VideoSegmenter.step` takes
            it. They are read one by one.
        masks: label map [H, W] of the first frame or its file (0 is background, other values are object ids), or maps
            by number of frame, whose later ones add or correct objects.
        model: a model on any device, or a checkpoint; ``"shipped"`` is the one that comes with the package.
        proposals: from outside, by number of frame; none: the segmentation network makes them.
        flow: estimator of the backward flow; none: DIS.
        online_steps: of learning on the first frame; none: as many as the model's configuration says. The model itself
            stays as it is.
        max_objects: bounds memory: most objects at once; none: all.
        mixed_precision: run the segmentation network in bfloat16.
        seed: of everything random.

    Yields:
        One result a frame, whose ``labels`` [H, W] are the object ids.

    Raises:
        InputError: a file cannot be read, or frames and masks do not fit.

    Example:
        >>> for result in segment_video("holiday.mp4", "first.png"):
        ...     result.labels
    """
    model = model if isinstance(model, STGNet) else load_model(model)
    paths = (str, os.PathLike)
    frames = (image for _, image in open_source(Path(video))) if isinstance(video, paths) else video
    given = masks if isinstance(masks, Mapping) else {0: read_label_map(masks) if isinstance(masks, paths) else masks}
    if 0 not in given:
        raise InputError(f"the masks are of frames {sorted(given)}: give that of frame 0")
    steps = model.config.online.steps if online_steps is None else online_steps
    stream: VideoSegmenter | None = None
    for t, image in enumerate(frames):
        if stream is None:
            adapted = _adapted(model, image, given[0], steps, mixed_precision, seed)
            options = {"flow": flow, "mixed_precision": mixed_precision, "seed": seed}
            if max_objects is None:
                stream = VideoSegmenter(adapted, **options)  # type: ignore[arg-type]
            else:
                stream = GroupedSegmenter(adapted, max_objects=max_objects, **options)
        yield stream.step(image, None if proposals is None else proposals[t], given.get(t))


def _adapted(model: STGNet, image: Image, labels: Image, steps: int, mixed_precision: bool, seed: int) -> STGNet:
    """A model whose networks have learned on the first frame; the same one where there is nothing to learn."""
    if not steps or model.segmentation is None:
        return model
    device, online = next(model.parameters()).device, model.config.online
    lucid = LucidConfig(size=model.crop_size, dream_share=online.dream_share)
    about = (device, seed, mixed_precision, online.layers, online.enough)
    lesson = Lesson(steps, None, lucid, online.batch, online.rate, *about)
    array, tensor = image_forms(image, torch.device("cpu"))
    ids = np.zeros(array.shape[:2], np.uint8)
    for obj_id, mask in given_masks(labels, tensor).items():
        ids[mask.numpy() > 0] = obj_id
    adapted = copy.copy(model)
    adapted._modules = dict(model._modules)
    adapted.put(adapted_networks(model, [array], [ids], lesson))
    return adapted
