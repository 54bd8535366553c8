"""A small detector and its preset."""

import dataclasses

import torch

from experiments.common.presets import PRESETS
from stg_pyg.nn.detector.mask_rcnn import Detector

TINY = dataclasses.replace(
    PRESETS["synthetic-small"], detector_width=8, detector_size=48, detector_steps=4, detector_batch_size=2
)


def make(seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return Detector.small(8, 48)
