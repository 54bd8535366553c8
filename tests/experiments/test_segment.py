# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
"""Runs of experiments.segment: their masks are those of the stream, and every option does what it says."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from commands import command, error_line
from PIL import Image
from segment_cases import (
    COUNT,
    FIRST,
    FRAMES,
    HEIGHT,
    IDS,
    LATE,
    PRESET,
    VIDEO,
    WIDTH,
    checkpoint,
    clip,
    complaint,
    film,
    first,
    labels_in,
    masks,
    results,
    run,
    steps,
)

from experiments.common import checkpoints, cli
from experiments.segment import options as segment_options
from experiments.segment import run as segment_run
from stg_pyg.learning import lesson as online
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.coco import write_coco_results
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.utils.images import davis_palette, write_label_map
from stg_pyg.video.frames import open_source
from stg_pyg.video.grouped import GroupedSegmenter
from stg_pyg.video.segmenter import VideoSegmenter


def stream_of(checkpoint, changes=None):
    model, preset = checkpoints.load_model(checkpoint)
    changed = checkpoints.build_model(preset, model.config.replace(changes or {}))
    changed.load_state_dict(model.state_dict())
    mixed_precision = cli.bfloat16_is_fast(torch.device("cpu"))
    return VideoSegmenter(changed.eval(), crop_size=preset.crop_size, mixed_precision=mixed_precision)


@pytest.fixture
def learned(monkeypatch):
    """What online learning is asked for, which does nothing."""
    seen = {}

    def learning(net, images, labels, config, **arguments):
        seen.update(arguments, images=images, labels=labels)
        return net

    monkeypatch.setattr(online, "learn_online", learning)
    return seen


def test_a_folder_of_frames(run, capsys, clip, first, checkpoint):
    out = run(clip, first)
    assert {path.name for path in out.iterdir()} == {"clip", "confidence.json", "run.json"}
    assert {path.name for path in (out / "clip").iterdir()} == {f"{name}.png" for name in FRAMES}
    stream = stream_of(checkpoint)
    for t, name in enumerate(FRAMES):
        mask = Image.open(out / "clip" / f"{name}.png")
        assert (mask.mode, mask.size) == ("P", (WIDTH, HEIGHT))
        assert mask.getpalette("RGB") == davis_palette().ravel().tolist()
        with torch.no_grad():
            expected = stream.step(VIDEO.image(t), masks=FIRST if t == 0 else None).labels
        np.testing.assert_array_equal(np.array(mask), expected)
        assert t > 0 or np.array_equal(expected, FIRST)
    content = json.loads((out / "run.json").read_text())
    expected = {"sequence": "clip", "frames": COUNT, "size": [HEIGHT, WIDTH], "object_ids": IDS, "every": 1, "seed": 0}
    expected |= {"given_frames": FRAMES[:1], "flow": "dis", "online_steps": 0, "online_seconds": 0}
    assert {name: content[name] for name in expected} == expected
    assert content["config"]["warping"]["gaps"] == [1, 2] and content["seconds_per_frame"] > 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{COUNT} masks in {out / 'clip'}, ") and last.endswith(" s a frame")
    run(clip, first, "--every", 2)
    assert "2 masks of an earlier run" in capsys.readouterr().out


def test_other_layers(run, complaint, clip, first, checkpoint):
    layers = ("--spatial-conv", "own_layers:Plain", "--temporal-conv", "joint:top_k=1")
    assert complaint(clip, first, *layers) == (
        f"error: --spatial-conv own_layers:Plain: {checkpoint} has no weights of this layer; "
        "train it with python -m experiments.train --spatial-conv own_layers:Plain"
    )
    out = run(clip, first, "--spatial-conv", "mean", "--temporal-conv", "joint:top_k=1")
    config = json.loads((out / "run.json").read_text())["config"]
    assert (config["spatial"]["conv"], config["temporal"]["conv"]) == ("mean", "joint:top_k=1")
    stream = stream_of(checkpoint, {"spatial.conv": "mean", "temporal.conv": "joint:top_k=1"})
    for t, labels in enumerate(labels_in(out / "clip").values()):
        with torch.no_grad():
            np.testing.assert_array_equal(labels, stream.step(VIDEO.image(t), masks=FIRST if t == 0 else None).labels)


def test_a_video_file_reduced(run, film, first, steps):
    out = run(film, first, "--every", 2, "--max-size", 40, "--overlay", "--memory-frames", 1)
    assert [(image.shape[:2], named["masks"] is None) for _, image, named, _ in steps] == [
        ((30, 40), False),
        ((30, 40), True),
    ]
    found = labels_in(out / "film")
    assert list(found) == FRAMES[::2] and all(labels.shape == (HEIGHT, WIDTH) for labels in found.values())
    np.testing.assert_array_equal(found[FRAMES[0]], FIRST)
    assert open_source(out / "overlay.mp4").fps == pytest.approx(12.5)
    content = json.loads((out / "run.json").read_text())
    assert content["processed_size"] == [30, 40] and content["config"]["memory"]["frames"] == 1


def test_learning_online_from_a_seed(run, monkeypatch, clip, first):
    seeds, learnt, learn = [], [], online.learn_online

    class Watched(VideoSegmenter):
        def __init__(self, *arguments, seed):
            super().__init__(*arguments, seed=seed)
            seeds.append(seed)

    def watched(net, *arguments, **named):
        learnt.append((net, learn(net, *arguments, **named), named["steps"], named["peak"]))
        return learnt[-1][1]

    monkeypatch.setattr(segment_run, "VideoSegmenter", Watched)
    monkeypatch.setattr(online, "learn_online", watched)
    one, same = (results(run(clip, first, "--seed", 5, "--online-steps", 2, out=out)) for out in "ab")
    assert one == same and seeds == [5, 5]
    before, after, *named = learnt[0]
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert named == [2, PRESET.config.online.rate]


def test_interrupted_runs_leave_whole_files(run, monkeypatch, capsys, clip, first):
    complete = run(clip, first, "--overlay", "--memory-frames", 2)
    before, step = (complete / "overlay.mp4").read_bytes(), VideoSegmenter.step

    def stopping(self, *arguments, **named):
        if self.frame_idx == 1:
            raise KeyboardInterrupt
        return step(self, *arguments, **named)

    monkeypatch.setattr(VideoSegmenter, "step", stopping)
    run(clip, first, "--overlay", status=130)
    assert "the same command goes on" in capsys.readouterr().err
    assert {path.name for path in complete.iterdir()} == {"clip", "overlay.mp4"}, "no settings, nothing temporary"
    assert (complete / "overlay.mp4").read_bytes() == before
    assert list(labels_in(complete / "clip")) == FRAMES


def test_incomplete_videos_are_told(run, capsys, tmp_path, film, first):
    path = tmp_path / "film.avi"
    path.write_bytes(film.read_bytes()[: film.stat().st_size * 2 // 3])
    found = len(labels_in(run(path, first) / "film"))
    assert 0 < found < COUNT - 1 and f"{found} can be decoded; is it complete?" in capsys.readouterr().out


def test_without_a_checkpoint_the_network_learns_from_the_mask(run, monkeypatch, capsys, clip, first, learned):
    monkeypatch.setattr(segment_options, "find_preset", lambda name: PRESET)
    out = run(clip, first, "--checkpoint", "none")
    assert learned["steps"] == 400 and learned["peak"] == PRESET.learning_rate
    config = json.loads((out / "run.json").read_text())["config"]
    assert not config["spatial"]["node_gate"] and not config["temporal"]["enabled"], "which nothing has trained"
    np.testing.assert_array_equal(learned["labels"], [FIRST])
    np.testing.assert_array_equal(learned["images"], [VIDEO.image(0)])
    printed = capsys.readouterr().out
    assert "--checkpoint none" in printed and "400 steps" in printed and "do better" in printed
    run(clip, first, "--checkpoint", "none", "--online-steps", 7)
    assert learned["steps"] == 7


def test_the_shipped_checkpoint_is_the_default(run, monkeypatch, capsys, clip, first, checkpoint):
    monkeypatch.setattr(checkpoints, "SHIPPED", checkpoint)
    shipped = results(run(clip, first, "--checkpoint", "shipped", out="shipped"))
    assert "not for commercial use" in capsys.readouterr().out
    assert shipped == results(run(clip, first, out="named"))


def test_several_given_frames_are_learned(run, monkeypatch, tmp_path, clip, learned):
    monkeypatch.setattr(segment_run, "MOST_LEARNT", 3)
    for t in range(COUNT):
        write_label_map(tmp_path / "masks" / f"{FRAMES[t]}.png", VIDEO.labels(t))
    run(clip, tmp_path / "masks", "--online")
    assert learned["steps"] == 150, "the checkpoint itself says none"
    np.testing.assert_array_equal(learned["labels"], [VIDEO.labels(t) for t in (0, 1, 2)])
    np.testing.assert_array_equal(learned["images"], [VIDEO.image(t) for t in (0, 1, 2)])


def test_objects_at_once(run, clip, first, monkeypatch):
    kinds, make = [], segment_run.Run._make_segmenter
    monkeypatch.setattr(segment_run.Run, "_make_segmenter", lambda *given: kinds.append(make(*given)) or kinds[-1])
    all_at_once = labels_in(run(clip, first) / "clip")
    one_by_one = labels_in(run(clip, first, "--max-objects-at-once", 1, out="groups") / "clip")
    assert type(kinds[0]) is VideoSegmenter
    assert isinstance(kinds[1], GroupedSegmenter) and kinds[1].max_objects == 1 and len(IDS) > 1
    for name in FRAMES:
        assert (one_by_one[name] != all_at_once[name]).mean() < 1e-2


def write_proposals(path, sequence, frames):
    """Squares, the second of them without a mask, as COCO results."""
    squares = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    squares[0, 6:30, 8:30] = squares[1, 20:40, 30:50] = True
    encoded = EncodedProposals.from_proposals(Proposals.from_masks(squares))
    write_coco_results(path, {sequence: {name: encoded for name in frames}})
    return path


def test_proposals(run, complaint, tmp_path, monkeypatch, clip, first, steps):
    path = write_proposals(tmp_path / "p.json", "elsewhere", FRAMES)
    run(clip, first, "--proposals", path)
    assert [(len(named["proposals"]), named["proposals"].size) for _, _, named, _ in steps] == [
        (2, (HEIGHT, WIDTH))
    ] * COUNT
    steps.clear()
    run(clip, first, "--proposals", path, "--max-size", 32, "--sequence", "elsewhere", out="small")
    assert steps[0][2]["proposals"].size == (24, 32) and steps[0][2]["proposals"].boxes[0].tolist() == [4, 3, 15, 15]
    monkeypatch.setattr(online, "learn_online", None)
    assert list(labels_in(run(clip, first, "--proposals", path, "--checkpoint", "shipped") / "clip")) == FRAMES
    message = complaint(clip, first, "--proposals", path, "--sequence", "mine")
    assert "'mine'" in message and "elsewhere" in message and "--sequence" in message
    assert "frame7" in complaint(clip, first, "--proposals", write_proposals(path, "clip", ["frame7"]))


def test_label_maps_named_as_frames(run, tmp_path, clip, film, masks, capsys):
    found = labels_in(run(film, masks) / "film")
    assert not found[FRAMES[0]].any()
    np.testing.assert_array_equal(found[FRAMES[1]], VIDEO.labels(1))
    assert 200 not in found[FRAMES[2]] and (found[FRAMES[3]][LATE > 0] == 200).all(), "the object that comes later"
    printed = capsys.readouterr().out
    assert f"the frames before {FRAMES[1]}" in printed and f"objects ({', '.join(map(str, [*IDS, 200]))})" in printed
    one = np.where(FIRST == 1, np.uint8(4), np.uint8(0))
    for name in (FRAMES[0], FRAMES[3]):
        write_label_map(tmp_path / "corrections" / f"{name}.png", one)
    corrected = labels_in(run(clip, tmp_path / "corrections", out="corrected") / "clip")[FRAMES[3]]
    np.testing.assert_array_equal(corrected == 4, one == 4)


def test_bad_arguments(complaint, tmp_path, clip, first):
    for words, *arguments in (
        ("--every", "--every", 0),
        ("--max-size", "--max-size", 8),
        ("--memory-frames", "--memory-frames", "many"),
        ("--sequence", "--sequence", "../x"),
        ("nosuch", "--flow", "nosuch"),
        ("excludes --every", "--flow", clip, "--every", 2),
        ("excludes --max-size", "--flow", clip, "--max-size", 40),
        ("experiments.train", "--checkpoint", tmp_path / "none.pt"),
        (str(tmp_path / "p.json"), "--proposals", tmp_path / "p.json"),
        ("--temporal-conv: unknown temporal layer 'jont'", "--temporal-conv", "jont"),
        ("--masks excludes --boxes", "--boxes", first),
    ):
        assert words in complaint(clip, first, *arguments)
    assert str(tmp_path / "none.mp4") in complaint(tmp_path / "none.mp4", first)
    assert "is one picture" in complaint(clip / f"{FRAMES[0]}.png", first)
    assert "give --masks, --boxes or --points" in complaint(clip, None)
    assert "--points: needs a trained network" in complaint(clip, None, "--points", first, "--checkpoint", "none")
    vanishing = np.zeros_like(FIRST)
    vanishing[:20, :20], vanishing[40, 40] = 1, 7
    write_label_map(first, vanishing)
    message = complaint(clip, first, "--max-size", 32)
    assert "object 7 vanishes at 32 x 24" in message and "--max-size" in message


def test_what_was_given_is_never_replaced(run, capsys, clip, first):
    frames = {path.name: path.read_bytes() for path in clip.iterdir()}
    run(clip, first, "--out", clip.parent, status=2)
    assert f"{clip}: results would be written" in error_line(capsys)
    assert {path.name: path.read_bytes() for path in clip.iterdir()} == frames
    out = run(clip, first, "--overlay")
    before = (out / "overlay.mp4").read_bytes()
    run(out / "overlay.mp4", first, "--overlay", status=2)
    assert "would replace this very file" in error_line(capsys, alone=False)
    run(clip, out / "clip", status=2)
    assert "results would be written" in error_line(capsys)
    assert (out / "overlay.mp4").read_bytes() == before


def test_help_tells_the_forms(monkeypatch, capsys):
    assert command(monkeypatch, "segment", "--help") == 0
    printed = capsys.readouterr().out
    forms = ("<frame>.png", "one black and white PNG an object", "later file is on top", '"category_id": <object id>')
    for word in (*forms, "overlay.mp4", "examples", "goes on when the same command"):
        assert word in printed
