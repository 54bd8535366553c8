import math

import pytest
from benchmark_cases import fit, frame, pair, result

from experiments.benchmark.claims import make_claims
from experiments.benchmark.report import markdown


def verdicts(content):
    return {claim["claim"]: claim["holds"] for claim in make_claims(content)}


def test_all_hold():
    claims = make_claims(result())
    assert len(claims) == 8 and all(claim["holds"] for claim in claims)
    by_name = {claim["claim"]: claim for claim in claims}
    speedup = by_name["speedup of region over edgewise"]
    assert (speedup["value"], speedup["due"], speedup["case"]) == (
        150,
        100,
        "8 objects x 20 proposals, 480 x 854, l = 2",
    )
    assert speedup["detail"] == "20 ms against 3000 ms in 2 parts"
    assert by_name["peak memory of region over that of the input"]["value"] == pytest.approx(0.1)
    assert by_name["share of the graph layers in a frame with stored proposals"]["value"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("speedup of region over edgewise", {"speedup_over_edgewise": 99.0}),
        ("region over a copy of the windows", {"ratio_to_copy": 3.01}),
        ("peak memory of region over that of the input", {"peak_mb": 250.0}),
    ],
)
def test_a_claim_of_the_main_case_does_not_hold(name, changes):
    changed = result()
    changed["rows"][0] |= changes
    assert [claim for claim, holds in verdicts(changed).items() if not holds] == [name]


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        ("growth", [fit(exponent=1.11)]),
        ("growth", [fit(growth_in="region_pixels", exponent=1.5)]),
        ("growth", [fit(growth_in="memory_frames", layer="mean", backend="auto", exponent=2.0)]),
        ("paired", [pair(1.11)]),
        ("frames", [frame(graph_share=0.15)]),
    ],
)
def test_another_claim_does_not_hold(key, rows):
    found = verdicts(result(**{key: rows}))
    assert sum(holds is False for holds in found.values()) == 1


def test_bounds_are_reached():
    content = result(paired=[pair(1.1)], growth=[fit(exponent=1.1)])
    content["rows"][0] |= {"speedup_over_edgewise": 100.0, "ratio_to_copy": 3.0}
    assert all(verdicts(content).values())


def test_what_was_not_measured_neither_holds_nor_fails():
    skipped = {"ms": None, "ratio_to_copy": None, "peak_mb": None, "copy_ms": None, "speedup_over_edgewise": None}
    content = result(growth=[fit(exponent=math.nan)])
    content["rows"][0] |= skipped | {"skipped": "no room"}
    found = verdicts(content)
    assert [holds for holds in found.values()] == [None, None, None, None, True, True]
    content["claims"] = make_claims(content)
    assert markdown(content).count("not measured") == 4


def test_other_sweeps_and_sources_claim_nothing():
    others = [fit(growth_in="proposals", exponent=2.0), fit(backend="closed", exponent=2.0)]
    content = result(rows=[], growth=others, paired=[], frames=[frame(proposals="own", graph_share=0.9)])
    assert make_claims(content) == []


def test_each_device_has_its_claims():
    content = result()
    content["rows"] += [r | {"device": "cuda", "speedup_over_edgewise": 5.0} for r in content["rows"]]
    names = ("speedup of region over edgewise", "cuda")
    found = {(claim["claim"], claim["device"]): claim["holds"] for claim in make_claims(content)}
    assert found[names] is False and found["speedup of region over edgewise", "cpu"] is True


def test_the_report_says_what_does_not_hold():
    content = result(paired=[pair(1.5)])
    content["claims"] = make_claims(content)
    text = markdown(content)
    assert text.count("**no**") == 1 and "1.5 | at most 1.1 | **no** |" in text
    assert "8 objects x 20 proposals" in text and text.count("| yes |") == 7
