"""The objects of a frame merged into one label map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stg_pyg.errors import InputError

EPS = 0.01


def merge_objects(
    masks: Tensor, obj_ids: Sequence[int], thr: float = 0.5, prior: Tensor | None = None, weight: float = 0.0
) -> Tensor:
    r"""The label map of soft masks: of the objects with :math:`h > thr` the one with the highest :math:`h`, or with a
    prior :math:`q` the highest :math:`\mathrm{logit}\, h + w\, \mathrm{logit}\, q`; else background 0.

    Args:
        masks: [K, H, W] soft masks h of the objects, or bool; K may be 0.
        obj_ids: K ids of the user in 1..255, in any order, gaps allowed.
        thr: the threshold of the output.
        prior: [K, H, W] of what speaks for each object beside h, as Q; both are kept within 0.01 of the bounds.
        weight: w.

    Returns:
        [H, W] uint8 of object ids on the device of ``masks``. The first object wins a tie.

    Raises:
        InputError: when the ids are not K different integers in 1..255.
    """
    ids = [int(i) for i in obj_ids]
    if masks.ndim != 3 or len(ids) != len(masks):
        raise InputError(f"masks of objects must be [K, H, W] for {len(ids)} object ids, not {list(masks.shape)}")
    bad = [i for i in ids if not 1 <= i <= 255]
    if bad or len(set(ids)) < len(ids):
        raise InputError(f"object ids must be different integers in 1..255, not {bad or ids}: renumber the objects")
    if not ids:
        return torch.zeros(masks.shape[1:], dtype=torch.uint8, device=masks.device)
    height = masks if masks.is_floating_point() else masks.to(torch.float32)
    claimed = height > thr
    if prior is not None and weight:
        height = (height.logit(EPS) + weight * prior.logit(EPS)).where(claimed, -torch.inf)
    labels = torch.tensor(ids, dtype=torch.uint8, device=masks.device)
    return labels[height.argmax(dim=0)] * claimed.any(dim=0)
