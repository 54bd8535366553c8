"""The motion model: where an object is expected from where it was (Eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stg_pyg.ops.boxes import box_center_size, boxes_from_center_size


class MotionModel:
    r"""Average velocity and size of the last :math:`n` steps (Eq. 2 of Liu et al., AAAI 2021, arXiv:2012.05499).

    .. math::
        c_t = c_{t-1} + \frac{1}{n} \sum_{r=t-n}^{t-1} (c_r - c_{r-1}), \qquad
        s_t = \frac{1}{n} \sum_{r=t-n}^{t-1} s_r

    with centers :math:`c` and sizes :math:`s` of the boxes. Fewer than :math:`n + 1` past boxes: the steps there are;
    with one box the velocity is 0. Frames without the object are not part of the history.

    Args:
        n: steps of the average.
    """

    def __init__(self, n: int = 10) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        self.n = n

    def predict(self, boxes: Tensor) -> Tensor:
        """The box [4] in pixels, of the dtype of ``boxes``.

        Args:
            boxes: [T, 4] past boxes, oldest first, T >= 1.

        Raises:
            ValueError: when there is no past box or the shape is another.
        """
        boxes = _checked(boxes)
        center, size = box_center_size(boxes)
        steps = min(self.n, len(boxes) - 1)
        # The sum of the movements telescopes to the last center minus the first.
        velocity = (center[-1] - center[-1 - steps]) / max(steps, 1)
        return boxes_from_center_size(center[-1] + velocity, size[-self.n :].mean(dim=0))

    def predict_many(self, histories: Sequence[Tensor]) -> Tensor:
        """The boxes [K, 4] of K objects from their histories [T_k, 4], which may differ in length."""
        if len(histories) == 0:
            return torch.zeros(0, 4)
        return torch.stack([self.predict(boxes) for boxes in histories])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n={self.n})"


class LastBox(MotionModel):
    """No motion model: the object is expected where it was last (the row of Table 4 without motion)."""

    def predict(self, boxes: Tensor) -> Tensor:
        """The last of the past boxes [T, 4]; ValueError when there is none."""
        return _checked(boxes)[-1].clone()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _checked(boxes: Tensor) -> Tensor:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) == 0:
        raise ValueError(f"past boxes must be [T, 4] with T >= 1, not {list(boxes.shape)}")
    return boxes if boxes.is_floating_point() else boxes.to(torch.get_default_dtype())
