"""Colours of an object and of its surroundings, learned from its first frame: a voice that does not come from Q."""

from __future__ import annotations

import weakref

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 16


class ColourModel:
    r"""Histograms of the colours inside and outside of a mask.

    .. math::
        P(\mathrm{object} \mid c) = \frac{h_1(c)}{h_1(c) + h_0(c)}

    with smoothed histograms :math:`h_1, h_0` of RGB in 16 x 16 x 16 bins, each normalised to 1, so that the posterior
    does not depend on how large the object is.

    Args:
        image: [3, H, W] RGB in [0, 1].
        mask: [H, W], bool or soft.
    """

    def __init__(self, image: Tensor, mask: Tensor):
        inside = mask.to(image.dtype).flatten()
        bins = _bins(image).flatten()
        histograms = []
        for weight in (inside, 1 - inside):
            counts = torch.zeros(BINS**3, dtype=image.dtype, device=image.device).index_add_(0, bins, weight)
            counts = counts.view(1, 1, BINS, BINS, BINS)
            for _ in range(2):
                counts = F.avg_pool3d(counts, 3, stride=1, padding=1, count_include_pad=False)
            histograms.append(counts.flatten() / counts.sum().clamp(min=1e-6))
        foreground, background = histograms
        self.posterior_of_bin = (foreground + 1e-6) / (foreground + background + 2e-6)

    def posterior(self, image: Tensor) -> Tensor:
        """P(object | colour) [H, W] of every pixel of an image [3, H, W]."""
        return self.posterior_of_bin[_bins(image)]

    def likeness(self, image: Tensor, masks: Tensor) -> Tensor:
        """Mean posterior [N] inside masks [N, H, W]; 0 for an empty mask."""
        masks = masks.to(image.dtype).flatten(1)
        return (masks @ self.posterior(image).flatten()) / masks.sum(dim=1).clamp(min=1.0)


_latest: tuple[weakref.ref[Tensor], int, Tensor] | None = None


def _bins(image: Tensor) -> Tensor:
    """The bin [H, W] of every pixel; those of the latest image are kept, as all objects of a frame ask for them."""
    global _latest
    if _latest is not None and _latest[0]() is image and _latest[1] == image._version:
        return _latest[2]
    levels = (image * BINS).long().clamp(0, BINS - 1)
    bins = (levels[0] * BINS + levels[1]) * BINS + levels[2]
    _latest = weakref.ref(image), image._version, bins
    return bins
