import importlib.util
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stg_pyg.proposals.store import open_proposals
from stg_pyg.utils.images import write_image, write_label_map

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "export_proposals.py"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """As ``python docs/export_proposals.py`` would."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_labels(monkeypatch, capsys, tmp_path):
    maps = {
        key: np.random.default_rng(0).choice([0, 1, 7, 255], (12, 16)) for key in (("car", "00002"), ("boat", "f1"))
    }
    maps["car", "00010"] = np.zeros((12, 16), np.uint8)
    for (sequence, stem), labels in maps.items():
        write_label_map(tmp_path / "labels" / sequence / f"{stem}.png", labels)
    out = tmp_path / "new" / "proposals.json"
    run(monkeypatch, "labels", tmp_path / "labels", "--out", out)
    assert capsys.readouterr().out == f"6 proposals in 3 frames of 2 videos: {out}\n"
    source = open_proposals(out)
    assert source.sequences == ["boat", "car"]
    for (sequence, stem), labels in maps.items():
        found = source.frame(sequence, stem, (12, 16)).select(slice(None))
        ids = [i for i in (1, 7, 255) if (labels == i).any()]
        assert len(found) == len(ids) and found.scores.tolist() == [1.0] * len(ids)
        assert all(np.array_equal(m.numpy(), labels == i) for m, i in zip(found.masks, ids, strict=True))


class FakeDetector(nn.Module):
    """Answers as torchvision's Mask R-CNN does: a good box, one with a low score and one without extent."""

    weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        (image,) = images
        assert image.dtype == torch.float32 and image.max() <= 1 and not self.training
        masks = torch.zeros(3, 1, *image.shape[1:])
        masks[:, :, 2:7, 3:9], masks[:, :, 2:7, 9] = 0.9, 0.4
        boxes = torch.tensor([[3.0, 2, 9.5, 7], [0, 0, 5, 5], [4, 4, 4, 8]])
        return [{"boxes": boxes, "masks": masks, "scores": torch.tensor([0.8, 0.1, 0.7])}]


def test_detector(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("export_proposals", SCRIPT)
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    asked = []
    monkeypatch.setattr(script.detection, script.NETWORK, lambda **options: asked.append(options) or FakeDetector())
    monkeypatch.setattr(script, "load_torchvision", lambda *args: asked.append(args))
    for name in ("2.jpg", "10.png"):
        write_image(tmp_path / "my video" / name, np.full((12, 16, 3), 200, np.uint8))
    (tmp_path / "my video" / "notes.txt").write_text("")
    out = tmp_path / "proposals.json"
    for sequence, extra in (("my video", []), ("clip", ["--sequence", "clip"])):
        script.main(["detector", str(tmp_path / "my video"), "--out", str(out), "--score", "0.5", *extra])
        source = open_proposals(out)
        source.check(sequence, ["2", "10"])
        assert source.sequences == [sequence]
        for stem in ("2", "10"):
            found = source.frame(sequence, stem, (12, 16)).select(slice(None))
            assert found.boxes.tolist() == [[3.0, 2, 9.5, 7]] and found.scores.tolist() == [pytest.approx(0.8)]
            assert found.masks.sum() == 30 and found.masks[0, 2:7, 3:9].all()
    assert asked[:2] == [(script.NETWORK, "auto"), {"weights": None, "weights_backbone": None}]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("labels nowhere --out x.json", "nowhere: no such folder; give one with <sequence>/<frame>.png"),
        ("labels empty --out x.json", "no folders of label maps"),
        ("labels . --out x.json", "no .png files"),
        ("detector empty --weights none --out x.json", "no .jpg or .jpeg or .png files"),
        ("labels empty", "--out"),
        ("other", "other"),
    ],
)
def test_bad_input(monkeypatch, capsys, tmp_path, arguments, word):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *arguments.split())
    output = capsys.readouterr()
    assert stop.value.code == 2 and output.out == "" and not (tmp_path / "x.json").exists()
    assert output.err.startswith("error: ") and word in output.err and output.err.count("\n") == 1
