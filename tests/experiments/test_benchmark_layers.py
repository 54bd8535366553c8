import pytest
import torch
from benchmark_cases import fit, row
from torch.testing import assert_close

from experiments.benchmark import cases as benchmark_cases_module
from experiments.benchmark import measure as benchmark_measure
from experiments.benchmark import memory
from experiments.benchmark.cases import Case, layer_case, region_case, stg_case
from experiments.benchmark.graphs import Graphs
from experiments.benchmark.groups import OTHER_LAYERS, main_cases
from experiments.benchmark.growth import exponent, fit_growth
from experiments.benchmark.measure import add_speedups, measure, paired_ratios
from experiments.benchmark.memory import peak_mb, result_mb
from experiments.benchmark.plan import DEFAULT, TINY
from experiments.benchmark.plots import draw_layers
from experiments.benchmark.report import markdown
from experiments.benchmark.temporal_cases import TEMPORAL_LAYERS, memory_case

CPU = torch.device("cpu")


def test_backends_of_the_main_group_give_the_same_masks():
    torch.manual_seed(0)
    by_backend = {case.row["backend"]: case.call() for case in main_cases(TINY, CPU)}
    expected = torch.cat(by_backend.pop("edgewise"))
    for backend in ("fused", "closed", "region+frame"):
        assert_close(by_backend[backend], expected)
    for backend in ("region", "region+find"):
        assert_close(by_backend[backend].to_frame(), expected)


def test_edgewise_runs_in_parts_where_memory_is_short(monkeypatch):
    graphs = Graphs.random(3, 4, 20, 30, CPU)
    whole = stg_case(graphs, "edgewise")
    monkeypatch.setattr(benchmark_cases_module, "room_mb", lambda _: 0.7 * whole.needed_mb)
    parts = stg_case(graphs, "edgewise")
    assert (whole.row["parts"], parts.row["parts"]) == (1, 2)
    assert parts.needed_mb == pytest.approx(2 / 3 * whole.needed_mb)
    assert_close(torch.cat(parts.call()), torch.cat(whole.call()))


def test_a_call_of_the_default_plan_has_room(monkeypatch):
    """Edgewise needs most; the largest frames of one object and the main case stay below 8 GiB."""
    monkeypatch.setattr(memory, "free_mb", lambda _: 64 * 1024.0)
    messages = 2 * (DEFAULT.proposals - 1) + 4
    one = messages * DEFAULT.proposals * 1080 * 1920 * 4 / 2**20
    assert one < memory.room_mb(CPU) < 8 * 1024


@pytest.mark.parametrize("name", ["stg", *(n for n in OTHER_LAYERS if n not in ("gru", "GCNConv", "GraphConv"))])
def test_layers_inside_of_windows_give_the_same_masks(name):
    graphs = Graphs.random(2, 3, 20, 30, CPU)
    torch.manual_seed(0)
    inside = region_case(graphs, name)
    torch.manual_seed(0)
    assert_close(inside.call().to_frame()[:, 0], layer_case(graphs, name).call())


def test_a_layer_without_windows_has_no_such_case():
    assert region_case(Graphs.random(1, 3, 8, 8, CPU), "gru") is None


@pytest.mark.parametrize("name", TEMPORAL_LAYERS)
def test_temporal_cases(name):
    case = memory_case(name, 2, 3, CPU)
    assert case.row["memory_frames"] == 3 and case.call().shape == (2, 32, 32)


def test_inputs():
    graphs = Graphs.random(3, 4, 20, 30, CPU)
    assert graphs.objects == 3 and [part.objects for part in graphs.parts(2)] == [2, 1]
    last = graphs.part(1, 3)
    assert last.x.data_ptr() == graphs.x[4:].data_ptr() and last.batch.tolist() == [0] * 4 + [1] * 4
    assert last.edge_index.min() == 0 and last.edge_index.max() == 7
    assert_close(graphs.copy_into_zeros(), graphs.x)
    assert graphs.copy_regions().numel() == 4 * graphs.region_pixels == sum(c.numel() for c in graphs.crops(graphs.x))
    assert Graphs.random(1, 2, 10, 20, CPU, side=0.5).region_pixels == 50


def test_windows_of_the_objects_sweep_stay_below_the_size_that_is_mapped_anew():
    height, width = (round(DEFAULT.object_side * side) for side in DEFAULT.size)
    assert max(DEFAULT.sweep_objects) * DEFAULT.proposals * height * width * 4 < 32 * 2**20


def test_peak_counts_what_is_alive_at_once():
    def call():
        for _ in range(3):
            part = torch.empty(2**20, dtype=torch.uint8)
        return part, torch.empty(3 * 2**20, dtype=torch.uint8)

    assert 4 <= peak_mb(call, CPU) <= 5.1
    big = Graphs.random(2, 6, 100, 200, CPU, side=0.5)
    with torch.no_grad():
        peaks = {backend: peak_mb(stg_case(big, backend).call, CPU) for backend in ("edgewise", "closed", "region")}
    frame = big.input_mb
    assert peaks["edgewise"] > 5 * frame
    assert frame <= peaks["closed"] < 1.2 * frame
    assert peaks["region"] < 0.8 * frame


def test_size_of_results():
    graphs = Graphs.random(2, 3, 16, 16, CPU, side=0.5)
    assert result_mb(graphs.x) == graphs.input_mb
    assert result_mb([graphs.x[:2], graphs.x[2:]]) == pytest.approx(2 / 3 * graphs.input_mb)
    assert result_mb(stg_case(graphs, "region").call()) == pytest.approx(graphs.input_mb / 4)
    assert result_mb(None) == 0


def test_exponents_and_speedups():
    assert exponent([1, 2, 4], [3, 6, 12]) == pytest.approx(1)
    assert exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    rows = [row(ms=2.0), row(backend="edgewise", ms=50.0), row(ms=2.0, steps=3), row(backend="closed", ms=None)]
    add_speedups(rows)
    assert [r["speedup_over_edgewise"] for r in rows] == [25, 1, None, None]
    cases = [Case(r, lambda: None, lambda: None, 0, ("objects",)) for r in rows]
    points = [row(objects=n, ms=ms) for n, ms in ((4, 8.0), (1, 4.0), (2, 4.0))]
    (growth,) = fit_growth([*cases[:3], cases[3]], [*points, rows[3]])
    assert growth["sizes"] == (1, 2, 4) and growth["ms"] == (4, 4, 8)
    assert growth["exponent"] == pytest.approx(0.5) and growth["last_exponent"] == pytest.approx(1)


def test_slow_calls_run_once_and_large_ones_not_at_all(monkeypatch):
    calls = []
    keys = {"layer": "a", "backend": "b"}
    cases = [
        Case(keys, lambda: calls.append("fast"), lambda: None, 0.0),
        Case(keys, lambda: calls.append("large"), lambda: None, 1e9),
    ]
    rows = measure(cases, 3, CPU)
    assert [r["repetitions"] for r in rows] == [3, 0]
    assert "GiB are free" in rows[1]["skipped"] and rows[1]["ms"] is None and rows[0]["skipped"] is None
    assert "large" not in calls
    monkeypatch.setattr(benchmark_measure, "SLOW", -1.0)
    assert measure([Case(keys, lambda: None, lambda: None, 0.0)], 3, CPU)[0]["repetitions"] == 1


def test_pairs_are_measured_in_changing_order(monkeypatch):
    now, order = [0.0], []
    monkeypatch.setattr(benchmark_measure.time, "perf_counter", lambda: now[0])

    def call(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds

        return Case({}, run, lambda: None, 0.0)

    found = paired_ratios(call("a", 2.0), call("b", 3.0), 3, CPU)
    assert found == {"ratio": 1.5, "ratio_low": 1.5, "ratio_high": 1.5, "pairs": 3}
    assert "".join(order) == "aabb" + "bbaa" + "aabb", "each one is warm when it is timed"


def test_rows_with_the_same_tensors_are_compared_with_the_same_copy():
    graphs, other = Graphs.random(1, 2, 8, 8, CPU), Graphs.random(1, 2, 90, 90, CPU)
    rows = measure([stg_case(graphs, "region", steps) for steps in (1, 2)] + [stg_case(other, "region")], 2, CPU)
    assert rows[0]["copy_ms"] == rows[1]["copy_ms"] != rows[2]["copy_ms"]
    assert all(r["ratio_to_copy"] == pytest.approx(r["ms"] / r["copy_ms"]) for r in rows)


def test_skipped_rows_are_reported():
    graphs = Graphs.random(1, 2, 8, 8, CPU)
    case = stg_case(graphs, "edgewise")
    case.needed_mb = 1e9
    rows = measure([case, stg_case(graphs, "region")], 1, CPU)
    add_speedups(rows)
    rows = [r | {"group": "main"} for r in rows]
    assert rows[1]["speedup_over_edgewise"] is None
    result = {"machines": {}, "claims": [], "rows": rows, "growth": [], "frames": [], "options": [], "scores": []}
    assert "skipped: may need" in markdown(result)
    assert draw_layers(result).ndim == 3


def test_points_beyond_the_size_that_is_mapped_anew_look_different():
    result = {"rows": [], "growth": [fit(result_mb=(1.0, 2.0, 4.0))]}
    small = draw_layers(result)
    result["growth"] = [fit(result_mb=(1.0, 20.0, 40.0))]
    assert (draw_layers(result) != small).any()
    result["growth"] = [fit(result_mb=(1.0, 20.0, 30.0))]
    assert (draw_layers(result) == small).all()
