import json

from commands import command, error_line

OPTIONS = ("--preset", "synthetic", "--split", "val", "--max-size", 0, "--gap", 1, "--every", 8)


def test_warping_makes_a_better_q(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    assert command(monkeypatch, "flow_quality", *OPTIONS, "--flow", "dis", "--out", tmp_path) == 0
    (row,) = json.loads((tmp_path / "flow_quality.json").read_text())
    assert 0 < row["still"] < row["warped"] <= 100 and row["ms_tested"] > 0
    assert (tmp_path / "flow_quality.md").read_text().count("\n") == 3


def test_unknown_flow_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    assert command(monkeypatch, "flow_quality", *OPTIONS, "--flow", "flownet", "--out", tmp_path) == 2
    assert "flownet" in error_line(capsys, alone=False)
