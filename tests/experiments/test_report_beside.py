"""Masks of several methods side by side: which frames are chosen, the J that is printed, and what is refused."""

import base64
import io
import re
import shutil

import numpy as np
import pytest
from commands import command, error_line
from PIL import Image
from report_cases import FRAMES, davis, labels_of

from experiments.report import beside
from stg_pyg.utils.images import write_label_map

__all__ = ["davis"]
WRONG = {3: 1, 9: 3, 10: 3, 12: 1}
"""Of the other method, the object that is wrong in a frame: of 1 the right half is missing, of 3 all."""


def of_other_method(t):
    labels = labels_of(t)
    if WRONG.get(t) == 1:
        labels[:, 15 + t :][labels[:, 15 + t :] == 1] = 0
    labels[(labels == 3) & (WRONG.get(t) == 3)] = 0
    return labels


@pytest.fixture
def folders(tmp_path):
    """``ours``, which is right, and ``other`` with masks alone, as another method leaves them."""
    for name, labels in (("ours", labels_of), ("other", of_other_method)):
        for t, frame in enumerate(FRAMES["walk"]):
            write_label_map(tmp_path / name / "walk" / f"{frame}.png", labels(t))
    return tmp_path


@pytest.fixture
def run(monkeypatch, folders, davis):
    def call(*arguments):
        where = ("--root", davis, "--preset", "davis2017", "--out", folders / "page.html")
        return command(monkeypatch, "report", folders / "ours", *where, "--beside", *arguments)

    return call


def test_a_strip(run, monkeypatch, folders):
    texts, tile = [], beside._tile
    monkeypatch.setattr(beside, "_tile", lambda *a: texts.append(a[2:]) or tile(*a))
    assert run(folders / "other") == 0
    # 14 frames: at least 2 apart, so that 10 goes; of those that are equal the first that is not beside another.
    right = {"00000": (100.0, 100.0), "00003": (75.0, 100.0), "00009": (50.0, 100.0), "00012": (75.0, 100.0)}
    expected = []
    for frame, (other, ours) in right.items():
        expected += [(f"{frame}: annotation", ""), ("other", f"J {other:.1f}"), ("ours", f"J {ours:.1f}")]
    assert texts == expected

    (data,) = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", (folders / "page.html").read_text())
    strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), int)
    height = beside.BAR + 240 + beside.GAP
    assert strip.shape == (3 * height, 4 * 320 + 3 * beside.GAP, 3)
    x, y = 2 * (320 + beside.GAP) + 29 * 5, beside.BAR + 36 * 5  # the middle of object 3 in frame 9
    truth, other, ours = (strip[y + n * height - 20 : y + n * height + 20, x - 20 : x + 20] for n in range(3))
    assert abs(truth - ours).mean() < 3 and abs(truth - other).mean() > 20


def test_columns():
    assert beside.choose_columns([0.0, 0.2, 0.1]) == [0, 1, 2]
    assert beside.choose_columns([0.1] * 8) == [0, 1, 2, 3] and beside.choose_columns([]) == []
    peaks = np.zeros(40)
    peaks[[7, 8, 9, 20, 30]] = 0.5, 0.9, 0.8, 0.7, 0.6
    assert beside.choose_columns(peaks.tolist()) == [0, 8, 20, 30]


def test_names_of_methods(run, folders):
    shutil.copytree(folders / "other", folders / "again/other")
    assert run(folders / "other", folders / "again/other") == 0
    methods = beside.open_methods(
        folders / "ours",
        beside.choose_run(beside.find_runs(folders / "ours"), None),
        [folders / "other", folders / "again/other"],
        ["walk"],
    )
    assert list(methods) == [str(folders / "other"), str(folders / "again/other"), "ours"]


def test_what_is_refused(run, capsys, folders, davis):
    (folders / "empty").mkdir()
    shutil.copytree(folders / "other", folders / "few")
    (folders / "few/walk/00005.png").unlink()
    shutil.copytree(folders / "other", folders / "small")
    write_label_map(folders / "small/walk/00004.png", labels_of(4)[:40])
    shutil.copytree(folders / "other", folders / "named")
    (folders / "named/walk").rename(folders / "named/run")
    cases = {
        "gone": "no such folder",
        "empty": "has no masks",
        "ours": "is what the page shows itself",
        "named": "has no masks of walk; choose others with --sequence, there are: run",
        "few": "few/walk/00005.png: no such file",
        "small": "small/walk/00004.png: is 64 x 40 pixels and not 64 x 48",
    }
    for name, words in cases.items():
        assert run(folders / "other", folders / name) == 2 and words in error_line(capsys)
    assert not (folders / "page.html").exists()


def test_frames_that_nobody_knows(monkeypatch, capsys, folders):
    arguments = (folders / "ours", "--out", folders / "page.html", "--beside", folders / "other")
    assert command(monkeypatch, "report", *arguments) == 2 and "--root" in error_line(capsys)
