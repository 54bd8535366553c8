import json
import sys

import pytest

from experiments import flow_quality


def test_warping_makes_a_better_q(monkeypatch, tmp_path):
    arguments = {"preset": "synthetic", "split": "val", "flow": "dis", "max-size": 0, "gap": 1, "every": 8}
    options = [str(part) for name, value in arguments.items() for part in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["flow_quality", *options, "--out", str(tmp_path)])
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    flow_quality.main()
    (row,) = json.loads((tmp_path / "flow_quality.json").read_text())
    assert 0 < row["still"] < row["warped"] <= 100 and row["ms_tested"] > 0
    assert (tmp_path / "flow_quality.md").read_text().count("\n") == 3


def test_unknown_flow_is_refused(monkeypatch, tmp_path):
    arguments = ["--preset", "synthetic", "--split", "val", "--flow", "flownet", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["flow_quality", *arguments])
    with pytest.raises(ValueError, match="flownet"):
        flow_quality.main()
