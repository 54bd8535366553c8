# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
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
from tqdm import tqdm

from experiments.segment import command as segment
from experiments.segment import run as segment_run
from experiments.segment.frames import FrameResult
from experiments.segment.outputs import BAR, lost_objects, read_confidence, write_coco, write_overlay
from experiments.segment.overlay_video import OverlayVideo
from stg_pyg.errors import InputError
from stg_pyg.proposals.coco import read_coco_results
from stg_pyg.utils.images import write_image, write_label_map
from stg_pyg.video.frames import VideoFile, open_source
from stg_pyg.video.grouped import GroupedSegmenter
from stg_pyg.video.segmenter import StepResult, VideoSegmenter

IDS = sorted(set(np.unique(FIRST).tolist()) - {0})


def test_coco_results_hold_the_masks(run, clip, first):
    out = run(clip, first, "--coco")
    entries = json.loads((out / "results.json").read_text())
    confidence = json.loads((out / "confidence.json").read_text())
    labels = labels_in(out / "clip")
    read = read_coco_results(out / "results.json")["clip"]
    for position, name in enumerate(FRAMES):
        of_frame = [entry for entry in entries if entry["image_id"] == f"clip/{name}"]
        assert [entry["category_id"] for entry in of_frame] == [i for i in IDS if (labels[name] == i).any()]
        for entry, mask in zip(of_frame, read[name].select(slice(None)).masks, strict=True):
            np.testing.assert_array_equal(mask, labels[name] == entry["category_id"])
            rows, columns = np.nonzero(mask.numpy())
            x, y, w, h = entry["bbox"]
            assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert entry["score"] == confidence["objects"][str(entry["category_id"])][position]
    assert [entry["score"] for entry in entries[: len(IDS)]] == [1.0] * len(IDS), "given masks are certain"


def test_coco_results_without_any_object(tmp_path):
    write_label_map(tmp_path / "clip/0.png", np.zeros((4, 6), np.uint8))
    write_coco(tmp_path / "results.json", tmp_path / "clip", ["0"], {1: [None]})
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_confidence(run, clip, first):
    out = run(clip, first)
    content = json.loads((out / "confidence.json").read_text())
    assert content["sequence"] == "clip" and content["frames"] == FRAMES
    labels = labels_in(out / "clip")
    for obj_id in IDS:
        row = content["objects"][str(obj_id)]
        assert [score is not None for score in row] == [bool((labels[name] == obj_id).any()) for name in FRAMES]
        assert all(0 < score <= 1 for score in row if score is not None)
    assert read_confidence(out / "confidence.json") == {i: content["objects"][str(i)] for i in IDS}
    assert read_confidence(out / "none.json") is None and read_confidence(first) is None


def test_scores_are_means_of_the_soft_mask_over_its_pixels():
    masks = torch.zeros(2, 2, 4)
    masks[0, 0] = torch.tensor([0.5, 0.9, 1.0, 0.0])
    labels = torch.zeros(2, 4, dtype=torch.uint8)
    labels[0, :2] = 7
    result = StepResult(labels, masks, [7, 9])
    assert FrameResult("0", (2, 4), 0.5, None, result).scores([5, 7, 9]) == {5: None, 7: 0.7, 9: None}


def test_lost_objects_are_told():
    names = ["a", "b", "c", "d"]
    scores = {1: [1.0, None, None, 0.5], 2: [None, 1.0, 0.9, 0.8], 3: [1.0, 1.0, 1.0, None], 4: [None] * 4}
    assert lost_objects(names, scores) == [
        "object 1 has no pixel in 2 frames, b the first",
        "object 3 has no pixel in 1 frame, d the first",
    ]


@pytest.mark.parametrize("options", [(), ("--max-size", 40)])
def test_alpha_is_the_soft_mask(run, tmp_path, clip, monkeypatch, options):
    soft, step = [], VideoSegmenter.step

    def watched(self, *arguments, **named):
        result = step(self, *arguments, **named)
        soft.append(dict(zip(result.obj_ids, result.masks, strict=True)))
        return result

    monkeypatch.setattr(VideoSegmenter, "step", watched)
    late = np.zeros_like(FIRST)
    late[2:9, 2:9] = 200
    write_label_map(tmp_path / "masks" / f"{FRAMES[0]}.png", FIRST)
    write_label_map(tmp_path / "masks" / f"{FRAMES[2]}.png", late)
    out = run(clip, tmp_path / "masks", "--alpha", *options)
    assert {path.name for path in (out / "alpha/clip").iterdir()} == {str(i) for i in [*IDS, 200]}
    for t, name in enumerate(FRAMES):
        for obj_id in [*IDS, 200]:
            image = Image.open(out / "alpha/clip" / str(obj_id) / f"{name}.png")
            alpha = np.array(image)
            assert image.mode == "L" and alpha.shape == (HEIGHT, WIDTH)
            if obj_id not in soft[t]:
                assert not alpha.any(), "an object that is not there yet is black"
            elif not options and t not in (0, 2):
                np.testing.assert_array_equal(alpha, np.round(255 * soft[t][obj_id].numpy()))
    beginning = np.array(Image.open(out / f"alpha/clip/{IDS[0]}/{FRAMES[0]}.png"))
    np.testing.assert_array_equal(beginning, np.where(IDS[0] == FIRST, 255, 0))
    given = np.array(Image.open(out / f"alpha/clip/{IDS[0]}/{FRAMES[2]}.png"))
    assert not given[2:9, 2:9].any(), "pixels that were given to another object"


def test_objects_at_once(run, clip, first, monkeypatch):
    kinds = []
    make = segment_run.Run._make_segmenter
    monkeypatch.setattr(segment_run.Run, "_make_segmenter", lambda *given: kinds.append(make(*given)) or kinds[-1])
    all_at_once = labels_in(run(clip, first) / "clip")
    out = run(clip, first, "--max-objects-at-once", 1, out="groups")
    one_by_one = labels_in(out / "clip")
    assert type(kinds[0]) is VideoSegmenter
    assert isinstance(kinds[1], GroupedSegmenter) and kinds[1].max_objects == 1 and len(IDS) > 1
    for name in FRAMES:
        assert (one_by_one[name] != all_at_once[name]).mean() < 1e-2
    assert json.loads((out / "run.json").read_text())["max_objects_at_once"] == 1


def overlay_of(path, frames: list[np.ndarray], fps: Fraction | None) -> tuple[VideoFile, list[np.ndarray]]:
    """Frames without objects, written and read again."""
    with open(path, "wb") as file, OverlayVideo(file, fps) as video:
        for frame in frames:
            video.add(frame, np.zeros(frame.shape[:2], np.uint8))
    source = open_source(path)
    assert isinstance(source, VideoFile)
    return source, [frame for _, frame in source]


@pytest.mark.parametrize(
    ("fps", "written"),
    [
        (Fraction(200, 3), Fraction(200, 3)),
        (Fraction(66667, 1000), Fraction(66667, 1000)),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
        (Fraction(210, 521), Fraction(210, 521)),
        (Fraction(1, 10**6), 10),
        (None, 10),
    ],
)
def test_overlays_have_any_rate(tmp_path, fps, written):
    source, frames = overlay_of(tmp_path / "overlay.mp4", [VIDEO.image(t) for t in range(COUNT)], fps)
    assert float(source.fps) == pytest.approx(float(written), rel=1e-4) and len(frames) == COUNT


@pytest.mark.parametrize("size", [(1, 1), (15, 17), (33, 32)])
def test_overlays_in_what_browsers_play(tmp_path, size):
    """H.264 in pixels of 4:2:0, with even sides and the colours of the frames."""
    frames = [np.full((*size, 3), colour, np.uint8) for colour in [(200, 30, 30), (20, 60, 220), (90, 200, 40)]]
    _, found = overlay_of(tmp_path / "overlay.mp4", frames, None)
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace, context.color_range) == ("h264", "yuv420p", 1, 1)
    for frame, expected in zip(found, frames, strict=True):
        assert frame.shape[:2] == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        assert np.abs(frame[: size[0], : size[1]].astype(int) - expected).max() <= 6


def test_no_codec_for_overlays_is_told_before_the_work(run, complaint, monkeypatch, clip, first):
    monkeypatch.setattr("experiments.segment.overlay_video.CODECS", {"of the future": {}})
    assert "--overlay: PyAV was built without of the future" in complaint(clip, first, "--overlay")


def test_an_overlay_that_no_codec_takes_is_one_line(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise av.error.InvalidDataError(1, "too large")

    monkeypatch.setattr(OverlayVideo, "add", fail)
    write_image(tmp_path / "clip/0.png", VIDEO.image(0))
    write_label_map(tmp_path / "masks/0.png", FIRST)
    with pytest.raises(InputError, match=r"overlay\.mp4: cannot be written as a video \(.*go without --overlay"):
        write_overlay(tmp_path / "overlay.mp4", open_source(tmp_path / "clip"), tmp_path / "masks")
    assert {path.name for path in tmp_path.iterdir()} == {"clip", "masks"}


def test_results_of_another_video_are_not_replaced(run, capsys, tmp_path, clip, film, first):
    out = run(clip, first, "--coco", "--overlay")
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
    run(clip, first, "--every", 2)


def test_names_that_are_no_text(run, capsys, tmp_path, clip, first):
    """Results under a name of bytes that are no UTF-8, and what is printed of it where it cannot be."""
    odd = Path(shutil.copytree(clip, tmp_path / os.fsdecode(b"caf\xe9")))
    out = run(odd, first, "--coco", "--overlay", "--alpha", "--online-steps", 1, out=os.fsdecode(b"\xff out"))
    assert f"{COUNT} masks in " in capsys.readouterr().out
    content = json.loads((out / "run.json").read_bytes())
    assert (content["sequence"], Path(content["video"])) == (odd.name, odd)
    assert list(labels_in(out / odd.name)) == FRAMES
    assert {entry["image_id"].split("/")[0] for entry in json.loads((out / "results.json").read_bytes())} == {odd.name}
    run(odd, first, "--coco", "--overlay", "--alpha", "--online-steps", 1, out=os.fsdecode(b"\xff out"))
    assert "all masks are there from an earlier run" in capsys.readouterr().out


def test_the_bar_tells_frames_a_second_and_the_time_left():
    seconds_a_frame = 4.0
    line = tqdm.format_meter(10, 100, 10 * seconds_a_frame, bar_format=BAR, unit="frame", ncols=80)
    assert "10/100 [00:40<06:00" in line and "0.25frame/s" in line


def test_help_tells_the_forms_of_results(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["segment.py", "--help"])
    with pytest.raises(SystemExit):
        segment.parse()
    printed = capsys.readouterr().out
    for word in ('"category_id": <object id>', "bounds memory", "--alpha", "goes on when the same command"):
        assert word in printed
