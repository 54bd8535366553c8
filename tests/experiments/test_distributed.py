import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import ROOT, command
from evaluate_cases import checkpoint, make_davis  # noqa: F401
from train_cases import InProcess, masks_in

from experiments.common import checkpoints, distributed
from experiments.common.distributed import World, share, wait_for, world
from stg_pyg.errors import InputError
from stg_pyg.nn.detector.mask_rcnn import Detector

LENGTHS = {"ant": 3, "bee": 9, "cow": 8, "dog": 8, "eel": 7, "fox": 3}
FRAMES = {name: [f"{t:05d}" for t in range(count)] for name, count in LENGTHS.items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of different lengths."""
    return make_davis(tmp_path_factory.mktemp("davis"), frames=FRAMES)


def start(name: str, *arguments: object, **environment: object) -> subprocess.Popen[str]:
    """``torchrun`` with two processes, or with an environment one process of it, of ``experiments.NAME``."""
    launcher = [sys.executable, "-W", "ignore"]
    if not environment:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*launcher, "-m", f"experiments.{name}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | {key: str(value) for key, value in environment.items()},
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out, err


def children(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def done(folder: Path) -> set[str]:
    return {path.stem for path in (folder / ".done").glob("*.json")}


def kill_when_one_is_done(process: subprocess.Popen[str], out: Path) -> None:
    end = time.monotonic() + 100
    while not done(out):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)
    ranks = children(process.pid)
    os.killpg(process.pid, signal.SIGKILL)  # the launcher; its ranks are in sessions of their own
    process.communicate()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        assert time.monotonic() < end, "ranks go on after torchrun was killed"
        time.sleep(0.05)


@pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="needs Linux")
def test_two_processes_give_the_same_also_when_killed_half_way(monkeypatch, tmp_path, root, checkpoint):  # noqa: F811
    arguments = ("--checkpoint", checkpoint, "--preset", "davis2017", "--root", root, "--online-steps", 2)
    arguments += ("--device", "cpu", "--out")
    out = tmp_path / "ranks"
    first = start("evaluate", *arguments, out)
    monkeypatch.setattr("experiments.runs.scoring.ProcessPoolExecutor", InProcess)
    kill_when_one_is_done(first, out)
    assert command(monkeypatch, "evaluate", *arguments, tmp_path / "alone") == 0
    before = done(out)
    assert before and before != set(FRAMES), "killed too late to test anything"
    times = {path: path.stat().st_mtime_ns for name in before for path in (out / name).iterdir()}
    assert len(times) == sum(LENGTHS[name] for name in before), "finished videos are whole"
    printed, _ = finish(start("evaluate", *arguments, out))
    assert done(out) == set(FRAMES)
    assert {path: path.stat().st_mtime_ns for path in times} == times, "finished videos are done again"
    assert masks_in(out) == masks_in(tmp_path / "alone")
    assert printed.count("all objects") == 1, "one rank prints"
    assert not (out / ".ranks").exists()
    found, expected = (json.loads((f / "metrics.json").read_text()) for f in (out, tmp_path / "alone"))
    assert list(found["sequences"]) == list(FRAMES)
    for key in ("J", "F", "G", "sequences", "config"):
        assert found[key] == expected[key]
    assert found["fps"] > 0


def test_proposals_of_two_processes_without_a_launcher(monkeypatch, tmp_path, root):
    torch.manual_seed(1)
    checkpoints.save(tmp_path / "detector.pt", {"kind": "detector", **Detector.small(4, 64).to_checkpoint()})
    arguments = ("--preset", "davis2017", "--root", root, "--detector", tmp_path / "detector.pt", "--score", 0)
    arguments += ("--device", "cpu", "--out")
    ranks = [start("proposals", *arguments, tmp_path / "ranks", RANK=rank, WORLD_SIZE=2) for rank in range(2)]
    assert command(monkeypatch, "proposals", *arguments, tmp_path / "alone") == 0
    printed = [finish(process)[0] for process in ranks]
    assert printed == [f"{sum(LENGTHS.values())} frames of 6 videos: {tmp_path / 'ranks' / 'proposals.json'}\n", ""]
    found, expected = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "ranks", tmp_path / "alone")
    )
    assert found == expected and len(found) == sum(LENGTHS.values()) + 2


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_every_video_has_one_rank_and_the_longest_go_first(size):
    parts = [share(LENGTHS, World(rank, size)) for rank in range(size)]
    assert sorted(name for part in parts for name in part) == sorted(LENGTHS)
    assert parts == [share(dict(reversed(LENGTHS.items())), World(rank, size)) for rank in range(size)]
    assert all(LENGTHS[a] >= LENGTHS[b] for part in parts for a, b in itertools.pairwise(part))
    loads = [sum(LENGTHS[name] for name in part) for part in parts]
    assert max(loads) - min(loads) <= max(LENGTHS.values())
    if size == 2:
        assert parts == [["bee", "eel", "ant"], ["cow", "dog", "fox"]]


def environment(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def test_ranks_devices_and_processes(monkeypatch):
    environment(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert world() == (0, 1) and distributed.device_of_rank(cuda) == cuda
    assert distributed.processes_of_rank("cpu") == 7 and distributed.processes_of_rank("cuda") == 1
    for size, expected in ((1, 7), (2, 3), (9, 1)):
        environment(monkeypatch, RANK=5, WORLD_SIZE=8, LOCAL_RANK=3, LOCAL_WORLD_SIZE=size)
        assert distributed.processes_of_rank("cpu") == expected
    assert world() == (5, 8) and distributed.device_of_rank(cpu) == cpu
    assert distributed.device_of_rank(cuda) == torch.device("cuda", 1)
    for rank, size in (("3", "3"), ("x", "3"), ("-1", "3"), ("0", "0")):
        environment(monkeypatch, RANK=rank, WORLD_SIZE=size)
        with pytest.raises(InputError, match="torchrun"):
            world()


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, RANK=0, WORLD_SIZE=2)


def test_waiting_ends_with_the_last_video(capsys, tmp_path, ranks):
    left = [["ant", "bee"], ["bee"], []]
    wait_for(lambda: left.pop(0), tmp_path)
    assert left == [] and capsys.readouterr().err == "waiting for 2 videos of other ranks: ant, bee\n"
    wait_for(list, tmp_path)
    assert capsys.readouterr().err == ""


def test_waiting_ends_when_the_others_have_stopped(monkeypatch, tmp_path, ranks):
    monkeypatch.setattr(distributed, "BEAT_SECONDS", 0.05)
    started = time.monotonic()
    with distributed.alive(tmp_path), pytest.raises(InputError, match=r"2 videos are missing \(ant, bee\)"):
        wait_for(lambda: ["ant", "bee"], tmp_path, patience=0.4)  # its own sign does not count
    assert time.monotonic() - started < 5
    assert not (tmp_path / ".ranks").exists()


def test_a_rank_that_is_at_work_is_waited_for(monkeypatch, tmp_path, ranks):
    monkeypatch.setattr(distributed, "BEAT_SECONDS", 0.05)
    end = time.monotonic() + 1.5
    monkeypatch.setenv("RANK", "1")
    with distributed.alive(tmp_path):
        monkeypatch.setenv("RANK", "0")
        wait_for(lambda: ["ant"] if time.monotonic() < end else [], tmp_path, patience=0.5)
