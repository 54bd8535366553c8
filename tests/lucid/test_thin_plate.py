import numpy as np
import pytest

from stg_pyg.lucid.splines import ThinPlateSpline, dense_map, interpolation_matrix, node_grid


def grid(n=4):
    side = np.linspace(-0.5, 0.5, n)
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def test_control_points_are_interpolated_and_affine_maps_reproduced_everywhere():
    rng = np.random.default_rng(0)
    points, values = rng.uniform(-3, 5, (20, 2)), rng.normal(size=(20, 2))
    np.testing.assert_allclose(ThinPlateSpline(points, values)(points), values, atol=1e-9)
    matrix, shift, p = rng.normal(size=(2, 2)), rng.normal(size=2), rng.uniform(-2, 2, (30, 2))
    spline = ThinPlateSpline(grid(), grid() @ matrix.T + shift)
    np.testing.assert_allclose(spline(p), p @ matrix.T + shift, atol=1e-9)


def test_value_by_hand():
    """Over the corners of a square, the values 1 and -1 on its diagonals leave 0 at its centre and its axes."""
    points = np.array([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
    spline = ThinPlateSpline(points, [[1.0], [-1], [-1], [1]])
    np.testing.assert_allclose(spline(np.array([[0.0, 0], [0.7, 0], [0, -0.3]])), 0, atol=1e-12)
    # w = 1 / (U(0) - 2 U(2) + U(sqrt 8)) with U(r) = r^2 log r^2
    weight = 1 / (8 * np.log(8) - 2 * 4 * np.log(4))
    square = ((np.array([0.5, 0.5]) - points) ** 2).sum(axis=1)
    expected = weight * (np.array([1, -1, -1, 1]) * square * np.log(square)).sum()
    np.testing.assert_allclose(spline(np.array([[0.5, 0.5]])), [[expected]], atol=1e-12)


@pytest.mark.parametrize(
    ("points", "values"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2))),
        (grid(), np.zeros((3, 2))),
        (np.array([[0.0, 0], [0, 0], [1, 0], [0, 1]]), np.zeros((4, 2))),
    ],
)
def test_what_determines_no_spline_is_refused(points, values):
    with pytest.raises(ValueError):
        ThinPlateSpline(points, values)


@pytest.mark.parametrize("shape", [(1, 1), (7, 30), (32, 17)])
def test_dense_map_is_linear_between_nodes(shape):
    nodes, counts = node_grid(shape)
    xs, ys = dense_map(nodes @ np.array([[2.0, 0], [1, 3]]), counts, shape)
    rows, columns = np.indices(shape) + 0.5
    assert xs.dtype == ys.dtype == np.float32
    np.testing.assert_allclose(xs, 2 * columns + rows, rtol=1e-5)
    np.testing.assert_allclose(ys, 3 * rows, rtol=1e-5)
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    np.testing.assert_allclose(interpolation_matrix(5, 3), expected)
