"""Features X of Eq. 3 and keys of Eq. 7 without a single weight: colours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stg_pyg.ops.crops import IMAGE_MEAN, IMAGE_STD


class ColourEncoder(nn.Module):
    r"""Square roots of colour histograms inside masks, for proposals from outside where no network is trained.

    .. math::
        X^v_c = \sqrt{h^v_c}, \qquad \cos(X^v, X^u) = \sum_c \sqrt{h^v_c h^u_c}

    The cosine of Eq. 3 is then the Bhattacharyya coefficient of the two histograms, in [0, 1]. It has the interface of
    :class:`stg_pyg.nn.backbones.encoders.ProposalEncoder`.

    Args:
        bins: levels of each of the three channels.

    Shapes:
        - input: image [3, H, W] normalised; boxes [N, 4], not used; masks [N, H, W].
        - output: [N, bins ** 3]; zeros for an empty mask.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, bins: int = 10):
        super().__init__()
        self.bins, self.out_features = bins, bins**3
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD)[:, None, None], persistent=False)

    def forward(self, image: Tensor, boxes: Tensor, masks: Tensor) -> Tensor:
        levels = ((image * self.std + self.mean) * self.bins).long().clamp(0, self.bins - 1)
        bin_of_pixel = ((levels[0] * self.bins + levels[1]) * self.bins + levels[2]).flatten()
        counts = image.new_zeros(len(masks), self.out_features)
        counts.index_add_(1, bin_of_pixel, masks.to(image.dtype).flatten(1))
        # Smoothing over neighbouring colours, as the light on an object changes.
        cube = counts.view(len(masks), 1, self.bins, self.bins, self.bins)
        smooth = F.avg_pool3d(cube, 3, stride=1, padding=1, count_include_pad=False).flatten(1)
        return (smooth / smooth.sum(dim=1, keepdim=True).clamp(min=1e-6)).sqrt()


class ColourKeys(nn.Module):
    """Keys that are the mean colours of a grid, with the interface of
    :class:`stg_pyg.nn.backbones.encoders.KeyEncoder`.

    Args:
        grid: g, side of the grid.

    Shapes:
        - input: normalised crops [N, 3, S, S].
        - output: [N, 3, g, g].
    """

    out_channels = 3

    def __init__(self, grid: int = 32):
        super().__init__()
        self.grid = grid

    def forward(self, crops: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(crops, self.grid)
