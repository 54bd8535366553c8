# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
"""Runs that were killed go on, and threads that read and compute ahead change nothing: always the same bytes."""

import json
import os
import signal
import threading

import cv2
import numpy as np
import pytest
import torch
from commands import error_line
from killed_runs import one_thread, run_killed
from segment_cases import (
    COUNT,
    FIRST,
    FRAMES,
    HEIGHT,
    IDS,
    VIDEO,
    WIDTH,
    checkpoint,
    clip,
    film,
    first,
    labels_in,
    masks,
    results,
    run,
    steps,
)

from experiments.common import checkpoints
from experiments.segment import run as segment_run
from stg_pyg.flow import ahead as flow_ahead
from stg_pyg.flow.dis import DISFlow
from stg_pyg.flow.flo_files import write_flo
from stg_pyg.learning import lesson as online
from stg_pyg.learning.first_frame import learn_online
from stg_pyg.utils import read_ahead
from stg_pyg.utils.images import write_image, write_label_map


@pytest.fixture(autouse=True)
def saved_after_every_frame(monkeypatch):
    monkeypatch.setattr(segment_run, "SAVE_SECONDS", 0.0)
    # The code may be edited while tests run.
    monkeypatch.setattr("experiments.runs.settings.code_digest", lambda: "the code")
    yield
    assert not [thread.name for thread in threading.enumerate() if "-ahead" in thread.name]


@pytest.fixture
def ahead(monkeypatch):
    monkeypatch.setattr(segment_run, "spare_cores", lambda device: 1)


class NoThread:
    """A pool that refuses to work."""

    def __init__(self, *arguments):
        self.submit = None

    def shutdown(self, **options):
        pass


def one_by_one(run, monkeypatch, *arguments):
    """The results without threads."""
    with monkeypatch.context() as patch:
        patch.setattr(segment_run, "spare_cores", lambda device: 0)
        patch.setattr(read_ahead, "ThreadPoolExecutor", NoThread)
        patch.setattr(flow_ahead, "ThreadPoolExecutor", NoThread)
        return results(run(*arguments, out="one_by_one"))


CASES = {
    "plain": (),
    "smaller": ("--max-size", 40, "--every", 2),
    "groups and soft masks": ("--max-objects-at-once", 1, "--alpha"),
    "updates": ("--update-every", 2, "--trace"),
}


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_threads_change_no_byte(run, monkeypatch, film, first, ahead, arguments):
    expected = one_by_one(run, monkeypatch, film, first, *arguments)
    assert results(run(film, first, *arguments, out="ahead")) == expected


def test_stored_flow_is_read_ahead(run, monkeypatch, capsys, tmp_path, clip, masks, ahead):
    """Of the frames after the second one, the first that the network sees; and one that is missing is told."""
    for t, name in enumerate(FRAMES[2:]):
        (tmp_path / "flow/clip").mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(t).normal(0, 1, (HEIGHT, WIDTH, 2)).astype(np.float32)
        write_flo(tmp_path / "flow/clip" / f"{name}.flo", noise)
    expected = one_by_one(run, monkeypatch, clip, masks, "--flow", tmp_path / "flow")
    assert (
        results(run(clip, masks, "--flow", tmp_path / "flow", out="ahead")) == expected and len(expected) == COUNT + 1
    )
    (tmp_path / "flow/clip" / f"{FRAMES[3]}.flo").unlink()
    out = run(clip, masks, "--flow", tmp_path / "flow", status=2)
    assert f"{FRAMES[3]}.flo" in error_line(capsys, alone=False)
    assert list(labels_in(out / "clip")) == FRAMES[:3]


def test_flow_is_computed_ahead(run, monkeypatch, clip, first, ahead):
    """Each pair of frames once, in the thread, if that is given the time."""
    pairs, call, prepare_flow = [], DISFlow.__call__, segment_run.prepare_flow

    def watched(self, current, previous):
        pairs.append((threading.current_thread().name.partition("_")[0], current.tobytes(), previous.tobytes()))
        return call(self, current, previous)

    def waiting(flow, *arguments):
        prepare_flow(flow, *arguments)
        flow._pool.submit(lambda: None).result()

    monkeypatch.setattr(DISFlow, "__call__", watched)
    monkeypatch.setattr(segment_run, "prepare_flow", waiting)
    run(clip, first)
    images = [VIDEO.image(t).tobytes() for t in range(COUNT)]
    wanted = [(images[t], images[t - gap]) for t in range(1, COUNT) for gap in (1, 2) if t - gap >= 0]
    assert sorted(pair[1:] for pair in pairs) == sorted(wanted)
    assert {pair[0] for pair in pairs} == {"flow-ahead"}


def test_a_broken_frame_is_told_in_its_turn(run, capsys, tmp_path, first, ahead):
    for t, name in enumerate(FRAMES):
        write_image(tmp_path / "broken" / f"{name}.png", VIDEO.image(t))
    path = tmp_path / "broken" / f"{FRAMES[2]}.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    out = run(tmp_path / "broken", first, status=2)
    assert f"{FRAMES[2]}.png: cannot be decoded" in error_line(capsys, alone=False)
    assert list(labels_in(out / "broken")) == FRAMES[:2], "the frames before it are done"
    path.write_bytes(whole)
    assert list(labels_in(run(tmp_path / "broken", first) / "broken")) == FRAMES


@pytest.mark.parametrize("cores, threads, spare", [(1, 1, 0), (2, 1, 1), (2, 4, 0), (8, 3, 5)])
def test_opencv_keeps_to_the_cores_that_the_network_leaves(monkeypatch, cores, threads, spare):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert segment_run.spare_cores(torch.device("cpu")) == spare
    assert segment_run.spare_cores(torch.device("cuda")) == cores
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        with segment_run._opencv_on(spare):
            assert cv2.getNumThreads() == (min(spare, 3) or 3)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("after", [False, True])
def test_killed_again_and_again_it_comes_to_the_same_end(run, monkeypatch, tmp_path, film, masks, after, ahead):
    """Killed at every sixth write of a file, a frame having five with its state; the network is updated on the way."""
    monkeypatch.setattr("stg_pyg.video.segmenter.is_trusted", lambda quality, agreement, config: quality > -1)
    everything = ("--online", "--online-steps", 2, "--update-every", 2, "--alpha", "--coco", "--overlay")
    with one_thread():
        expected = results(run(film, masks, *everything, out="whole"))
    kills = 0
    while run_killed(lambda: run(film, masks, *everything, out="killed") and 0, at=6, after=after):
        kills += 1
        assert kills < 40, "no progress"
        assert not (tmp_path / "killed/run.json").exists() or after
    assert kills >= 4
    assert results(tmp_path / "killed") == expected
    assert len(expected) == COUNT * (2 + len(IDS)) + len(["confidence.json", "results.json", "overlay.mp4"])


def test_what_is_saved_is_not_done_again(run, capsys, monkeypatch, tmp_path, film, first, steps):
    """Neither frames nor what the network and its keys have learned."""
    load = checkpoints.load_model

    def asking_for_keys(path):
        model, preset = load(path)
        model.config = model.config.replace("online.key_steps", 2)
        return model, preset

    monkeypatch.setattr(checkpoints, "load_model", asking_for_keys)
    options = ("--online-steps", 1, "--max-size", 40)
    with one_thread():
        expected = results(run(film, first, *options, out="whole"))
    steps.clear()
    assert run_killed(lambda: run(film, first, *options, out="killed") and 0, at=5, after=True)
    state = tmp_path / "killed/.state/film"
    assert torch.load(state / "stream.pt", weights_only=True)["position"] == 2
    learned = torch.load(state / "network.pt", weights_only=True)
    assert learned["weights"].keys() == {"segmentation", "key_encoder"}
    capsys.readouterr()
    monkeypatch.setattr(online, "learn_online", None)
    monkeypatch.setattr(online, "learn_keys_online", None)
    out = run(film, first, *options, out="killed")
    assert json.loads((out / "run.json").read_text())["online_seconds"] > 0
    assert results(out) == expected and [position for position, *_ in steps] == list(range(2, COUNT))
    assert f"going on after frame {FRAMES[1]} of a run that was stopped" in capsys.readouterr().out


def test_killed_while_it_learns(run, monkeypatch, clip, first):
    with one_thread():
        expected = results(run(clip, first, "--online-steps", 3, out="whole"))

    def killing(*arguments, **named):
        learn_online(*arguments, **{**named, "steps": 1})
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(online, "learn_online", killing)
        assert run_killed(lambda: run(clip, first, "--online-steps", 3, out="killed") and 0, at=99)
    assert results(run(clip, first, "--online-steps", 3, out="killed")) == expected


def cut(monkeypatch, state, first):
    state.write_bytes(state.read_bytes()[:-2000])


BEGIN_ANEW = {
    "is of another run (other: memory.frames), so": ("--memory-frames", 2),
    "(other: --seed, the program), so": lambda patch, *_: patch.setattr(
        "experiments.runs.settings.code_digest", lambda: "other code"
    ),
    "(other: --masks), so": lambda patch, state, first: write_label_map(first, np.where(FIRST > 0, 4, 0)),
    "or damaged), so": cut,
    "masks of an earlier run are gone from": lambda patch, state, first: (
        state.parents[2] / "clip" / f"{FRAMES[0]}.png"
    ).unlink(),
}


@pytest.mark.parametrize("words", BEGIN_ANEW)
def test_what_begins_anew_says_so(run, monkeypatch, capsys, tmp_path, clip, first, steps, words):
    assert run_killed(lambda: run(clip, first, out="killed") and 0, at=6)
    change, options = BEGIN_ANEW[words], ("--seed", 2) if "--seed" in words else ()
    if isinstance(change, tuple):
        options = change
    else:
        change(monkeypatch, tmp_path / "killed/.state/clip/stream.pt", first)
    capsys.readouterr()
    found = results(run(clip, first, *options, out="killed"))
    printed = capsys.readouterr().out
    assert words in printed and "this one begins anew" in printed and len(steps) == COUNT
    assert found == results(run(clip, first, *options, out="whole"))


def test_finished_masks_are_not_made_again(run, capsys, tmp_path, clip, first, steps):
    expected = results(run(clip, first, "--coco", out="whole"))
    run(clip, first)
    steps.clear()
    capsys.readouterr()
    assert results(run(clip, first, "--coco")) == expected and not steps
    printed = capsys.readouterr().out
    assert "all masks are there from an earlier run" in printed and f"{COUNT} masks in" in printed
    run(clip, first, "--alpha")
    assert len(steps) == COUNT, "soft masks are not to be had from the masks"
    steps.clear()
    (tmp_path / "out/run.json").unlink()
    run(clip, first, "--alpha")
    assert len(steps) == COUNT
