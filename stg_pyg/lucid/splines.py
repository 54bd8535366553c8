"""Smooth deformations of the plane, and their maps for ``cv2.remap``."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.floating]


def apply(matrix: FloatArray, point: FloatArray) -> FloatArray:
    """The point(s) [..., 2] under an affine map [2 or 3, 3]."""
    return np.asarray(point @ matrix[:2, :2].T + matrix[:2, 2])


def center_of(box: FloatArray) -> FloatArray:
    return np.asarray((box[:2] + box[2:]) / 2)


class ThinPlateSpline:
    r"""The smoothest function of the plane with given values at given points.

    .. math::
        f(p) = a + B p + \sum_k w_k \, U(\lVert p - c_k \rVert), \qquad U(r) = r^2 \log r^2

    of least bending energy with :math:`f(c_k) = v_k` (Bookstein, PAMI 1989).

    Args:
        points: control points c [K, 2], at least three of them not on one line.
        values: v [K, C].

    Raises:
        ValueError: the shapes do not fit, or the points do not determine the function.
    """

    def __init__(self, points: ArrayLike, values: ArrayLike):
        self.points, v = np.asarray(points, dtype=np.float64), np.asarray(values, dtype=np.float64)
        if self.points.ndim != 2 or self.points.shape[1] != 2 or v.ndim != 2 or len(v) != len(self.points):
            raise ValueError(f"points {self.points.shape} and values {v.shape}: expected [K, 2] and [K, C]")
        affine = np.column_stack([np.ones(len(v)), self.points])
        system = np.block([[self._kernel(self.points), affine], [affine.T, np.zeros((3, 3))]])
        try:
            self._weights = np.linalg.solve(system, np.concatenate([v, np.zeros((3, v.shape[1]))]))
        except np.linalg.LinAlgError as error:
            raise ValueError("the control points coincide or are on one line") from error

    def _kernel(self, p: FloatArray) -> FloatArray:
        square = ((p[:, None] - self.points[None]) ** 2).sum(axis=2)
        return np.asarray(square * np.log(np.maximum(square, 1e-30)))

    def __call__(self, p: FloatArray) -> FloatArray:
        """Values [N, C] at points [N, 2]."""
        count = len(self.points)
        result = self._kernel(p) @ self._weights[:count]
        return np.asarray(result + self._weights[count] + p @ self._weights[count + 1 :])


@lru_cache(maxsize=64)
def interpolation_matrix(size: int, nodes: int) -> NDArray[np.float32]:
    """[size, nodes] weights that interpolate linearly between nodes spread evenly from the first to the last pixel."""
    place = np.linspace(0, nodes - 1, size)
    weights = np.maximum(1 - np.abs(place[:, None] - np.arange(nodes)), 0).astype(np.float32)
    weights.flags.writeable = False
    return weights


def node_grid(shape: tuple[int, int], spacing: int = 8) -> tuple[FloatArray, tuple[int, int]]:
    """Points (x, y) [N, 2] about ``spacing`` pixels apart on pixel centres of a picture, and how many down and across.

    Pixel (i, j) has its centre at (j + 0.5, i + 0.5).
    """
    counts = tuple(max(-(-(side - 1) // spacing) + 1, 2) for side in shape)
    ys, xs = (np.linspace(0.5, side - 0.5, count) for side, count in zip(shape, counts, strict=True))
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2), (counts[0], counts[1])


def dense_map(
    values: FloatArray, counts: tuple[int, int], shape: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The two maps [H, W] of ``cv2.remap`` from values [N, 2] on the nodes of :func:`node_grid`."""
    grid = values.astype(np.float32).reshape(*counts, 2)
    down, across = (interpolation_matrix(side, count) for side, count in zip(shape, counts, strict=True))
    xs, ys = (np.asarray(down @ grid[..., axis] @ across.T, np.float32) for axis in (0, 1))
    return xs, ys
