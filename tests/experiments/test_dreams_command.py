import json

import numpy as np
import pytest
from commands import command, error_line

from datasets import SyntheticVideos
from experiments import dreams
from stg_pyg.lucid.samples import Sample
from stg_pyg.utils.images import read_image, write_image, write_label_map

SPLIT = ("--preset", "synthetic", "--split", "val")


@pytest.fixture
def frame(tmp_path):
    video = SyntheticVideos("val", num_videos=1, num_frames=2, height=48, width=64)[0]
    write_image(tmp_path / "frame.png", video.image(0))
    write_label_map(tmp_path / "masks.png", video.labels(0))
    write_label_map(tmp_path / "empty.png", np.zeros((48, 64), np.uint8))
    write_label_map(tmp_path / "small.png", np.ones((10, 12), np.uint8))
    return tmp_path


def test_sheets_of_a_split_and_of_one_frame(monkeypatch, frame):
    options = (*SPLIT, "--size", 32, "--samples", 5, "--columns", 2, "--out", frame / "out")
    assert command(monkeypatch, "dreams", *options) == 0
    assert read_image(frame / "out/dreams.png").shape == (3 * 36 + 4, 2 * (3 * 32 + 16), 3)
    result = json.loads((frame / "out/dreams.json").read_text())
    assert result["samples"] == 5 and result["size"] == 32 and result["samples_per_second"] > 0
    options = ("--frame", frame / "frame.png", "--masks", frame / "masks.png", "--samples", 1, "--size", 16)
    assert command(monkeypatch, "dreams", *options, "--out", frame / "out") == 0
    assert read_image(frame / "out/dreams.png").shape == (20 + 4, 3 * 16 + 16, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--frame {}/frame.png", "belong together"),
        ("--frame {}/frame.png --masks {}/empty.png", "no object"),
        ("--frame {}/frame.png --masks {}/small.png", "12 x 10 but the picture 64 x 48"),
        ("--frame {}/none.png --masks {}/masks.png", "none.png"),
        ("--preset synthetic --split val --video nobody", "nobody"),
        ("--preset synthetic --split val --size 4", "--size"),
        ("--preset synthetic --dream-share 1.5", "0 to 1"),
        ("--preset synthetic --dream-share x", "--dream-share"),
    ],
)
def test_bad_arguments_are_named(monkeypatch, capsys, frame, options, message):
    options = [part.format(frame) for part in options.split()]
    assert command(monkeypatch, "dreams", *options, "--out", frame / "out") == 2 and message in error_line(capsys)


def test_q_and_target_are_tinted_over_the_crop():
    crop, left, right = np.full((16, 16, 3), 100, np.uint8), *np.zeros((2, 16, 16), np.uint8)
    left[:, :8], right[:, 8:] = 255, 255
    sheet = dreams.contact_sheet([Sample(crop, left, right)], columns=4)
    changed = [(sheet[4:20, x : x + 16] != 100).any(axis=2) for x in (4, 24, 44)]
    assert not changed[0].any() and np.array_equal(changed[1], left > 0) and np.array_equal(changed[2], right > 0)
