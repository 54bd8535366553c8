import json
import sys

import pytest
import torch
from torch.testing import assert_close

from experiments import cli
from experiments.benchmark import command as benchmark
from experiments.benchmark import measure as benchmark_measure
from experiments.benchmark.cases import Case, Graphs, stg_case
from experiments.benchmark.measure import add_speedups, exponent, fit_growth, measure, peak_mb

CPU = torch.device("cpu")
KEYS = {"layer", "backend", "device", "objects", "proposals", "height", "width", "steps", "ms", "peak_mb"}
KEYS |= {"ratio_to_copy", "speedup_over_edgewise"}


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", "--plan", "tiny", "--device", "cpu", "--out", str(tmp_path)])
    cli.run(benchmark.main)
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert result["rows"] and all(set(row) >= KEYS for row in result["rows"])
    assert all(row["ms"] > 0 and row["ratio_to_copy"] > 0 for row in result["rows"])
    assert all(row["ms_low"] <= row["ms"] <= row["ms_high"] for row in result["rows"])
    backends = {row["backend"] for row in result["rows"] if row["group"] == "main"}
    assert backends == {"edgewise", "fused", "closed", "region", "region+frame", "region+find"}
    assert {row["layer"] for row in result["rows"]} == {"stg", "memory_attention", *benchmark.LAYERS}
    assert {fit["growth_in"] for fit in result["growth"]} == {"objects", "proposals", "region_pixels", "memory_frames"}
    text = (tmp_path / "benchmark.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert text.count("| stg | region+find |") == 1
    assert (tmp_path / "benchmark.png").stat().st_size > 1000


def test_backends_of_the_main_group_give_the_same_masks():
    torch.manual_seed(0)
    cases = benchmark.main_cases(benchmark.TINY, CPU)
    by_backend = {case.row["backend"]: case.call() for case in cases if case.row["steps"] == 2}
    expected = by_backend.pop("edgewise")
    for backend in ("fused", "closed", "region+frame"):
        assert_close(by_backend[backend], expected)
    for backend in ("region", "region+find"):
        assert_close(by_backend[backend].to_frame(), expected)


def test_inputs():
    graphs = Graphs.random(3, 4, 20, 30, CPU)
    assert graphs.objects == 3 and graphs.first(2).objects == 2
    assert graphs.first(2).x.data_ptr() == graphs.x.data_ptr()
    assert_close(graphs.copy_into_zeros(), graphs.x)
    assert graphs.copy_regions().numel() == 4 * graphs.region_pixels == sum(c.numel() for c in graphs.crops(graphs.x))
    assert graphs.first(1).edge_index.max() == 3
    assert Graphs.random(1, 2, 10, 20, CPU, side=0.5).region_pixels == 50


def test_peak_counts_what_is_alive_at_once():
    def call():
        for _ in range(3):
            part = torch.empty(2**20, dtype=torch.uint8)
        return part, torch.empty(3 * 2**20, dtype=torch.uint8)

    assert 4 <= peak_mb(call, CPU) <= 5.1
    big = Graphs.random(2, 6, 100, 200, CPU, side=0.5)
    with torch.no_grad():
        peaks = {backend: peak_mb(stg_case(big, backend).call, CPU) for backend in ("edgewise", "closed", "region")}
    frame = big.x.nbytes / 2**20
    assert peaks["edgewise"] > 5 * frame
    assert frame <= peaks["closed"] < 1.2 * frame
    assert peaks["region"] < 0.8 * frame


def test_exponents_and_speedups():
    assert exponent([1, 2, 4], [3, 6, 12]) == pytest.approx(1)
    assert exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    row = {"device": "cpu", "layer": "stg", "objects": 2, "proposals": 3, "height": 4, "width": 5, "steps": 2}
    row["region_pixels"] = 7
    rows = [row | {"backend": "region", "ms": 2.0}, row | {"backend": "edgewise", "ms": 50.0}]
    rows += [row | {"backend": "region", "ms": 2.0, "steps": 3}, row | {"backend": "closed", "ms": None}]
    add_speedups(rows)
    assert [r["speedup_over_edgewise"] for r in rows] == [25, 1, None, None]
    cases = [Case(r, lambda: None, lambda: None, 0, ("objects",)) for r in rows]
    fits = fit_growth(cases[:1] + cases[2:], [rows[0], rows[2] | {"objects": 4, "ms": 8.0}, rows[3]])
    assert len(fits) == 1 and fits[0]["exponent"] == pytest.approx(2) and fits[0]["sizes"] == (2, 4)


def test_slow_calls_run_once_and_large_ones_not_at_all(monkeypatch):
    calls = []
    row = {"layer": "a", "backend": "b"}
    cases = [
        Case(row, lambda: calls.append("fast"), lambda: None, 0.0),
        Case(row, lambda: calls.append("large"), lambda: None, 1e9),
    ]
    rows = measure(cases, 3, CPU)
    assert [r["repetitions"] for r in rows] == [3, 0]
    assert "GiB are free" in rows[1]["skipped"] and rows[1]["ms"] is None and rows[0]["skipped"] is None
    assert "large" not in calls
    monkeypatch.setattr(benchmark_measure, "SLOW", -1.0)
    assert measure([Case(row, lambda: None, lambda: None, 0.0)], 3, CPU)[0]["repetitions"] == 1


def test_rows_with_the_same_tensors_are_compared_with_the_same_copy():
    graphs, other = Graphs.random(1, 2, 8, 8, CPU), Graphs.random(1, 2, 90, 90, CPU)
    rows = measure([stg_case(graphs, "region", steps) for steps in (1, 2)] + [stg_case(other, "region")], 2, CPU)
    assert rows[0]["copy_ms"] == rows[1]["copy_ms"] != rows[2]["copy_ms"]
    assert all(row["ratio_to_copy"] == pytest.approx(row["ms"] / row["copy_ms"]) for row in rows)


def test_skipped_rows_are_reported():
    graphs = Graphs.random(1, 2, 8, 8, CPU)
    case = stg_case(graphs, "edgewise")
    case.needed_mb = 1e9
    rows = measure([case, stg_case(graphs, "region")], 1, CPU)
    add_speedups(rows)
    rows = [row | {"group": "main"} for row in rows]
    assert rows[1]["speedup_over_edgewise"] is None
    result = {"machine": {"threads": 1}, "rows": rows, "growth": []}
    assert "skipped: may need" in benchmark.markdown(result)
    assert benchmark.draw(result).ndim == 3
