# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
"""evaluate, started again, takes over what still holds and does again what depends on anything that has changed."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from evaluate_cases import FRAMES, HEIGHT, WIDTH, checkpoint, make_davis
from train_cases import InProcess

from experiments.runs import scoring, streams
from stg_pyg.flow.flo_files import write_flo
from stg_pyg.utils.images import read_label_map, write_image, write_label_map

MIDDLE = FRAMES["walk"][1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_davis(tmp_path / "davis")


@pytest.fixture
def again(monkeypatch, tmp_path, root, checkpoint):
    """Runs the command; returns the names of the videos that were run."""
    done: list[str] = []
    run_row = scoring.run_row

    def counting(job, row, video, *rest):
        done.append(video.name)
        return run_row(job, row, video, *rest)

    monkeypatch.setattr(scoring, "run_row", counting)
    monkeypatch.setattr(scoring, "ProcessPoolExecutor", InProcess)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)

    def call(*arguments: object) -> list[str]:
        done.clear()
        given = ("--preset", "davis2017", "--root", root, "--checkpoint", checkpoint, "--device", "cpu")
        assert command(monkeypatch, "evaluate", *given, "--row", "flow", "--out", tmp_path / "out", *arguments) == 0
        return sorted(done)

    return call


@pytest.fixture
def shifts(monkeypatch, tmp_path) -> dict[str, Path]:
    """Stands in for RAFT: files of weights, which move everything by as many pixels as they say."""

    def resolve(spec, *, weights, device):
        pixels = float(Path(weights).read_text())
        return lambda current, previous: np.full((HEIGHT, WIDTH, 2), pixels, np.float32)

    monkeypatch.setattr("experiments.evaluate.resolve_flow", resolve)
    monkeypatch.setattr(streams, "resolve_flow", resolve)
    for name, pixels in (("a", "0"), ("b", "5")):
        (tmp_path / f"{name}.pth").write_text(pixels)
    return {name: tmp_path / f"{name}.pth" for name in "ab"}


def test_other_weights_of_the_flow(again, shifts, tmp_path):
    mask = tmp_path / "out/walk" / f"{MIDDLE}.png"
    assert again("--flow", "raft", "--weights", shifts["a"]) == ["run", "walk"]
    before = read_label_map(mask)
    assert again("--flow", "raft", "--weights", shifts["a"]) == []
    assert again("--flow", "raft", "--weights", shifts["b"]) == ["run", "walk"]
    after = read_label_map(mask)
    assert (before == 1).any() and np.array_equal(after[:-5, :-5], before[5:, 5:])
    shutil.copy(shifts["a"], shifts["b"])
    assert again("--flow", "raft", "--weights", shifts["b"]) == ["run", "walk"], "another content under the same name"
    assert again("--flow", "raft", "--weights", shifts["a"]) == [], "and the same content under another"


def test_stored_flow_that_has_changed(again, tmp_path):
    for name, frames in FRAMES.items():
        (tmp_path / "flow" / name).mkdir(parents=True)
        for frame in frames:
            write_flo(tmp_path / "flow" / name / f"{frame}.flo", np.zeros((HEIGHT, WIDTH, 2), np.float32))
    assert again("--flow", tmp_path / "flow") == ["run", "walk"] and again("--flow", tmp_path / "flow") == []
    write_flo(tmp_path / "flow/walk" / f"{MIDDLE}.flo", np.full((HEIGHT, WIDTH, 2), 3, np.float32))
    assert again("--flow", tmp_path / "flow") == ["run", "walk"], "a file in a folder of the folder"


@pytest.mark.parametrize("part", ["JPEGImages", "Annotations"])
def test_data_that_have_changed_in_place(again, root, part):
    assert again() == ["run", "walk"] and again() == []
    path = next((root / part / "480p/walk").glob(f"{MIDDLE}.*"))
    status = path.stat()
    if part == "Annotations":
        write_label_map(path, np.roll(read_label_map(path), 3, axis=1))
    else:
        write_image(path, np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert again() == ["walk"]


@pytest.mark.parametrize("name", [f"{MIDDLE}.png", f"overlays/{MIDDLE}.jpg"])
def test_results_that_somebody_has_changed(again, tmp_path, name):
    assert again("--overlays") == ["run", "walk"] and again("--overlays") == []
    path = tmp_path / "out/walk" / name
    before = path.read_bytes()
    for content in (before[:-1], None):
        path.unlink() if content is None else path.write_bytes(content)
        assert again("--overlays") == ["walk"] and path.read_bytes() == before
    os.utime(path)
    assert again("--overlays") == [], "only the content counts, so that results may be copied"
