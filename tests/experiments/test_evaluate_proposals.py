"""evaluate --proposals, end to end on synthetic videos whose proposals are disjoint label maps."""

import json
import sys

import pytest
import torch
from train_cases import InProcess

from datasets import SyntheticVideos
from experiments import evaluate
from stg_pyg import InputError, Proposals
from stg_pyg.proposals.coco import write_coco_results
from stg_pyg.proposals.rle import EncodedProposals


@pytest.fixture(scope="module")
def videos():
    return list(SyntheticVideos("val", num_videos=2, seed=0))


@pytest.fixture
def split(monkeypatch, videos):
    monkeypatch.setattr("experiments.evaluate.open_split", lambda *_: videos)
    monkeypatch.setattr("experiments.runs.scoring.open_split", lambda *_: videos)
    monkeypatch.setattr("experiments.runs.scoring.ProcessPoolExecutor", InProcess, raising=False)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)


def write(path, videos, leak_every=0, boxes_only=False):
    """Each frame's true masks and the four quarters of its background as disjoint proposals."""
    content = {}
    for video in videos:
        frames = content.setdefault(video.name, {})
        for t, name in enumerate(video.frame_names):
            labels = torch.from_numpy(video.labels(t))
            masks = [labels == i for i in video.object_ids if bool((labels == i).any())]
            height, width = labels.shape
            for y in (0, height // 2):
                for x in (0, width // 2):
                    quarter = torch.zeros_like(labels, dtype=torch.bool)
                    quarter[y : y + height // 2, x : x + width // 2] = True
                    masks.append(quarter & (labels == 0))
            if leak_every and t % leak_every == 3:
                masks = [mask | masks[-1] for mask in masks]
            encoded = EncodedProposals.from_proposals(Proposals.from_masks(torch.stack(masks)))
            if boxes_only:
                encoded.counts = [None] * len(encoded)
            frames[name] = encoded
    write_coco_results(path, content)
    return path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--preset", "synthetic", "--split", "val", *map(str, arguments)])
    evaluate.main()


def test_true_masks_among_background_are_found(monkeypatch, split, videos, tmp_path):
    file = write(tmp_path / "p.json", videos)
    run(monkeypatch, "--proposals", file, "--out", tmp_path / "out", "--oracle")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["oracle"]["best"] == pytest.approx(100)
    assert metrics["J"]["mean"] > 80
    for video in videos:
        assert (tmp_path / "out" / video.name / f"{video.frame_names[-1]}.png").is_file()


def test_proposals_that_leak_carry_greedy_away_and_the_graph_not(monkeypatch, split, videos, tmp_path):
    file = write(tmp_path / "p.json", videos, leak_every=4)
    g = {}
    for row in ("greedy", "temporal"):
        run(monkeypatch, "--proposals", file, "--out", tmp_path / row, "--row", row)
        g[row] = json.loads((tmp_path / row / "metrics.json").read_text())["G"]
    assert g["temporal"] > g["greedy"] + 10


@pytest.mark.parametrize(
    ("made", "arguments", "words"),
    [
        ({"boxes_only": True}, (), "no mask and the model has no segmentation network"),
        ({}, ("--flow", "flownet"), "flownet"),
        ({}, ("--flow", "raft:small", "--weights", "raft.pth"), r"raft\.pth"),
        (None, (), r"p\.json"),
    ],
)
def test_what_does_not_go_together(monkeypatch, split, videos, tmp_path, made, arguments, words):
    others = list(SyntheticVideos("test", num_videos=1, seed=0))
    file = write(tmp_path / "p.json", others) if made is None else write(tmp_path / "p.json", videos, **made)
    with pytest.raises(InputError, match=words):
        run(monkeypatch, "--proposals", file, "--out", tmp_path / "out", *arguments)
