import pytest
import torch
from torch.testing import assert_close

from experiments.benchmark import layers, measure
from experiments.benchmark.layers import SPATIAL, SWEEPS, TEMPORAL, Inputs, Size, spatial_case, temporal_case
from experiments.benchmark.measure import Case, first_call, tensors_of

CPU = torch.device("cpu")
MASKS = Size(3, 4, 20, 30)


def case(call=lambda: None, needed_mb=0.0, copy=lambda: None):
    return Case({}, call, copy, needed_mb, ())


def test_all_backends_give_the_same_masks():
    inputs = Inputs(MASKS, CPU)
    (expected,) = spatial_case(inputs, "stg", "edgewise").call()
    for backend in ("fused", "closed", "region+frame"):
        assert_close(spatial_case(inputs, "stg", backend).call(), expected)
    for backend in ("region", "region+find"):
        assert_close(spatial_case(inputs, "stg", backend).call().to_frame(), expected)


def test_edgewise_takes_one_object_at_a_time_where_memory_is_short(monkeypatch):
    inputs = Inputs(MASKS, CPU)
    whole = spatial_case(inputs, "stg", "edgewise")
    monkeypatch.setattr(layers, "room_mb", lambda _: 0.7 * whole.needed_mb)
    parts = spatial_case(inputs, "stg", "edgewise")
    assert (whole.row["parts"], parts.row["parts"]) == (1, 3)
    assert parts.needed_mb == pytest.approx(whole.needed_mb / 3)
    assert_close(torch.cat(parts.call()), torch.cat(whole.call()))


@pytest.mark.parametrize("name", [name for name in SPATIAL if name not in ("gru", "GCNConv", "GraphConv")])
def test_layers_inside_of_windows_give_the_same_masks(name):
    inputs = Inputs(MASKS, CPU)
    results = []
    for backend in ("region", "auto"):
        torch.manual_seed(0)
        results.append(spatial_case(inputs, name, backend).call())
    assert_close(results[0].to_frame(), results[1])


@pytest.mark.parametrize("name", TEMPORAL)
def test_temporal_layers(name):
    found = temporal_case(name, 2, 3, CPU)
    assert found.row["memory_frames"] == 3 and found.call().shape == (2, 32, 32)


def test_inputs():
    inputs = Inputs(Size(2, 3, 100, 200, side=0.5, scale=0.5), CPU)
    assert inputs.graphs.x.shape == (6, 1, 50, 100) and inputs.graphs.num_edges == 2 * 6
    assert sum(inputs.layout.columns) == 2 * 25 * 50
    assert_close(inputs.inside.to_frame(), inputs.graphs.x)


def test_windows_of_the_objects_sweep_stay_below_the_size_that_is_mapped_anew():
    _, counts, _, changes = SWEEPS["objects"]
    assert max(counts) * 20 * round(480 * changes["side"]) * round(854 * changes["side"]) * 4 < 32 * 2**20


def test_peak_counts_what_is_alive_at_once():
    def call():
        for _ in range(3):
            part = torch.empty(2**20, dtype=torch.uint8)
        return part, torch.empty(3 * 2**20, dtype=torch.uint8)

    assert 4 <= first_call(call, CPU)[0] <= 5.1
    inputs = Inputs(Size(2, 6, 100, 200, side=0.5), CPU)
    frame = inputs.graphs.x.nbytes / 2**20
    with torch.no_grad():
        calls = {name: spatial_case(inputs, "stg", name).call for name in ("edgewise", "closed", "region")}
        peaks = {name: first_call(call, CPU)[0] for name, call in calls.items()}
    assert peaks["edgewise"] > 5 * frame and frame <= peaks["closed"] < 1.2 * frame and peaks["region"] < 0.8 * frame


def test_gradients_of_masks_and_weights():
    found = spatial_case(Inputs(MASKS, CPU), "gru")
    with torch.no_grad():
        masks, *weights = found.with_gradients()
    assert masks.shape == (12, 1, 20, 30) and bool(masks.any()) and weights
    linear = spatial_case(Inputs(MASKS, CPU), "stg", "closed")
    (masks,) = linear.with_gradients()
    assert float(masks.sum()) == pytest.approx(12 * 600, rel=1e-4), "rows of A sum to 1"


def test_slow_calls_run_once_and_large_ones_not_at_all(monkeypatch):
    calls = []
    cases = [case(lambda: calls.append("fast")), case(lambda: calls.append("large"), needed_mb=1e9)]
    rows = measure.measure(cases, 3, CPU)
    assert [row["repetitions"] for row in rows] == [3, 0] and calls == ["fast"] * 7, "warm before each but the first"
    assert "may need" in rows[1]["skipped"] and rows[1]["ms"] is None and rows[0]["skipped"] is None
    monkeypatch.setattr(measure, "SLOW", -1.0)
    (row,) = measure.measure([case()], 3, CPU)
    assert row["repetitions"] == 1 and row["ms"] > 0


def test_ratios_are_of_one_run_in_turns(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(measure, "timer", lambda: now[0])

    def call(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return run

    copy = call("c", 0.25)
    rows = measure.measure([case(call("a", 0.5), copy=copy), case(call("b", 0.75), copy=copy)], 2, CPU)
    assert "".join(order) == "ab" + 2 * "aabbcc", "the copy that both share once a turn"
    assert [row["ms"] for row in rows] == [500, 750] and [row["ratio_to_copy"] for row in rows] == [2, 3]


def test_speedups_and_exponents():
    keys = {"group": "objects", "layer": "stg", "device": "cpu", "proposals": 1, "height": 1, "width": 1}
    keys |= {"region_pixels": 9, "steps": 2}
    times = {"edgewise": (40.0, 80.0, None), "region": (4.0, 4.0, 8.0)}
    rows = [
        {**keys, "backend": name, "objects": n, "ms": ms}
        for name, found in times.items()
        for n, ms in zip((1, 2, 4), found, strict=True)
    ]
    layers.add_speedups(rows)
    assert [row["speedup_over_edgewise"] for row in rows] == [1, 1, None, 10, 20, None]
    edgewise, region = layers.fit_exponents(rows[::-1])[::-1]
    assert region["sizes"] == [1, 2, 4] and region["ms"] == [4, 4, 8] and region["last_over_first"] == 2
    assert region["exponent"] == pytest.approx(0.5) and region["last_exponent"] == pytest.approx(1)
    assert edgewise["exponent"] == pytest.approx(1)
    assert layers.fit_exponents(rows[:1])[0]["exponent"] is None


def test_tensors_of_results():
    regions = spatial_case(Inputs(MASKS, CPU), "stg", "region").call()
    one = torch.ones(2)
    assert tensors_of([one, (one,)]) == [one, one] and tensors_of(regions)[0] is regions.flat
