"""The paper's equations in float64 numpy with plain loops: slow, obvious, and independent of the library.

Liu et al., AAAI 2021, arXiv:2012.05499. Every function takes and returns float64 arrays.
"""

from __future__ import annotations

import numpy as np


def to_numpy(tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = np.sqrt((a * a).sum()) * np.sqrt((b * b).sum())
    return float((a * b).sum() / norms) if norms > 0 else 0.0


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def weight_matrix(feats: np.ndarray, boxes: np.ndarray, alpha: float) -> np.ndarray:
    """Eq. 3: W[v, u]."""
    n = len(feats)
    weights = np.zeros((n, n))
    for v in range(n):
        for u in range(n):
            if v != u:
                weights[v, u] = alpha * cosine(feats[v], feats[u]) + (1 - alpha) * box_iou(boxes[v], boxes[u])
    return weights


def dense_weights(edge_index: np.ndarray, edge_weight: np.ndarray, num_nodes: int) -> np.ndarray:
    """W[v, u] of an edge list with sources u in the first row and targets v in the second."""
    weights = np.zeros((num_nodes, num_nodes))
    for e in range(edge_index.shape[1]):
        weights[edge_index[1, e], edge_index[0, e]] += edge_weight[e]
    return weights


def mask_propagation(h: np.ndarray, weights: np.ndarray, num_steps: int) -> np.ndarray:
    """Eqs. 4 and 5 with W_vv = 0, for h [N, ...]."""
    h = np.array(h, dtype=np.float64)
    for _ in range(num_steps):
        new = np.empty_like(h)
        for v in range(len(h)):
            message, total = np.zeros_like(h[v]), 0.0
            for u in range(len(h)):
                message = message + weights[v, u] * h[u]
                total += weights[v, u]
            new[v] = (h[v] + message) / (1 + total)
        h = new
    return h


def memory_messages(
    key: np.ndarray, memory_masks: np.ndarray, memory_keys: np.ndarray, temperature: float = 1.0, unit: bool = False
) -> np.ndarray:
    """The terms of Eq. 7, one [h, w] map for each memory frame r."""
    height, width = key.shape[1:]
    pixels = [(y, x) for y in range(height) for x in range(width)]
    messages = np.zeros((len(memory_masks), height, width))
    for r in range(len(memory_masks)):
        for y, x in pixels:
            numerator = denominator = 0.0
            for yj, xj in pixels:
                a, b = key[:, y, x], memory_keys[r][:, yj, xj]
                logit = cosine(a, b) if unit else float((a * b).sum())
                numerator += np.exp(logit / temperature) * memory_masks[r][yj, xj]
                denominator += np.exp(logit / temperature)
            messages[r, y, x] = numerator / denominator
    return messages


def memory_attention(
    mask: np.ndarray, key: np.ndarray, memory_masks: np.ndarray, memory_keys: np.ndarray, **kwargs
) -> np.ndarray:
    """Eqs. 7 and 8 for one object."""
    messages = memory_messages(key, memory_masks, memory_keys, **kwargs)
    return (mask + messages.sum(axis=0)) / (len(memory_masks) + 1)
