import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command, error_line
from torch import nn

from experiments import proposals
from experiments.common import checkpoints
from stg_pyg.nn.detector.mask_rcnn import Detector
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.coco import read_coco_results
from stg_pyg.proposals.store import open_proposals
from stg_pyg.utils.images import write_image, write_label_map, write_text

FRAMES = {"boat": ["00000", "00001"], "car": ["00000", "00005", "00010"]}
SIZE = (24, 32)


class BrightParts(nn.Module):
    """Stands in for a detector: pixels above each of three thresholds, and one box without extent."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.seen: list[torch.Tensor] = []

    @torch.no_grad()
    def detect(self, image: torch.Tensor) -> Proposals:
        self.seen.append(image)
        if image.mean() < 0.1:
            return Proposals.empty(*image.shape[1:])
        masks = torch.stack([image.mean(dim=0) > level for level in (0.3, 0.5, 0.7, 2.0)])
        feats = torch.arange(20.0).view(4, 5) / 3 * self.scale
        return Proposals.from_masks(masks, torch.tensor([0.9, 0.8, 0.7, 0.6]), feats=feats)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng, root = np.random.default_rng(0), tmp_path / "data"
    for sequence, stems in FRAMES.items():
        for t, stem in enumerate(stems):
            image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) * np.uint8((sequence, t) != ("boat", 1))
            write_image(root / "JPEGImages" / "480p" / sequence / f"{stem}.png", image)
            write_label_map(root / "Annotations" / "480p" / sequence / f"{stem}.png", image[..., 0] > 99)
    for name, videos in (("2016/val", "boat\ncar\n"), ("2016/train", "car\n"), ("2017/val", "car\n")):
        write_text(root / "ImageSets" / f"{name}.txt", videos)
    return root


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> BrightParts:
    fake = BrightParts()
    monkeypatch.setattr(proposals, "make_detector", lambda args: fake)
    return fake


def run(monkeypatch: pytest.MonkeyPatch, root: Path, out: Path, *arguments: object) -> int:
    return command(monkeypatch, "proposals", "--root", root, "--out", out, "--device", "cpu", *arguments)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_command(monkeypatch, capsys, tmp_path, root, detector):
    out = tmp_path / "out"
    assert run(monkeypatch, root, out) == 0
    assert set(content(out)) == {
        "meta.json",
        "proposals.json",
        *(f"{sequence}/{stem}.npz" for sequence, stems in FRAMES.items() for stem in stems),
    }
    assert capsys.readouterr().out == f"5 frames of 2 videos: {out / 'proposals.json'}\n"
    assert len(detector.seen) == 5 and detector.seen[0].shape == (3, *SIZE)
    assert detector.seen[0].dtype == torch.float32 and 0.9 < detector.seen[0].max() <= 1
    meta = json.loads((out / "meta.json").read_text())
    assert meta["sizes"] == {"boat": list(SIZE), "car": list(SIZE)} and meta["feature_size"] == 5
    source = open_proposals(out)
    for sequence, stems in FRAMES.items():
        source.check(sequence, stems)
    assert source.features and len(source.frame("boat", "00001", SIZE)) == 0
    found = source.frame("car", "00005", SIZE)
    expected = detector.detect(detector.seen[3]).select(slice(3))
    assert torch.equal(found.select(slice(None)).masks, expected.masks) and torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.feats, expected.feats.half().float())
    merged = read_coco_results(out / "proposals.json")["car"]["00005"]
    assert merged.counts == found.counts and torch.equal(merged.scores, found.scores)


@pytest.mark.parametrize("stop_at", [0, 2, 4])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_stopped_anywhere_it_goes_on_to_the_same_bytes(monkeypatch, capsys, tmp_path, root, detector, stop_at, kind):
    assert run(monkeypatch, root, tmp_path / "whole") == 0
    detector.seen.clear()
    detect = detector.detect

    def stopping(image: torch.Tensor) -> Proposals:
        if len(detector.seen) == stop_at:
            raise kind
        return detect(image)

    with monkeypatch.context() as patch:
        patch.setattr(detector, "detect", stopping)
        if kind is KeyboardInterrupt:
            assert run(monkeypatch, root, tmp_path / "parts") == 130
            assert "the same command goes on" in capsys.readouterr().err
        else:
            with pytest.raises(RuntimeError):
                run(monkeypatch, root, tmp_path / "parts")
    done = len(detector.seen)
    assert run(monkeypatch, root, tmp_path / "parts") == 0
    assert len(detector.seen) == 5, f"{done} frames are not done twice"
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_other_settings_are_refused(monkeypatch, capsys, tmp_path, root, detector):
    assert run(monkeypatch, root, tmp_path / "out") == 0
    before = content(tmp_path / "out")
    for change, words in (
        (("--score", 0.1), "score 0.05, not 0.1"),
        (("--nms", 0.5), "nms"),
        (("--max-proposals", 7), "max_proposals"),
        (("--preset", "davis2017"), "dataset 'davis2016', not 'davis2017'"),
        ((), "weights"),
    ):
        detector.scale.data += not change
        assert run(monkeypatch, root, tmp_path / "out", *change) == 2
        line = error_line(capsys)
        assert words in line and "choose another --out" in line
    assert content(tmp_path / "out") == before


def test_videos_whose_frames_have_changed_are_done_again(monkeypatch, tmp_path, root, detector):
    assert run(monkeypatch, root, tmp_path / "out") == 0 and len(detector.seen) == 5
    before = content(tmp_path / "out")
    path = root / "JPEGImages/480p/boat/00000.png"
    write_image(path, np.full((*SIZE, 3), 200, np.uint8))
    assert run(monkeypatch, root, tmp_path / "out") == 0 and len(detector.seen) == 7
    after = content(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} == {"boat/00000.npz", "meta.json", "proposals.json"}
    assert run(monkeypatch, root, tmp_path / "out", "--split", "train") == 0 and len(detector.seen) == 7
    assert open_proposals(tmp_path / "out").sequences == ["boat", "car"]


def test_a_trained_detector(monkeypatch, tmp_path, root):
    torch.manual_seed(5)
    trained = Detector.small(4, 64, confidence=0.9, nms=0.1, max_detections=1)
    path = tmp_path / "detector.pt"
    checkpoints.save(path, {"kind": "detector", **trained.to_checkpoint()})
    out = tmp_path / "out"
    arguments = ("--detector", path, "--score", 0, "--nms", 0.8, "--max-proposals", 6, "--split", "train")
    assert run(monkeypatch, root, out, *arguments) == 0
    expected = Detector.small(4, 64, confidence=0.0, nms=0.8, max_detections=6).eval()
    expected.load_state_dict(trained.state_dict())
    source = open_proposals(out)
    video = proposals.open_split(proposals.find_preset("davis2016"), "train", root)[0]
    for t, name in enumerate(FRAMES["car"]):
        found = source.frame("car", name, SIZE)
        proper = proposals.detect(expected, video.image(t), torch.device("cpu"))
        assert len(found) == 6 and torch.equal(found.boxes, proper.boxes) and found.counts == proper.counts
        assert torch.equal(found.scores, proper.scores) and torch.equal(found.feats, proper.feats)
    before = content(out)
    assert run(monkeypatch, root, out, *arguments) == 0
    assert content(out) == before


def test_weights_of_coco(monkeypatch, capsys, tmp_path, root):
    asked = []
    monkeypatch.setattr(Detector, "collapsed", lambda *args, **limits: asked.append((args, limits)) or BrightParts())
    assert run(monkeypatch, root, tmp_path / "a", "--weights", "file.pth", "--score", 0.2, "--max-proposals", 9) == 0
    assert asked == [(("file.pth",), {"confidence": 0.2, "nms": 0.6, "max_detections": 9})]
    monkeypatch.undo()
    assert run(monkeypatch, root, tmp_path / "b", "--weights", tmp_path / "file.pth") == 2
    assert str(tmp_path / "file.pth") in error_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--score", 2), "--score"),
        (("--nms", "nan"), "--nms"),
        (("--max-proposals", 0), "--max-proposals"),
        (("--split", "other"), "other"),
        (("--detector", "none.pt"), "none.pt"),
    ],
)
def test_bad_arguments(monkeypatch, capsys, tmp_path, root, arguments, word):
    assert run(monkeypatch, root, tmp_path / "out", *arguments) == 2
    assert word in error_line(capsys)


def test_a_checkpoint_of_something_else(monkeypatch, capsys, tmp_path, root):
    for content in ({}, {"network": {"name": "small"}, "weights": {}}, {"network": 3, "weights": {}}):
        checkpoints.save(tmp_path / "detector.pt", {"kind": "detector", **content})
        assert run(monkeypatch, root, tmp_path / "out", "--detector", tmp_path / "detector.pt") == 2
        line = error_line(capsys)
        assert str(tmp_path / "detector.pt") in line and "train the detector again" in line


def test_broken_frames_and_no_videos(monkeypatch, capsys, tmp_path, root, detector):
    path = root / "JPEGImages" / "480p" / "car" / "00005.png"
    path.write_bytes(path.read_bytes()[:50])
    assert run(monkeypatch, root, tmp_path / "out") == 2
    assert str(path) in error_line(capsys)
    monkeypatch.setattr(proposals, "open_split", lambda *args: [])
    assert run(monkeypatch, root, tmp_path / "out") == 2
    assert "no videos" in error_line(capsys)
