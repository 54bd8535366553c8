# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
import json
import os
import signal
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from commands import command
from killed_runs import files_in, one_thread, run_killed
from segment_cases import COUNT, FIRST, FRAMES, VIDEO, checkpoint, clip, film, first, labels_in, run

from experiments.common import checkpoints
from experiments.segment import resume as segment_resume
from stg_pyg.learning import lesson as online
from stg_pyg.learning.first_frame import learn_online
from stg_pyg.utils.images import write_label_map
from stg_pyg.video.segmenter import VideoSegmenter


@pytest.fixture(autouse=True)
def saved_after_every_frame(monkeypatch):
    monkeypatch.setattr(segment_resume, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(
        "experiments.runs.settings.code_digest", lambda: "the code"
    )  # which may be edited while tests run


@pytest.fixture
def masks(tmp_path) -> Path:
    """The first mask, and an object that comes later."""
    late = np.zeros_like(FIRST)
    late[2:9, 2:9] = 200
    write_label_map(tmp_path / "masks" / f"{FRAMES[0]}.png", FIRST)
    write_label_map(tmp_path / "masks" / f"{FRAMES[2]}.png", late)
    return tmp_path / "masks"


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """Positions of the frames that are segmented."""
    seen: list[int] = []
    step = VideoSegmenter.step

    def watched(self, *arguments, **named):
        seen.append(self.frame_idx + 1)
        return step(self, *arguments, **named)

    monkeypatch.setattr(VideoSegmenter, "step", watched)
    return seen


def results(out: Path) -> dict[str, bytes]:
    """All files of a finished run but that with times."""
    files = files_in(out)
    assert "run.json" in files and not [name for name in files if name.startswith(".") or "/." in name]
    del files["run.json"]
    return files


def pictures(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)])


@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_is_killed_again_and_again_comes_to_the_same_end(run, monkeypatch, tmp_path, clip, masks, after):
    """Killed at every sixth write of a file, a frame having five with its state; the network is updated on the way."""
    monkeypatch.setattr("stg_pyg.video.segmenter.is_trusted", lambda quality, agreement, config: quality > -1)
    everything = ("--online", "--online-steps", 2, "--update-every", 2, "--alpha", "--coco", "--overlay")
    with one_thread():
        expected = results(run(clip, masks, *everything, out="whole"))
    kills = 0
    while run_killed(lambda: run(clip, masks, *everything, out="killed") and 0, at=6, after=after):
        kills += 1
        assert kills < 40, "no progress"
        assert not (tmp_path / "killed/run.json").exists() or after
    assert kills >= 5
    assert results(tmp_path / "killed") == expected
    ids = set(np.unique(FIRST).tolist()) - {0} | {200}
    assert len(expected) == COUNT * (1 + len(ids)) + len(["confidence.json", "results.json", "overlay.mp4"])


@pytest.mark.parametrize("options", [(), ("--every", 2, "--max-size", 40)])
def test_video_files_go_on_too(run, capsys, tmp_path, film, first, steps, options):
    with one_thread():
        expected = results(run(film, first, *options, out="whole"))
    steps.clear()
    assert run_killed(lambda: run(film, first, *options, out="killed") and 0, at=4, after=True)
    saved = torch.load(tmp_path / "killed/.state/film/stream.pt", weights_only=True)
    assert saved["position"] == 2
    capsys.readouterr()
    assert results(run(film, first, *options, out="killed")) == expected
    assert steps == list(range(2, 3 if options else COUNT)), "what is saved is not done again"
    every = 2 if options else 1
    assert f"going on after frame {FRAMES[every]} of a run that was stopped" in capsys.readouterr().out


def test_killed_while_it_learns(run, tmp_path, monkeypatch, clip, first):
    options = ("--online-steps", 3)
    with one_thread():
        expected = results(run(clip, first, *options, out="whole"))

    def killing(*arguments, **named):
        learn_online(*arguments, **{**named, "steps": 1})
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(online, "learn_online", killing)
        assert run_killed(lambda: run(clip, first, *options, out="killed") and 0, at=99)
    assert results(run(clip, first, *options, out="killed")) == expected


def test_what_was_learned_is_not_learned_again(run, tmp_path, monkeypatch, clip, first):
    assert run_killed(lambda: run(clip, first, "--online-steps", 1, out="killed") and 0, at=3, after=True)
    monkeypatch.setattr(online, "learn_online", None)
    out = run(clip, first, "--online-steps", 1, out="killed")
    assert json.loads((out / "run.json").read_text())["online_seconds"] > 0


def test_keys_that_were_learned_are_kept_too(run, tmp_path, monkeypatch, clip, first):
    load = checkpoints.load_model

    def asking_for_keys(path):
        model, preset = load(path)
        model.config = model.config.replace("online.key_steps", 2)
        return model, preset

    monkeypatch.setattr(checkpoints, "load_model", asking_for_keys)
    with one_thread():
        expected = results(run(clip, first, "--online-steps", 1, out="whole"))
    assert run_killed(lambda: run(clip, first, "--online-steps", 1, out="killed") and 0, at=3, after=True)
    saved = torch.load(tmp_path / "killed/.state/clip/network.pt", weights_only=True)
    assert saved["weights"].keys() == {"segmentation", "key_encoder"}
    monkeypatch.setattr(online, "learn_keys_online", None)
    assert results(run(clip, first, "--online-steps", 1, out="killed")) == expected


def test_another_command_begins_anew_and_says_so(run, capsys, tmp_path, clip, first, steps):
    with one_thread():
        expected = results(run(clip, first, "--memory-frames", 2, out="whole"))
    assert run_killed(lambda: run(clip, first, out="killed") and 0, at=6)
    steps.clear()
    capsys.readouterr()
    assert results(run(clip, first, "--memory-frames", 2, out="killed")) == expected
    assert len(steps) == COUNT
    assert "is of another run (other: memory.frames), so this one begins anew" in capsys.readouterr().out


def test_another_version_of_the_program_begins_anew(run, capsys, monkeypatch, clip, first):
    assert run_killed(lambda: run(clip, first, out="killed") and 0, at=6)
    monkeypatch.setattr("experiments.runs.settings.code_digest", lambda: "other code")
    capsys.readouterr()
    run(clip, first, "--seed", 2, out="killed")
    assert "(other: --seed, the program), so this one begins anew" in capsys.readouterr().out


def test_another_mask_of_the_same_name_begins_anew(run, capsys, clip, first):
    assert run_killed(lambda: run(clip, first, out="killed") and 0, at=6)
    write_label_map(first, np.where(FIRST > 0, np.uint8(4), np.uint8(0)))
    capsys.readouterr()
    out = run(clip, first, out="killed")
    assert set(np.unique(labels_in(out / "clip")[FRAMES[0]])) == {0, 4}
    assert "(other: --masks)" in capsys.readouterr().out


@pytest.mark.parametrize("broken", [b"", b"PK\3\4 no archive", None])
def test_damaged_states_count_as_none(run, capsys, tmp_path, clip, first, broken):
    assert run_killed(lambda: run(clip, first, out="killed") and 0, at=6)
    state = tmp_path / "killed/.state/clip/stream.pt"
    state.write_bytes(state.read_bytes()[:-2000] if broken is None else broken)
    capsys.readouterr()
    results(run(clip, first, out="killed"))
    assert "or damaged), so this one begins anew" in capsys.readouterr().out


def test_masks_that_are_gone_are_made_again(run, capsys, tmp_path, clip, first, steps):
    assert run_killed(lambda: run(clip, first, out="killed") and 0, at=6)
    (tmp_path / "killed/clip" / f"{FRAMES[1]}.png").unlink()
    capsys.readouterr()
    assert list(labels_in(run(clip, first, out="killed") / "clip")) == FRAMES
    assert len(steps) == COUNT and "masks of an earlier run are gone" in capsys.readouterr().out


def test_finished_masks_are_not_made_again(run, capsys, tmp_path, clip, first, steps):
    expected = results(run(clip, first, "--coco", "--overlay", out="whole"))
    run(clip, first, out="two")
    steps.clear()
    capsys.readouterr()
    found = results(run(clip, first, "--coco", "--overlay", out="two"))
    del expected["overlay.mp4"], found["overlay.mp4"]  # an encoder of a process that does much else may differ in a bit
    assert found == expected and not steps
    one, other = (pictures(tmp_path / out / "overlay.mp4") for out in ("whole", "two"))
    assert one.shape == other.shape == (COUNT, *FIRST.shape, 3) and np.abs(one - other).mean() < 1
    printed = capsys.readouterr().out
    assert "all masks are there from an earlier run" in printed and f"{COUNT} masks in" in printed
    run(clip, first, "--alpha", out="two")
    assert len(steps) == COUNT, "soft masks are not to be had from the masks"
    steps.clear()
    (tmp_path / "two/run.json").unlink()
    run(clip, first, "--alpha", out="two")
    assert len(steps) == COUNT
