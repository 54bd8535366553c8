"""Online learning of the memory keys: what Eq. 7 retrieves from the first frame, trained on dreams of it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stg_pyg.learning.first_frame import Schedule, train_mode
from stg_pyg.learning.steps import drawn_from
from stg_pyg.lucid.dreamer import Dreamer
from stg_pyg.model.losses import ONLINE_REMEDY, check_finite
from stg_pyg.ops.crops import crop_windows, normalize_image

DRAWS = 20


@torch.inference_mode(False)
def learn_keys_online(
    encoder: nn.Module,
    attention: nn.Module,
    image: np.ndarray,
    labels: np.ndarray,
    *,
    crop_size: int,
    margin: float,
    steps: int,
    peak: float,
    device: torch.device,
    seed: int = 0,
    seconds: float | None = None,
) -> nn.Module:
    r"""A copy of the key encoder, trained so that Eq. 7 carries the mask of a dreamt frame to the next one.

    Of a pair of dreamt frames the first, with its mask :math:`H^r`, is the memory and the second, with its mask
    :math:`H`, is to be retrieved:

    .. math:: L = \mathrm{BCE}\Big(\textstyle\sum_j \mathrm{softmax}_j(k_i \cdot k^r_j / \tau)\, H^r_j,\; H_i\Big)

    Args:
        attention: how keys are compared; not trained. One without ``messages`` does not say how, and the keys stay, as
            do those of an encoder without weights of its own.
        image, labels: uint8 [H, W, 3], and object ids uint8 [H, W].
        crop_size, margin: side of the crops, and their margin as a share of the box.
        steps, seconds: most steps, of one pair each, and most seconds, None: as long as the steps take.
    """
    adapted = copy.deepcopy(encoder).to(device)
    learns = next(encoder.parameters(), None) is not None
    if steps <= 0 or not labels.any() or not hasattr(attention, "messages") or not learns:
        return adapted.eval()
    train_mode(adapted)
    optimizer = torch.optim.Adam(adapted.parameters(), lr=peak)
    dreamer, schedule = Dreamer(image, labels), Schedule(steps, peak, seconds)
    for step in range(steps):
        rate = schedule.rate(step)
        pair = _draw(np.random.default_rng([seed, 2, step]), dreamer, crop_size, margin, device)
        if rate is None or pair is None:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.enable_grad(), drawn_from(device, seed, 5, step):
            loss = retrieval_loss(adapted, attention, *pair)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            check_finite({"retrieval": float(loss.detach())}, "online learning of the keys", ONLINE_REMEDY)
            nn.utils.clip_grad_norm_(adapted.parameters(), 1.0)
            optimizer.step()
    return adapted.eval()


def retrieval_loss(encoder: nn.Module, attention: Any, crops: Tensor, masks: Tensor) -> Tensor:
    """The loss of :func:`learn_keys_online` for the normalised crops [2, 3, S, S] of a memory and of the current frame
    with their masks [2, S, S]."""
    keys = encoder(crops)
    values = F.interpolate(masks[:, None], keys.shape[-2:], mode="area")[:, 0]
    edge_index = torch.zeros(2, 1, dtype=torch.long, device=keys.device)
    found = attention.messages(keys[1:], values[:1], keys[:1], edge_index)
    return F.binary_cross_entropy(found.clamp(1e-4, 1 - 1e-4), values[1:])


def _draw(
    rng: np.random.Generator, dreamer: Dreamer, crop_size: int, margin: float, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """Crops [2, 3, S, S] and masks [2, S, S] of an object in two dreamt frames; none where none stays in sight."""
    for _ in range(DRAWS):
        dream = dreamer.dream(rng)
        boxes = [dreamer.box(scene, dream.focus) for scene in (dream.previous, dream.current)]
        if boxes[0] is None or boxes[1] is None:
            continue
        windows = crop_windows(torch.from_numpy(np.stack([boxes[0], boxes[1]])).float(), margin)
        crops, masks = [], []
        for scene, window in zip((dream.previous, dream.current), windows, strict=True):
            x0, y0, x1, y1 = window.tolist()
            to_frame = np.array([[(x1 - x0) / crop_size, 0, x0], [0, (y1 - y0) / crop_size, y0]])
            seen = dreamer.render(scene, to_frame, (crop_size, crop_size), dream.focus)
            crops.append(torch.from_numpy(seen.image).permute(2, 0, 1).float() / 255)
            masks.append(torch.from_numpy(seen.mask).float() / 255)
        return normalize_image(torch.stack(crops)).to(device), torch.stack(masks).to(device)
    return None
