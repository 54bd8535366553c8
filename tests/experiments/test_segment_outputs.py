# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
"""What experiments.segment makes of the masks: COCO results, confidence, soft masks and overlays."""

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from commands import error_line
from killed_runs import files_in
from PIL import Image
from segment_cases import (
    COUNT,
    FIRST,
    FRAMES,
    HEIGHT,
    IDS,
    LATE,
    VIDEO,
    WIDTH,
    checkpoint,
    clip,
    complaint,
    film,
    first,
    labels_in,
    masks,
    run,
    steps,
)
from tqdm import tqdm

from experiments.segment import outputs
from experiments.segment.frames import FrameResult, reduce_labels
from experiments.segment.outputs import BAR, encode_video, lost_objects, write_coco, write_overlay
from stg_pyg.errors import InputError
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.coco import read_coco_results
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.utils.images import write_image, write_label_map
from stg_pyg.video.frames import open_source
from stg_pyg.video.segmenter import StepResult


def test_coco_results_and_confidence(run, tmp_path, clip, first):
    out = run(clip, first, "--coco")
    entries = json.loads((out / "results.json").read_text())
    confidence = json.loads((out / "confidence.json").read_text())
    assert confidence["sequence"] == "clip" and confidence["frames"] == FRAMES
    labels, read = labels_in(out / "clip"), read_coco_results(out / "results.json")["clip"]
    for position, name in enumerate(FRAMES):
        of_frame = [entry for entry in entries if entry["image_id"] == f"clip/{name}"]
        shown = [i for i in IDS if (labels[name] == i).any()]
        scores = {i: row[position] for i, row in confidence["objects"].items()}
        assert [entry["category_id"] for entry in of_frame] == shown
        assert [scores[str(i)] is not None for i in IDS] == [i in shown for i in IDS]
        assert all(0 < score <= 1 for score in scores.values() if score is not None)
        for entry, mask in zip(of_frame, read[name].select(slice(None)).masks, strict=True):
            np.testing.assert_array_equal(mask, labels[name] == entry["category_id"])
            rows, columns = np.nonzero(mask.numpy())
            x, y, w, h = entry["bbox"]
            assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert entry["score"] == scores[str(entry["category_id"])]
    assert [entry["score"] for entry in entries[: len(IDS)]] == [1.0] * len(IDS), "given masks are certain"
    write_label_map(tmp_path / "clip/0.png", np.zeros((4, 6), np.uint8))
    write_coco(tmp_path / "results.json", tmp_path / "clip", ["0"], {1: [None]})
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_lost_objects_are_told():
    names = ["a", "b", "c", "d"]
    scores = {1: [1.0, None, None, 0.5], 2: [None, 1.0, 0.9, 0.8], 3: [1.0, 1.0, 1.0, None], 4: [None] * 4}
    assert lost_objects(names, scores) == [
        "object 1 has no pixel in 2 frames, b the first",
        "object 3 has no pixel in 1 frame, d the first",
    ]


def test_one_frame_at_the_full_size():
    soft = torch.zeros(3, 4, 4)
    soft[0, :, :2], soft[1, :, 1:3], soft[2] = 0.8, 0.9, 0.3
    result = StepResult(torch.zeros(4, 4, dtype=torch.uint8), soft, [3, 8, 5])
    labels = FrameResult("0", (8, 8), 0.5, None, result).labels()
    assert (labels[:, 0] == 3).all() and (labels[:, 3:5] == 8).all() and not labels[:, 7].any()
    given = np.zeros((8, 8), np.uint8)
    given[:2, :2] = 8
    labels = FrameResult("0", (8, 8), 0.5, given, result).labels()
    assert (labels == 8).sum() == 4 and (labels[3:, :3] == 3).all()
    assert not FrameResult("0", (8, 8), 0.5).labels().any(), "before the first mask"
    soft[0, 0] = torch.tensor([0.5, 0.9, 1.0, 0.0])
    result.labels[0, :2] = 3
    assert FrameResult("0", (4, 4), 0.5, None, result).scores([4, 3, 8]) == {4: None, 3: 0.7, 8: None}


def test_a_smaller_size_of_labels_and_proposals():
    labels = np.zeros((8, 8), np.uint8)
    labels[:, 4:], labels[0:2, 0:2], labels[4, 0] = 9, 3, 9
    expected = np.zeros((4, 4), np.uint8)
    expected[:, 2:], expected[0, 0] = 9, 3
    np.testing.assert_array_equal(reduce_labels(labels, (4, 4), "x"), expected)
    squares = torch.zeros(3, 20, 40, dtype=torch.bool)
    squares[0, 2:10, 4:20] = squares[1, :, 30:] = True
    boxes = torch.tensor([[4.0, 2, 20, 10], [30, 0, 40, 20], [0, 0, 8, 8]])
    known = Proposals(boxes, squares, torch.tensor([0.9, 0.5, 0.1]), has_mask=torch.tensor([True, True, False]))
    half = EncodedProposals.from_proposals(known).resized((10, 20))
    assert half.size == (10, 20) and half.has_mask.tolist() == [True, True, False]
    decoded = half.select(slice(None))
    assert torch.equal(decoded.masks, squares[:, ::2, ::2]) and torch.equal(decoded.boxes, boxes / 2)
    assert torch.equal(decoded.scores, known.scores)


@pytest.mark.parametrize("options", [(), ("--max-size", 40)])
def test_alpha_is_the_soft_mask(run, clip, masks, steps, options):
    write_label_map(masks / f"{FRAMES[0]}.png", FIRST)
    out = run(clip, masks, "--alpha", *options)
    assert {path.name for path in (out / "alpha/clip").iterdir()} == {str(i) for i in [*IDS, 200]}
    found = {}
    for t, name in enumerate(FRAMES):
        soft = dict(zip(steps[t][3].obj_ids, steps[t][3].masks, strict=True))
        for obj_id in [*IDS, 200]:
            image = Image.open(out / "alpha/clip" / str(obj_id) / f"{name}.png")
            alpha = found[obj_id, t] = np.array(image)
            assert image.mode == "L" and alpha.shape == (HEIGHT, WIDTH)
            if obj_id not in soft:
                assert not alpha.any(), "an object that is not there yet is black"
            elif not options and t == 2:
                np.testing.assert_array_equal(alpha, np.round(255 * soft[obj_id].numpy()))
    np.testing.assert_array_equal(found[IDS[0], 0], np.where(IDS[0] == FIRST, 255, 0))
    assert not found[IDS[0], 3][LATE > 0].any(), "pixels that were given to another object"


def test_the_overlay_shows_the_masks(run, film, first):
    drawn = open_source(run(film, first, "--overlay") / "overlay.mp4")
    frames = [frame for _, frame in drawn]
    assert len(frames) == COUNT and drawn.size == (HEIGHT, WIDTH) and drawn.fps == pytest.approx(25)
    change = np.abs(frames[0].astype(int) - VIDEO.image(0)).mean(axis=-1)
    assert change[FIRST > 0].mean() > 3 * change[FIRST == 0].mean()


@pytest.mark.parametrize("fps", [Fraction(66667, 1000), Fraction(30000, 1001), Fraction(1, 10**6), None])
@pytest.mark.parametrize("size", [(1, 1), (15, 17), (33, 32)])
def test_overlays_in_what_browsers_play(tmp_path, size, fps):
    """H.264 in pixels of 4:2:0, with even sides, the colours of the frames and any rate."""
    frames = [np.full((*size, 3), colour, np.uint8) for colour in [(200, 30, 30), (20, 60, 220), (90, 200, 40)]]
    with open(tmp_path / "overlay.mp4", "wb") as file:
        encode_video(file, frames, fps)
    source = open_source(tmp_path / "overlay.mp4")
    assert float(source.fps) == pytest.approx(float(fps) if fps and fps > 1 else 10, rel=1e-4)
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace, context.color_range) == ("h264", "yuv420p", 1, 1)
    for (_, frame), expected in zip(source, frames, strict=True):
        assert frame.shape[:2] == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        assert np.abs(frame[: size[0], : size[1]].astype(int) - expected).max() <= 6


def test_overlays_that_cannot_be_made_are_one_line(complaint, tmp_path, monkeypatch, clip, first):
    with monkeypatch.context() as patch:
        patch.setattr(outputs, "CODECS", {"of the future": {}})
        assert "--overlay: PyAV was built without of the future" in complaint(clip, first, "--overlay")

    def fail(*_: object) -> None:
        raise av.error.InvalidDataError(1, "too large")

    monkeypatch.setattr(outputs, "overlay", fail)
    write_label_map(tmp_path / "masks" / f"{FRAMES[0]}.png", FIRST)
    with pytest.raises(InputError, match=r"overlay\.mp4: cannot be written as a video \(.*go without --overlay"):
        write_overlay(tmp_path / "overlay.mp4", open_source(clip), tmp_path / "masks")
    assert {path.name for path in tmp_path.iterdir()} == {"masks", "first.png"}


def test_results_of_another_video_are_not_replaced(run, capsys, tmp_path, clip, film, first):
    out = run(clip, first, "--coco")
    before = files_in(out)
    run(film, first, "--coco", status=2)
    assert f"{out / 'run.json'}: is of another video, clip ({clip})" in error_line(capsys, alone=False)
    other = Path(shutil.copytree(clip, tmp_path / "elsewhere/clip"))
    run(other, first, status=2)
    assert "is of another video, clip" in error_line(capsys)
    (out / "run.json").unlink()
    run(film, first, status=2)
    assert f"{out / 'confidence.json'}: is of another video, clip" in error_line(capsys)
    assert files_in(out) == {name: data for name, data in before.items() if name != "run.json"}
    (out / "confidence.json").unlink()
    (out / ".state/clip").mkdir(parents=True)
    run(film, first, status=2)
    assert f"{out / '.state/clip'}: is of a run over another video that was stopped" in error_line(capsys)


def test_names_that_are_no_text(run, capsys, tmp_path, clip, first):
    """Results under a name of bytes that are no UTF-8, and what is printed of it where it cannot be."""
    odd = Path(shutil.copytree(clip, tmp_path / os.fsdecode(b"caf\xe9")))
    options = ("--coco", "--overlay", "--alpha", "--online-steps", 1)
    out = run(odd, first, *options, out=os.fsdecode(b"\xff out"))
    assert f"{COUNT} masks in " in capsys.readouterr().out
    content = json.loads((out / "run.json").read_bytes())
    assert (content["sequence"], Path(content["video"])) == (odd.name, odd)
    assert list(labels_in(out / odd.name)) == FRAMES
    assert {entry["image_id"].split("/")[0] for entry in json.loads((out / "results.json").read_bytes())} == {odd.name}
    run(odd, first, *options, out=os.fsdecode(b"\xff out"))
    assert "all masks are there from an earlier run" in capsys.readouterr().out


def test_the_bar_tells_frames_a_second_and_the_time_left():
    line = tqdm.format_meter(10, 100, 10 * 4.0, bar_format=BAR, unit="frame", ncols=80)
    assert "10/100 [00:40<06:00" in line and "0.25frame/s" in line
