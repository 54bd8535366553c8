"""Small videos, networks and flow for the tests of the streaming object."""

import numpy as np
import torch
from torch import nn

from stg_pyg import Proposals, STGConfig, STGNet, VideoSegmenter
from stg_pyg.nn.backbones.encoders import KeyEncoder, ProposalEncoder, SmallBackbone
from stg_pyg.nn.backbones.segmentation import SegmentationOutput
from stg_pyg.ops.crops import IMAGE_MEAN, IMAGE_STD

HEIGHT, WIDTH = 48, 64
PLAIN = STGConfig().replace({"selection.thr": 0.5, "temporal.enabled": False})


class RedRule(nn.Module):
    """A segmentation network that says object to all that is red."""

    def forward(self, images, q):
        images = images * images.new_tensor(IMAGE_STD)[:, None, None] + images.new_tensor(IMAGE_MEAN)[:, None, None]
        logits = 40 * (images[:, 0] - images[:, 1:].amax(dim=1) - 0.3)
        return SegmentationOutput(logits, (logits > 0).float().mean(dim=(1, 2)) * 4)


class Shift:
    """Flow of a scene that moves as a whole by some pixels a frame; it notes the frames it is given."""

    def __init__(self, x=0.0, y=0.0):
        self.step = (x, y)
        self.calls = []

    def __call__(self, current, previous):
        self.calls.append((current, previous))
        return np.broadcast_to(np.float32([-self.step[0], -self.step[1]]), (*current.shape[:2], 2)).copy()


def tiny(config=PLAIN, segmentation=None, seed=0):
    torch.manual_seed(seed)
    return STGNet(
        config.replace("temporal.key_size", 32),
        ProposalEncoder(SmallBackbone(4, 8), mode="crop", pool="mask", out_features=8, size=32),
        KeyEncoder(SmallBackbone(4, 8), 8, grid=8),
        segmentation,
    ).eval()


def segmenter(config=PLAIN, segmentation=None, flow=None):
    return VideoSegmenter(tiny(config, segmentation), flow or Shift(), crop_size=32)


def square(x, y, side=14):
    mask = torch.zeros(HEIGHT, WIDTH)
    mask[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)] = 1
    return mask


def picture(*masks):
    """A dim frame with noise and red objects, uint8 [H, W, 3]."""
    noise = np.random.default_rng(0).integers(40, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for mask in masks:
        noise[mask.numpy() > 0.5] = (230, 20, 20)
    return noise


def label_map(**masks):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name, mask in masks.items():
        labels[mask.numpy() > 0.5] = int(name[1:])
    return labels


def proposals(*masks):
    return Proposals.from_masks(torch.stack(masks))


def nothing():
    return Proposals.empty(HEIGHT, WIDTH)


def iou(a, b):
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0
