"""Stored graphs of proposals, and the table of layers that learn on them."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from commands import command, error_line
from torch_geometric.loader import DataLoader
from train_cases import NUM_FRAMES, TINY, make_tiny

from datasets import ProposalGraphs
from experiments.common import checkpoints
from experiments.graphs import command as graphs_command
from experiments.graphs.leaderboard import baseline, choose, fused_j, make_model
from stg_pyg import STGConfig
from stg_pyg.errors import InputError

SYNTHETIC = ("--preset", "synthetic", "--split", "val")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Graphs of the two folds of two synthetic videos."""
    root = tmp_path_factory.mktemp("graphs")
    with pytest.MonkeyPatch.context() as patch:
        make_tiny(patch)
        config = TINY.config.replace("online.update_every", 4)
        preset = dataclasses.replace(TINY, backbone="tf_efficientnet_lite0", config=config)
        for fold in range(2):
            torch.manual_seed(fold)
            checkpoints.save_model(root / f"c{fold}.pt", checkpoints.build_model(preset), preset, 0)
        words = ("--preset", "synthetic", "--split", "val", "--every", 1, "--size", 32, "--folds", 2)
        words += ("--checkpoint", root / "c{fold}.pt", "--out", root / "g")
        assert command(patch, "graphs", *words) == 0
        assert command(patch, "graphs", *words, "--online-steps", 1) == 0
    return root / "g"


def test_graphs_are_an_ordinary_dataset(stored):
    graphs = ProposalGraphs(stored, states=["offline"])
    assert len(ProposalGraphs(stored)) == len(graphs) + len(ProposalGraphs(stored, states=["online"]))
    folds = [ProposalGraphs(stored, folds=[fold], states=["offline"]) for fold in range(2)]
    assert len(graphs) == sum(map(len, folds)) and len(graphs[[1, 3]]) == 2
    videos = [{graph.sequence.item() for graph in fold} for fold in folds]
    assert len(videos[0] | videos[1]) == 2 and not videos[0] & videos[1]
    assert {graph.frame_idx.item() for graph in folds[0]} == set(range(1, NUM_FRAMES))
    graph, n = graphs[0], graphs[0].x.size(0)
    assert (
        graph.x.shape == (n, 1, 32, 32) and graph.target.shape == (32, 32) and 0 <= graph.x.min() < graph.x.max() <= 1
    )
    assert graph.edge_index.shape == (2, n * (n - 1)) and graph.edge_attr.shape == (n * (n - 1), 2)
    assert graph.pixel.shape == (4, 16, 16) and graph.validate()
    batch = next(iter(DataLoader(graphs, batch_size=3)))
    assert batch.target.shape == batch.q.shape == (3, 32, 32)
    assert batch.p.shape == (3, 4) and batch.outside.shape == (3,)
    with pytest.raises(InputError, match="folds"):
        ProposalGraphs(stored, folds=[7])


def test_masks_and_the_truth_are_in_one_window(stored):
    for graph in ProposalGraphs(stored, states=["offline"]):
        both = (graph.x[:, 0] > 0.5) & (graph.target > 0.5)
        either = ((graph.x[:, 0] > 0.5) | (graph.target > 0.5)).sum(dim=(1, 2)) + graph.outside
        assert torch.allclose(both.sum(dim=(1, 2)) / either.clamp(min=1), graph.iou, atol=0.12)
        assert graph.outside >= 0


def test_transforms_and_filters(stored):
    assert all(g.iou.max() > 0.3 for g in ProposalGraphs(stored, pre_filter=lambda graph: bool(graph.iou.max() > 0.3)))
    doubled = ProposalGraphs(stored, transform=lambda graph: graph.x.size(0))
    assert doubled[0] == ProposalGraphs(stored)[0].x.size(0)
    loaded = list(DataLoader(ProposalGraphs(stored), batch_size=4, num_workers=1))
    assert sum(batch.num_graphs for batch in loaded) == len(ProposalGraphs(stored))


def test_baselines_are_what_they_say(stored):
    batch = next(iter(DataLoader(ProposalGraphs(stored), batch_size=6)))
    j = {name: fused_j(baseline(name, batch), batch) for name in ("mean", "argmax", "eq6", "best", "pixels", "model")}
    assert (j["pixels"] >= j["best"] - 1e-6).all() and (j["best"] >= j["argmax"] - 0.15).all()
    first = batch.batch == 0
    assert torch.allclose(baseline("mean", batch)[0], batch.x[first, 0].mean(dim=0))
    assert torch.equal(baseline("argmax", batch)[0], batch.x[first, 0][batch.score[first].argmax()])


@pytest.mark.parametrize("name", ["stg", "evidence", "pixel", "GATv2Conv", "GINEConv", "PNAConv", "mean"])
def test_untrained_layers_are_near_the_mean(stored, name):
    batch = next(iter(DataLoader(ProposalGraphs(stored), batch_size=4)))
    model = make_model(name, STGConfig.small()).eval()
    with torch.no_grad():
        fused = choose(model, batch, *model.reconstruct(batch))
    assert fused.shape == (4, 32, 32) and 0 <= fused.min() <= fused.max() <= 1
    assert name == "stg" or torch.allclose(fused, baseline("mean", batch), atol=2e-3)


def test_the_table(stored, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs/graphs.md").read_text()
    reading, layer = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    exec(reading.replace("runs/graphs", str(stored)), {})
    (tmp_path / "mine.py").write_text(layer)
    monkeypatch.syspath_prepend(tmp_path)
    words = ("--layers", "mean;argmax;pixel;mine:Trust;best;pixels", "--seeds", "0,1", "--steps", 3)
    assert command(monkeypatch, "graphs", stored, *words, "--state", "offline", "--out", tmp_path) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n| ") == 8 and "mine:Trust" in shown and "±" in shown
    rows = {row["layer"]: row for row in json.loads((tmp_path / "leaderboard.json").read_text())["rows"]}
    assert rows["pixels"]["J"] >= rows["best"]["J"] >= 0 and rows["pixel"]["seeds"] == 2
    assert len(rows["pixel"]["videos"]) == 2 and rows["pixel"]["parameters"] > 1000 and rows["pixel"]["ms"] > 0
    for row in rows.values():
        assert row["J"] == pytest.approx(sum(row["videos"].values()) / 2)
    for suffix in ("csv", "md", "png"):
        assert (tmp_path / f"leaderboard.{suffix}").stat().st_size > 100


def test_a_layer_that_learned_goes_into_a_checkpoint(stored, tmp_path, monkeypatch):
    words = (stored, "--fit", "pixel:hidden_channels=8", "--checkpoint", stored.parent / "c0.pt", "--steps", 2)
    assert command(monkeypatch, "graphs", *words, "--only-folds", 1, "--out", tmp_path) == 0
    model, _ = checkpoints.load_model(tmp_path / "checkpoint.pt")
    before, _ = checkpoints.load_model(stored.parent / "c0.pt")
    assert model.config.spatial.conv == "pixel:hidden_channels=8" and model.spatial_conv.out.weight.any()
    mine, theirs = model.segmentation.state_dict(), before.segmentation.state_dict()
    assert all(torch.equal(value, mine[name]) for name, value in theirs.items())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--layers", "nothing"), "nothing"),
        (("--seeds", "a"), "--seeds"),
        (("--root", "x"), "--root"),
        (("--fit", "pixel"), "--fit"),
        (("--only-folds", "x"), "--only-folds"),
        (("--layers", "GMMConv"), "GMMConv"),
    ],
)
def test_bad_arguments_of_the_table(stored, monkeypatch, capsys, words, text):
    assert command(monkeypatch, "graphs", stored, *words) == 2
    assert text in error_line(capsys)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("none",), "none"),
        (SYNTHETIC, "--checkpoint"),
        ((*SYNTHETIC, "--folds", 2, "--checkpoint", "c.pt"), "{fold}"),
        ((*SYNTHETIC, "--every", 1, "--checkpoint", "C", "--size", 64, "--out", "STORED"), "--size"),
        ((*SYNTHETIC, "--every", 1, "--checkpoint", "C", "--size", 32, "--out", "STORED"), "in another fold"),
    ],
)
def test_bad_input_and_what_does_not_go_with_earlier_graphs(stored, tmp_path, monkeypatch, capsys, words, text):
    make_tiny(monkeypatch)
    monkeypatch.setattr(graphs_command, "run_processes", lambda *_: pytest.fail("something was stored"))
    paths = {"C": stored.parent / "c0.pt", "STORED": stored, "none": tmp_path / "none"}
    out = () if "--out" in words else ("--out", tmp_path / "g")
    assert command(monkeypatch, "graphs", *(paths.get(word, word) for word in words), *out) == 2
    assert text in error_line(capsys)


def test_a_damaged_file_is_named(stored, tmp_path):
    (tmp_path / "graphs.json").write_text("{}")
    with pytest.raises(InputError, match=r"graphs\.json"):
        ProposalGraphs(tmp_path)
    index = json.loads((stored / "graphs.json").read_text())
    (tmp_path / "graphs.json").write_text(json.dumps(index))
    path = tmp_path / index["sequences"][0]["file"]
    with pytest.raises(InputError, match=path.name):
        ProposalGraphs(tmp_path)[0]
    path.parent.mkdir()
    path.write_bytes(b"x")
    with pytest.raises(InputError, match="read"):
        ProposalGraphs(tmp_path)[0]


def test_without_online_learning_nothing_learns_while_a_video_runs(stored, tmp_path, monkeypatch):
    make_tiny(monkeypatch)
    seen = []
    monkeypatch.setattr(graphs_command, "run_processes", lambda _, todo: seen.extend(todo))
    words = ("--preset", "synthetic", "--split", "val", "--checkpoint", stored.parent / "c0.pt", "--out", tmp_path)
    changed = ("--set", "online.update_every=8")
    for steps in (0, 3):
        assert command(monkeypatch, "graphs", *words, "--online-steps", steps) == 2  # no graphs
        model_every = {harvest.job.rows[0].config.online.update_every for harvest, _ in seen}
        assert model_every == {4 if steps else 0}
        seen.clear()
    assert command(monkeypatch, "graphs", *words, *changed) == 2
    assert {harvest.job.rows[0].config.online.update_every for harvest, _ in seen} == {8}


def test_a_second_run_does_nothing_again(stored, monkeypatch):
    make_tiny(monkeypatch)
    done = []
    monkeypatch.setattr(graphs_command, "harvest_video", lambda *words: done.append(words))
    words = ("--preset", "synthetic", "--split", "val", "--every", 1, "--size", 32, "--folds", 2)
    words += ("--checkpoint", stored.parent / "c{fold}.pt", "--out", stored)
    assert command(monkeypatch, "graphs", *words) == 0 and not done
