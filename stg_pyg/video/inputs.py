"""What a step of a video is given: read in any of its forms, and refused where its values cannot be meant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from stg_pyg.errors import InputError
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.outside import ProposalSet

ROUNDING = 1e-3
"""How far values may be outside of [0, 1]."""


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Within ``torch.inference_mode()`` what ``torch.no_grad()`` is, as tensors of that mode can neither be written to
    later nor be learned from."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            yield
    else:
        yield


def image_forms(image: ArrayLike | Tensor, device: torch.device) -> tuple[np.ndarray, Tensor]:
    """The frame as uint8 [H, W, 3] for the flow and as float [3, H, W] for the network.

    Args:
        image: uint8 [H, W, 3], an array or what NumPy makes one of, as a picture of PIL, or a float tensor [3, H, W].

    Raises:
        InputError: the shape, the type or the range of values is another.
    """
    if not isinstance(image, Tensor):
        array = np.array(image, order="C")  # a copy, as the caller may use the memory for the next frame
        if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
            raise InputError(f"an image must be RGB, uint8 [H, W, 3], not {array.dtype} {list(array.shape)}")
        return array, torch.from_numpy(array).to(device).permute(2, 0, 1).float() / 255
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise InputError(f"an image tensor must be float [3, H, W] in [0, 1], not {image.dtype} {list(image.shape)}")
    low, high = _range(image)
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise InputError(f"an image tensor must be in [0, 1], not in [{low:g}, {high:g}]: divide by 255, or clamp it")
    array = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    own = image.clone() if image.is_inference() else image
    return array, own.to(device, torch.float32)


def given_masks(masks: ArrayLike | Tensor, image: Tensor) -> dict[int, Tensor]:
    """Masks [H, W] of the objects of a label map [H, W] by their ids, of the device and the dtype of ``image``.

    Raises:
        InputError: the map is of another size than ``image`` [3, H, W], or holds what is no id.
    """
    labels = masks if isinstance(masks, Tensor) else torch.from_numpy(_label_array(masks))
    if labels.shape != image.shape[1:]:
        size, wanted = " x ".join(map(str, labels.shape)), f"{image.shape[1]} x {image.shape[2]}"
        raise InputError(f"the mask is {size} and the image {wanted} (height x width): they must be equal")
    labels = labels.to(image.device)
    values = labels.unique().tolist()
    if wrong := [value for value in values if not (0 <= value <= 255 and value == int(value))]:
        raise InputError(f"the mask has the value {wrong[0]:g}: object ids must be 1 to 255, whole, and 0 elsewhere")
    return {int(value): (labels == value).to(image.dtype) for value in values if value}


def check_proposals(proposals: ProposalSet, image: Tensor) -> None:
    """Raises an InputError if proposals are not of the size of an image [3, H, W] or have masks outside of [0, 1]."""
    if proposals.size != tuple(image.shape[1:]):
        size, wanted = (f"{w} x {h}" for h, w in (proposals.size, image.shape[1:]))
        raise InputError(f"the proposals are for frames of {size} pixels and the frame is {wanted}")
    if isinstance(proposals, Proposals) and proposals.masks.is_floating_point():
        low, high = _range(proposals.masks)
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise InputError(f"masks of proposals must be bool or in [0, 1], not in [{low:g}, {high:g}]")


def _range(values: Tensor) -> list[float]:
    """The least and the largest value, NaN where there is any, 0 of nothing."""
    return torch.stack(values.detach().aminmax()).tolist() if values.numel() else [0.0, 0.0]


def _label_array(masks: ArrayLike) -> np.ndarray:
    array = np.array(masks, order="C")
    if array.dtype.kind not in "buif":
        raise InputError(f"a mask must be an array of object ids [H, W], not {type(masks).__name__} of {array.dtype}")
    return array.astype(np.int64) if array.dtype.kind == "u" and array.itemsize > 1 else array
