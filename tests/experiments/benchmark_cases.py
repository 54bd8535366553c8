"""Results of measurements that did not take place."""

from typing import Any


def row(**changes: Any) -> dict[str, Any]:
    """A row of the main group."""
    values = {"group": "main", "layer": "stg", "backend": "region", "device": "cpu", "objects": 8, "proposals": 20}
    values |= {"height": 480, "width": 854, "steps": 2, "frame_pixels": 480 * 854, "region_pixels": 9, "parts": 1}
    values |= {"memory_frames": None, "input_mb": 250.0, "ms": 20.0, "ms_low": 19.0, "ms_high": 22.0, "copy_ms": 10.0}
    values |= {"ratio_to_copy": 2.0, "peak_mb": 25.0, "result_mb": 24.0, "repetitions": 11, "skipped": None}
    return values | {"speedup_over_edgewise": 150.0} | changes


def fit(**changes: Any) -> dict[str, Any]:
    """A fit of growth."""
    values = {"growth_in": "objects", "layer": "stg", "backend": "region", "device": "cpu", "sizes": (1, 2, 4)}
    values |= {"ms": (1.0, 2.0, 4.0), "result_mb": (20.0, 40.0, 80.0)}
    return values | {"exponent": 1.0, "last_exponent": 1.0} | changes


def frame(**changes: Any) -> dict[str, Any]:
    """A row of frames."""
    values = {"proposals": "stored", "device": "cpu", "objects": 3, "nodes": 20.0, "height": 480, "width": 854}
    values |= {"frames": 10, "ms": 100.0, "ms_low": 90.0, "ms_high": 110.0, "fps": 10.0, "graph_share": 0.1}
    values |= {"stages": {"flow": 60.0, "spatial": 4.0, "temporal": 6.0, "rest": 30.0}}
    return values | {"clip": "a", "source": "b", "checkpoint": "c"} | changes


def pair(ratio: float = 1.02) -> dict[str, Any]:
    """A comparison of l = 3 with l = 1."""
    values = {"name": "l = 3 over l = 1", "layer": "stg", "backend": "region", "device": "cpu", "ratio": ratio}
    return values | {"ratio_low": ratio - 0.1, "ratio_high": ratio + 0.1, "pairs": 61}


def result(**changes: Any) -> dict[str, Any]:
    """The content of benchmark.json, with a main case that does what is due."""
    edgewise = row(backend="edgewise", ms=3000.0, speedup_over_edgewise=1.0, repetitions=1, parts=2)
    growth = [fit(), fit(growth_in="region_pixels"), fit(growth_in="memory_frames", layer="joint", backend="auto")]
    values: dict[str, Any] = {"machine": {}, "machines": {"layers": {"threads": 1}}, "claims": []}
    values |= {"rows": [row(), edgewise], "growth": growth, "paired": [pair()]}
    return values | {"frames": [frame()], "options": [], "scores": []} | changes
