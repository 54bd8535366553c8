# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
import json

import numpy as np
import pytest
import torch
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
from experiments.segment.outputs import BAR, lost_objects, read_confidence, write_coco
from stg_pyg.coco import read_coco_results
from stg_pyg.grouped_stream import GroupedSegmenter
from stg_pyg.io import write_label_map
from stg_pyg.stream import StepResult, VideoSegmenter

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
