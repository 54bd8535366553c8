"""Frames with things of one colour, and networks that find them by it, for the tests of the guided proposals."""

import torch
from torch import nn

from stg_pyg.nn.backbones.segmentation import SegmentationOutput
from stg_pyg.ops.crops import IMAGE_MEAN, IMAGE_STD
from stg_pyg.proposals.guided import GuidedProposer

HEIGHT, WIDTH, SIZE, MARGIN = 64, 96, 32, 0.25
RED, GREEN, BLUE = (0.9, 0.1, 0.1), (0.1, 0.8, 0.2), (0.1, 0.2, 0.7)


class Rule(nn.Module):
    """A network that says what a function of the crops and Q says."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, images, q):
        mean, std = images.new_tensor(IMAGE_MEAN)[:, None, None], images.new_tensor(IMAGE_STD)[:, None, None]
        return SegmentationOutput(*self.rule(images * std + mean, q))


def colour_rule(*channels, quality=1.0):
    """Object is where one of the channels is far above the others; the more there is, the surer."""

    def rule(images, q):
        others = [images[:, [other for other in range(3) if other != c]].amax(dim=1) for c in channels]
        logits = torch.stack([40 * (images[:, c] - o - 0.3) for c, o in zip(channels, others, strict=True)]).amax(dim=0)
        share = (logits > 0).float().mean(dim=(1, 2))
        return logits, torch.where(share > 0, quality + 3 * share, -6.0)

    return rule


def repeat_q(images, q):
    return 20 * (q - 0.5), q.mean(dim=(1, 2))


def proposer(rule=None, size=SIZE, margin=MARGIN):
    return GuidedProposer(Rule(rule or colour_rule(0)), size, margin)


def box_mask(x0, y0, x1, y1):
    mask = torch.zeros(HEIGHT, WIDTH)
    mask[y0:y1, x0:x1] = 1
    return mask


def scene(*things):
    """A blue frame with (box, colour) on it, the later ones in front."""
    image = torch.tensor(BLUE)[:, None, None].repeat(1, HEIGHT, WIDTH)
    for box, colour in things:
        image = torch.where(box_mask(*box) > 0.5, torch.tensor(colour)[:, None, None], image)
    return image


def iou(a, b):
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum())
