# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
"""Frames are read, and flow computed, in threads: results and errors are those of doing one thing after the other."""

import errno
import os
import threading

import cv2
import numpy as np
import pytest
import torch
from commands import command, error_line
from killed_runs import files_in, run_killed
from segment_cases import COUNT, FIRST, FRAMES, HEIGHT, VIDEO, WIDTH, checkpoint, clip, film, first, labels_in, run

from experiments.segment import options
from experiments.segment import resume as segment_resume
from experiments.segment import run as segment_run
from stg_pyg.flow import ahead as flow_ahead
from stg_pyg.flow.dis import DISFlow
from stg_pyg.flow.flo_files import write_flo
from stg_pyg.utils import read_ahead
from stg_pyg.utils.images import write_image, write_label_map
from stg_pyg.video import frames as frame_source
from stg_pyg.video.segmenter import VideoSegmenter


@pytest.fixture(autouse=True)
def one_spare_core(monkeypatch):
    monkeypatch.setattr(segment_run, "spare_cores", lambda device: 1)
    yield
    assert not [thread.name for thread in threading.enumerate() if "-ahead" in thread.name]


@pytest.fixture
def masks(tmp_path):
    """The first mask is that of the second frame, and another object comes later."""
    late = np.zeros_like(FIRST)
    late[2:9, 2:9] = 200
    write_label_map(tmp_path / "masks" / f"{FRAMES[1]}.png", VIDEO.labels(1))
    write_label_map(tmp_path / "masks" / f"{FRAMES[3]}.png", late)
    return tmp_path / "masks"


@pytest.fixture
def flow(tmp_path):
    """Stored flow of the frames after the second one, the first that the network sees."""
    for t, name in enumerate(FRAMES[2:]):
        (tmp_path / "flow/clip").mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(t).normal(0, 1, (HEIGHT, WIDTH, 2)).astype(np.float32)
        write_flo(tmp_path / "flow/clip" / f"{name}.flo", noise)
    return tmp_path / "flow"


class NoThread:
    """A pool that refuses to work."""

    def __init__(self, *arguments):
        self.submit = None

    def shutdown(self, **options):
        pass


CASES = {
    "plain": (),
    "smaller": ("--max-size", 40),
    "every second": ("--every", 2),
    "groups and soft masks": ("--max-objects-at-once", 1, "--alpha"),
    "updates": ("--update-every", 2),
    "trace": ("--trace",),
}


def both(run, monkeypatch, *arguments):
    """The results with threads and without, but the file with times."""
    with monkeypatch.context() as patch:
        patch.setattr(segment_run, "spare_cores", lambda device: 0)
        patch.setattr(read_ahead, "ThreadPoolExecutor", NoThread)
        patch.setattr(flow_ahead, "ThreadPoolExecutor", NoThread)
        expected = files_in(run(*arguments, out="one_by_one"))
    found = files_in(run(*arguments, out="ahead"))
    del expected["run.json"], found["run.json"]
    return found, expected


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
def test_the_bytes_are_the_same(run, monkeypatch, film, first, arguments):
    found, expected = both(run, monkeypatch, film, first, *arguments)
    assert found == expected and len(found) > len(FRAMES[:: 2 if "--every" in arguments else 1])


@pytest.mark.parametrize("stored", [False, True])
def test_the_bytes_are_the_same_where_objects_come_later(run, monkeypatch, clip, masks, flow, stored):
    found, expected = both(run, monkeypatch, clip, masks, *(("--flow", flow) if stored else ()))
    assert found == expected and len(found) == COUNT + 1


def test_killed_anywhere_it_goes_on_to_the_same_bytes(run, monkeypatch, clip, masks):
    """Killed just before every fourth file gets its name, a frame having two with its state."""
    monkeypatch.setattr(segment_resume, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(
        "experiments.runs.settings.code_digest", lambda: "the code"
    )  # which may be edited while tests run
    found, expected = both(run, monkeypatch, clip, masks)
    kills = 0
    while run_killed(lambda: run(clip, masks, out="killed") and 0, at=4):
        kills += 1
        assert kills < 20, "no progress"
    assert kills >= 2
    after = files_in(run(clip, masks, out="killed"))
    del after["run.json"]
    assert after == found == expected


def test_flow_is_computed_ahead(run, monkeypatch, clip, first):
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


def test_frames_ahead_are_few(run, monkeypatch, clip, first):
    read, ahead = [], []
    read_picture, step = frame_source.PictureReader.__call__, VideoSegmenter.step

    def reading(self, path):
        read.append(path)
        return read_picture(self, path)

    def stepping(self, *arguments, **named):
        ahead.append(len(read) - (self.frame_idx + 2))
        return step(self, *arguments, **named)

    monkeypatch.setattr(frame_source.PictureReader, "__call__", reading)
    monkeypatch.setattr(VideoSegmenter, "step", stepping)
    run(clip, first)
    assert len(ahead) == len(read) == COUNT
    assert max(ahead) <= 2 and min(ahead[:-1]) >= 1, "the next frame is always there for its flow"


def test_a_broken_frame_is_told_in_its_turn(run, capsys, tmp_path, first):
    folder = tmp_path / "broken"
    for t, name in enumerate(FRAMES):
        write_image(folder / f"{name}.png", VIDEO.image(t))
    whole = (folder / f"{FRAMES[3]}.png").read_bytes()
    (folder / f"{FRAMES[3]}.png").write_bytes(whole[: len(whole) // 2])
    out = run(folder, first, status=2)
    assert f"{FRAMES[3]}.png: cannot be decoded" in error_line(capsys, alone=False)
    assert list(labels_in(out / "broken")) == FRAMES[:3], "the frames before it are done"
    (folder / f"{FRAMES[3]}.png").write_bytes(whole)
    assert list(labels_in(run(folder, first) / "broken")) == FRAMES


def test_missing_flow_is_told_in_its_turn(run, capsys, clip, masks, flow):
    (flow / "clip" / f"{FRAMES[4]}.flo").unlink()
    out = run(clip, masks, "--flow", flow, status=2)
    assert f"{FRAMES[4]}.flo" in error_line(capsys, alone=False)
    assert list(labels_in(out / "clip")) == FRAMES[:4]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES])
def test_masks_that_cannot_be_written_end_the_run(run, monkeypatch, capsys, clip, first, error):
    replace = os.replace

    def failing(source, target):
        if str(target).endswith(f"{FRAMES[2]}.png"):
            raise OSError(error, os.strerror(error), str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        out = run(clip, first, status=2)
    assert f"{FRAMES[2]}.png: cannot be written ({os.strerror(error)})" in error_line(capsys, alone=False)
    assert list(labels_in(out / "clip")) == FRAMES[:2]
    assert list(labels_in(run(clip, first) / "clip")) == FRAMES


def test_a_video_of_one_frame(run, tmp_path, first):
    write_image(tmp_path / "one" / "a.png", VIDEO.image(0))
    found = labels_in(run(tmp_path / "one", first) / "one")
    assert list(found) == ["a"]
    np.testing.assert_array_equal(found["a"], FIRST)


@pytest.mark.parametrize("cores, threads, spare", [(1, 1, 0), (2, 1, 1), (2, 2, 0), (2, 4, 0), (8, 5, 3)])
def test_spare_cores_are_those_that_the_network_leaves(monkeypatch, cores, threads, spare):
    monkeypatch.setattr(options.os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert options.spare_cores(torch.device("cpu")) == spare
    assert options.spare_cores(torch.device("cuda")) == cores


@pytest.mark.parametrize("spare, during", [(0, 3), (1, 1), (2, 2), (8, 3)])
def test_opencv_keeps_to_the_spare_cores(run, monkeypatch, clip, first, spare, during):
    seen, step, before = set(), VideoSegmenter.step, cv2.getNumThreads()

    def stepping(self, *arguments, **named):
        seen.add(cv2.getNumThreads())
        return step(self, *arguments, **named)

    monkeypatch.setattr(VideoSegmenter, "step", stepping)
    monkeypatch.setattr(segment_run, "spare_cores", lambda device: spare)
    cv2.setNumThreads(3)
    try:
        run(clip, first)
        assert (seen, cv2.getNumThreads()) == ({during}, 3)
    finally:
        cv2.setNumThreads(before)
