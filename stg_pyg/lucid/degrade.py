"""Masks as wrong as those that propagation delivers."""

from __future__ import annotations

import cv2
import numpy as np

from stg_pyg.lucid.layers import box_of


def warp_by_flow(current: np.ndarray, previous: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask of the previous crop, warped to the current one by DIS flow between the two."""
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow = estimator.calc(
        cv2.cvtColor(current, cv2.COLOR_RGB2GRAY),
        cv2.cvtColor(previous, cv2.COLOR_RGB2GRAY),
        None,  # type: ignore[call-overload]
    )
    rows, columns = np.indices(mask.shape, dtype=np.float32)
    return np.asarray(cv2.remap(mask, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR))


def deform(rng: np.random.Generator, mask: np.ndarray, strength: float) -> np.ndarray:
    """A mask under a random similarity and a smooth random displacement, as an object deforms between two frames."""
    size = mask.shape[0]
    matrix = cv2.getRotationMatrix2D(
        (size / 2, size / 2), rng.normal(0, 6 * strength), np.exp(rng.normal(0, 0.08 * strength))
    )
    shift = rng.normal(0, 0.035 * strength * size, 2)
    coarse = rng.normal(0, 0.022 * strength * size, (2, 5, 5)).astype(np.float32)
    field = [cv2.resize(c, (size, size), interpolation=cv2.INTER_CUBIC) for c in coarse]
    rows, columns = np.indices(mask.shape, dtype=np.float32)
    xs = matrix[0, 0] * columns + matrix[0, 1] * rows + matrix[0, 2] + shift[0] + field[0]
    ys = matrix[1, 0] * columns + matrix[1, 1] * rows + matrix[1, 2] + shift[1] + field[1]
    return np.asarray(cv2.remap(mask, xs.astype(np.float32), ys.astype(np.float32), cv2.INTER_LINEAR))


def misplace(rng: np.random.Generator, q: np.ndarray) -> np.ndarray:
    """A mask moved by a quarter to two thirds of its side in some direction."""
    return np.asarray(cv2.warpAffine(q, draw_shift(rng, len(q), 0.25, 0.7), q.shape))


def draw_shift(rng: np.random.Generator, size: int, low: float, high: float) -> np.ndarray:
    """2 x 3 matrix of a shift in some direction by ``low`` to ``high`` of a side."""
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(low, high) * size
    return np.array([[1, 0, np.cos(angle) * distance], [0, 1, np.sin(angle) * distance]])


def corrupt_mask(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """A mask [H, W] in [0, 1] of a frame with patches added and taken away around the object, as after drift."""
    box = box_of(mask)
    if box is None:
        return mask
    low, size = box[:2], box[2:] - box[:2]
    result = np.ascontiguousarray(mask, dtype=np.float32).copy()
    for _ in range(int(rng.integers(1, 5))):
        center = (low + rng.uniform(-0.15, 1.15, 2) * size).astype(int).tolist()
        axes = np.maximum(rng.uniform(0.08, 0.35, 2) * size, 1).astype(int).tolist()
        cv2.ellipse(result, center, axes, float(rng.uniform(0, 180)), 0, 360, 1.0 if rng.random() < 0.6 else 0.0, -1)
    return result if result.any() else mask
