# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
import dataclasses
import json

import numpy as np
import pytest
import torch
from commands import command
from PIL import Image
from segment_cases import (
    COUNT,
    FIRST,
    FRAMES,
    HEIGHT,
    PRESET,
    VIDEO,
    WIDTH,
    checkpoint,
    clip,
    complaint,
    film,
    first,
    labels_in,
    run,
)

from experiments.common import checkpoints, cli
from experiments.segment import options as segment_options
from experiments.segment.frames import FrameResult
from stg_pyg.flow.flo_files import write_flo
from stg_pyg.learning import lesson as online
from stg_pyg.utils.images import davis_palette, write_image, write_label_map
from stg_pyg.video.frames import open_source
from stg_pyg.video.segmenter import StepResult, VideoSegmenter


def test_folder_of_frames(run, capsys, tmp_path, clip, first):
    out = run(clip, first)
    assert {path.name for path in out.iterdir()} == {"clip", "confidence.json", "run.json"}
    assert {path.name for path in (out / "clip").iterdir()} == {f"{name}.png" for name in FRAMES}
    for t, name in enumerate(FRAMES):
        mask = Image.open(out / "clip" / f"{name}.png")
        assert (mask.mode, mask.size) == ("P", (WIDTH, HEIGHT))
        assert mask.getpalette("RGB") == davis_palette().ravel().tolist()
        assert set(np.unique(mask)) <= set(np.unique(FIRST))
        if t == 0:
            np.testing.assert_array_equal(np.array(mask), FIRST)
    content = json.loads((out / "run.json").read_text())
    assert (content["sequence"], content["frames"], content["size"]) == ("clip", COUNT, [HEIGHT, WIDTH])
    assert content["object_ids"] == sorted(set(np.unique(FIRST).tolist()) - {0})
    assert (content["seed"], content["every"], content["flow"], content["online_steps"]) == (0, 1, "dis", 0)
    assert content["config"]["warping"]["gaps"] == [1, 2] and content["seconds_per_frame"] > 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{COUNT} masks in {out / 'clip'}, ") and last.endswith(" s a frame")


def test_the_labels_are_those_of_the_stream(run, clip, first, checkpoint):
    found = labels_in(run(clip, first) / "clip")
    model, preset = checkpoints.load_model(checkpoint)
    mixed_precision = cli.bfloat16_is_fast(torch.device("cpu"))
    stream = VideoSegmenter(model, crop_size=preset.crop_size, mixed_precision=mixed_precision)
    for t, name in enumerate(FRAMES):
        with torch.no_grad():
            expected = stream.step(VIDEO.image(t), masks=FIRST if t == 0 else None).labels
        np.testing.assert_array_equal(found[name], expected)


def test_the_seed_reaches_the_updates(run, clip, first, monkeypatch):
    seeds = []

    class Watched(VideoSegmenter):
        def __init__(self, *arguments, seed):
            super().__init__(*arguments, seed=seed)
            seeds.append(seed)

    monkeypatch.setattr("experiments.segment.run.VideoSegmenter", Watched)
    run(clip, first, "--seed", "7")
    assert seeds == [7]


def test_video_file_and_overlay(run, film, first):
    out = run(film, first, "--overlay")
    assert {path.name for path in out.iterdir()} == {"film", "confidence.json", "run.json", "overlay.mp4"}
    assert list(labels_in(out / "film")) == FRAMES
    drawn = open_source(out / "overlay.mp4")
    frames = [frame for _, frame in drawn]
    assert len(frames) == COUNT and drawn.size == (HEIGHT, WIDTH) and drawn.fps == pytest.approx(25)
    change = np.abs(frames[0].astype(int) - VIDEO.image(0)).mean(axis=-1)
    assert change[FIRST > 0].mean() > 3 * change[FIRST == 0].mean()


def test_overlay_of_odd_frames_from_a_folder(run, tmp_path, first):
    for t in range(3):
        write_image(tmp_path / "odd" / f"{t}.png", VIDEO.image(t)[:-1, :-3])
    write_label_map(first, FIRST[:-1, :-3])
    drawn = open_source(run(tmp_path / "odd", first, "--overlay") / "overlay.mp4")
    assert drawn.size == (HEIGHT, WIDTH - 2) and drawn.fps == pytest.approx(10) and len(list(drawn)) == 3


def test_same_seed_same_bytes(run, clip, first):
    def written(out: str, seed: int) -> list[bytes]:
        folder = run(clip, first, "--seed", seed, "--online-steps", 2, out=out) / "clip"
        return [path.read_bytes() for path in sorted(folder.iterdir())]

    assert written("a", 5) == written("b", 5)


def test_every_and_max_size(run, film, first, monkeypatch):
    sizes, step = [], VideoSegmenter.step

    def watched(self, image, **arguments):
        sizes.append((image.shape[:2], None if arguments["masks"] is None else arguments["masks"].shape))
        return step(self, image, **arguments)

    monkeypatch.setattr(VideoSegmenter, "step", watched)
    out = run(film, first, "--every", 2, "--max-size", 40, "--overlay")
    assert sizes == [((30, 40), (30, 40)), ((30, 40), None), ((30, 40), None)]
    found = labels_in(out / "film")
    assert list(found) == FRAMES[::2] and all(labels.shape == (HEIGHT, WIDTH) for labels in found.values())
    np.testing.assert_array_equal(found[FRAMES[0]], FIRST)
    assert open_source(out / "overlay.mp4").fps == pytest.approx(12.5)
    assert json.loads((out / "run.json").read_text())["processed_size"] == [30, 40]


def test_memory_frames(run, clip, first, monkeypatch):
    held, step = [], VideoSegmenter.step

    def watched(self, *arguments, **named):
        result = step(self, *arguments, **named)
        held.append(len(self.objects[0].bank))
        return result

    monkeypatch.setattr(VideoSegmenter, "step", watched)
    out = run(clip, first, "--memory-frames", 2)
    assert max(held) <= 2
    assert json.loads((out / "run.json").read_text())["config"]["memory"]["frames"] == 2


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError])
def test_interrupted_runs_leave_whole_files(run, monkeypatch, capsys, clip, first, stop):
    complete = run(clip, first, "--overlay", "--memory-frames", 2)
    before = (complete / "overlay.mp4").read_bytes()
    step = VideoSegmenter.step

    def stopping(self, *arguments, **named):
        if self.frame_idx == 1:
            raise stop
        return step(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(VideoSegmenter, "step", stopping)
        if stop is KeyboardInterrupt:
            run(clip, first, "--overlay", status=130)
            assert "the same command goes on" in capsys.readouterr().err
        else:
            with pytest.raises(ZeroDivisionError):
                run(clip, first, "--overlay")
    assert {path.name for path in complete.iterdir()} == {"clip", "overlay.mp4"}, "no settings, nothing temporary"
    assert (complete / "overlay.mp4").read_bytes() == before
    assert list(labels_in(complete / "clip")) == FRAMES
    run(clip, first, "--overlay")
    assert (complete / "run.json").is_file()


def test_masks_of_an_earlier_run_are_told(run, capsys, clip, first):
    run(clip, first)
    run(clip, first, "--every", 2)
    assert "2 masks of an earlier run" in capsys.readouterr().out


def test_incomplete_videos_are_told(run, capsys, tmp_path, film, first):
    path = tmp_path / "film.avi"
    path.write_bytes(film.read_bytes()[: film.stat().st_size * 2 // 3])
    out = run(path, first)
    found = len(labels_in(out / "film"))
    assert 0 < found < COUNT - 1 and f"{found} can be decoded; is it complete?" in capsys.readouterr().out


def test_without_a_checkpoint_the_network_learns_from_the_mask(monkeypatch, capsys, tmp_path, clip, first):
    seen = {}

    def learning(net, image, labels, config, **arguments):
        seen.update(arguments, image=image, labels=labels)
        return net

    tiny = dataclasses.replace(PRESET, backbone=None, width=8)
    monkeypatch.setattr(segment_options, "find_preset", lambda name: tiny)
    monkeypatch.setattr(online, "learn_online", learning)
    arguments = (clip, "--masks", first, "--out", tmp_path / "out", "--device", "cpu", "--checkpoint", "none")
    assert command(monkeypatch, "segment", *arguments) == 0
    assert seen["steps"] == 400 and seen["peak"] == tiny.learning_rate
    config = json.loads((tmp_path / "out/run.json").read_text())["config"]
    assert not config["spatial"]["node_gate"] and not config["temporal"]["enabled"], "which nothing has trained"
    np.testing.assert_array_equal(seen["labels"], [FIRST])
    np.testing.assert_array_equal(seen["image"], [VIDEO.image(0)])
    printed = capsys.readouterr().out
    assert "--checkpoint none" in printed and "400 steps" in printed and "do better" in printed
    assert list(labels_in(tmp_path / "out/clip")) == FRAMES
    assert command(monkeypatch, "segment", *arguments, "--online-steps", 7) == 0 and seen["steps"] == 7


def test_the_shipped_checkpoint_is_the_default(monkeypatch, capsys, tmp_path, clip, first, checkpoint):
    monkeypatch.setattr(checkpoints, "SHIPPED", checkpoint)
    arguments = (clip, "--masks", first, "--device", "cpu", "--out")
    assert command(monkeypatch, "segment", *arguments, tmp_path / "shipped") == 0
    assert "not for commercial use" in capsys.readouterr().out
    assert command(monkeypatch, "segment", *arguments, tmp_path / "named", "--checkpoint", checkpoint) == 0
    shipped, named = (labels_in(tmp_path / name / "clip") for name in ("shipped", "named"))
    for frame, labels in shipped.items():
        np.testing.assert_array_equal(labels, named[frame])


def test_online_learning_changes_the_network(run, monkeypatch, clip, first):
    learnt, steps = [], []
    learn = online.learn_online

    def watched(net, *arguments, **named):
        result = learn(net, *arguments, **named)
        learnt.append((net, result))
        steps.append(named)
        return result

    monkeypatch.setattr(online, "learn_online", watched)
    out = run(clip, first, "--online-steps", 2)
    ((before, after),) = learnt
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert (steps[0]["steps"], steps[0]["peak"]) == (2, PRESET.config.online.rate)
    assert json.loads((out / "run.json").read_text())["online_seconds"] > 0


def test_stored_flow(run, complaint, capsys, tmp_path, clip, first):
    masks = tmp_path / "masks"
    write_label_map(masks / f"{FRAMES[1]}.png", VIDEO.labels(1))
    for name in FRAMES[2:]:
        (tmp_path / "flow/clip").mkdir(parents=True, exist_ok=True)
        write_flo(tmp_path / "flow/clip" / f"{name}.flo", np.zeros((HEIGHT, WIDTH, 2), np.float32))
    assert len(labels_in(run(clip, masks, "--flow", tmp_path / "flow") / "clip")) == COUNT
    assert "excludes --every" in complaint(clip, first, "--flow", tmp_path / "flow", "--every", 2)
    assert "excludes --max-size" in complaint(clip, first, "--flow", tmp_path / "flow", "--max-size", 40)


def test_soft_masks_at_the_full_size():
    masks = torch.zeros(3, 4, 4)
    masks[0, :, :2], masks[1, :, 1:3], masks[2] = 0.8, 0.9, 0.3
    result = StepResult(torch.zeros(4, 4, dtype=torch.uint8), masks, [3, 8, 5])
    labels = FrameResult("0", (8, 8), 0.5, None, result).labels()
    assert (labels[:, 0] == 3).all() and (labels[:, 3:5] == 8).all() and not labels[:, 7].any()
    given = np.zeros((8, 8), np.uint8)
    given[:2, :2] = 8
    labels = FrameResult("0", (8, 8), 0.5, given, result).labels()
    assert (labels == 8).sum() == 4 and (labels[3:, :3] == 3).all()
    assert not FrameResult("0", (8, 8), 0.5).labels().any(), "before the first mask"


def test_help_tells_the_forms_of_masks(monkeypatch, capsys):
    assert command(monkeypatch, "segment", "--help") == 0
    printed = capsys.readouterr().out
    for word in ("<frame>.png", "one black and white PNG an object", "later file is on top", "overlay.mp4", "examples"):
        assert word in printed


def test_other_layers(run, complaint, clip, first, checkpoint):
    base = labels_in(run(clip, first) / "clip")
    layers = ("--spatial-conv", "own_layers:Plain", "--temporal-conv", "joint:top_k=1")
    assert complaint(clip, first, *layers) == (
        f"error: --spatial-conv own_layers:Plain: {checkpoint} has no weights of this layer; "
        "train it with python -m experiments.train --spatial-conv own_layers:Plain"
    )
    assert "--temporal-conv: unknown temporal layer 'jont'" in complaint(clip, first, "--temporal-conv", "jont")
    out = run(clip, first, "--spatial-conv", "mean", "--temporal-conv", "joint:top_k=1", out="other")
    config = json.loads((out / "run.json").read_text())["config"]
    assert (config["spatial"]["conv"], config["temporal"]["conv"]) == ("mean", "joint:top_k=1")
    model, preset = checkpoints.load_model(checkpoint)
    options = {"spatial.conv": "mean", "temporal.conv": "joint:top_k=1"}
    changed = checkpoints.build_model(preset, model.config.replace(options))
    changed.load_state_dict(model.state_dict())
    stream = VideoSegmenter(
        changed.eval(), crop_size=preset.crop_size, mixed_precision=cli.bfloat16_is_fast(torch.device("cpu"))
    )
    for t, name in enumerate(FRAMES):
        with torch.no_grad():
            expected = stream.step(VIDEO.image(t), masks=FIRST if t == 0 else None).labels
        np.testing.assert_array_equal(labels_in(out / "clip")[name], expected)
    assert base.keys() == labels_in(out / "clip").keys()
