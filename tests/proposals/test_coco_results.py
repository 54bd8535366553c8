import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocotools import mask as coco_mask

from stg_pyg.errors import InputError
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.proposals.coco import read_coco_results, write_coco_frames, write_coco_results
from stg_pyg.proposals.rle import EncodedProposals, encode_masks
from stg_pyg.proposals.store import open_proposals

SIZE = (12, 16)


def mask(x0: int = 2, y0: int = 3, x1: int = 9, y1: int = 8) -> torch.Tensor:
    result = torch.zeros(1, *SIZE, dtype=torch.bool)
    result[0, y0:y1, x0:x1] = True
    return result


def rle(masks: torch.Tensor | None = None) -> dict[str, Any]:
    return {"size": list(SIZE), "counts": encode_masks(mask() if masks is None else masks)[0].decode()}


def entry(**changes: Any) -> dict[str, Any]:
    """A sound entry; None drops a key."""
    whole = {"image_id": "car/00003", "category_id": 1, "bbox": [2, 3, 7, 5], "score": 0.5, "segmentation": rle()}
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def save(folder: Path, content: Any) -> Path:
    path = folder / "proposals.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def refusal(function: Any, *arguments: Any) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_read(tmp_path):
    box_only = entry(image_id="boat/00001", segmentation=None, bbox=[1.5, 0, 2.25, 4], score=1)
    path = save(tmp_path, [entry(), box_only, entry(score=0.25, bbox=[1, 1, 3, 3]), entry(image_id="car/00004")])
    results = read_coco_results(path)
    assert {sequence: list(frames) for sequence, frames in results.items()} == {
        "car": ["00003", "00004"],
        "boat": ["00001"],
    }
    car = results["car"]["00003"]
    assert car.boxes.tolist() == [[2, 3, 9, 8], [1, 1, 4, 4]] and car.scores.tolist() == [0.5, 0.25]
    assert car.boxes.dtype == car.scores.dtype == torch.float32 and car.size == SIZE and car.feats is None
    assert torch.equal(car.select([0]).masks, mask())
    boat = results["boat"]["00001"]
    assert boat.counts == [None] and boat.size == (0, 0) and boat.boxes.tolist() == [[1.5, 0, 3.75, 4]]


def test_what_may_be_missing(tmp_path):
    runs = coco_mask.decode(rle()).T.ravel().tolist()
    ends = [k for k in range(1, len(runs)) if runs[k] != runs[k - 1]] + [len(runs)]
    plain = {"size": list(SIZE), "counts": [b - a for a, b in zip([0, *ends], ends, strict=False)]}
    entries = [
        {"image_id": "car/00003", "segmentation": rle()},
        {"image_id": "car/00003.JPG", "segmentation": plain},
        {"image_id": "car/00003.png", "bbox": [0, 0, 16, 12]},
    ]
    frame = read_coco_results(save(tmp_path, entries))["car"]["00003"]
    assert frame.scores.tolist() == [1, 1, 1]
    assert frame.boxes.tolist() == [[2, 3, 9, 8], [2, 3, 9, 8], [0, 0, 16, 12]]
    chosen = frame.select(slice(None))
    assert chosen.has_mask.tolist() == [True, True, False]
    assert torch.equal(chosen.masks[:2], mask().expand(2, -1, -1)) and not chosen.masks[2].any()


def test_nested_sequences_and_dots_in_names(tmp_path):
    results = read_coco_results(save(tmp_path, [entry(image_id="cat/0001/shot.2/frame.00003")]))
    assert list(results) == ["cat/0001/shot.2"] and list(results["cat/0001/shot.2"]) == ["frame.00003"]


def test_no_proposals_anywhere(tmp_path):
    source = open_proposals(save(tmp_path, []))
    assert source.sequences == [] and not source.features
    source.check("car", ["00000"])
    source.check_any(["car"])
    frame = source.frame("car", "00000", SIZE)
    assert len(frame) == 0 and frame.size == SIZE and frame.select([]).masks.shape == (0, *SIZE)


def test_a_key_that_is_there_twice(tmp_path):
    path = tmp_path / "twice.json"
    path.write_text(json.dumps([entry()]).replace('"score"', '"score": 0.1, "score"'))
    with pytest.raises(InputError, match=r"twice\.json: .*the key 'score' is there twice"):
        read_coco_results(path)


BROKEN_RUNS = {"size": list(SIZE), "counts": [10, 5]}


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (entry(image_id=17), "write image_id as"),
        (entry(image_id=None), "is missing"),
        *[
            (entry(image_id=name), "<sequence>/<frame stem>")
            for name in ("00003", "/00003", "car/", "../car/00003", "car/../00003", "a//b", "car/.", "c\n/", "a/\0", "")
        ],
        (entry(bbox=None, segmentation=None), "neither bbox nor segmentation"),
        *[(entry(score=score), "score") for score in (math.nan, math.inf, -math.inf, 10**400, "0.5", True, [1])],
        *[
            (entry(bbox=box), "bbox")
            for box in (
                [1, 2, math.nan, 4],
                [1, math.inf, 3, 4],
                [1, 2, 3],
                [1, 2, 3, 4, 5],
                [1, 2, 3, "4"],
                [1, 2, 3, True],
                [1, 2, 10**400, 4],
                "1 2 3 4",
                {},
                [1, 2, 0, 4],
                [1, 2, 3, 0],
                [1, 2, -3, 4],
                [1e9, 2, 1e-3, 4],
            )
        ],
        (entry(bbox=None, segmentation=rle(mask(0, 0, 0, 0))), "empty"),
        (entry(segmentation=[[0, 0, 4, 0, 4, 4]]), "polygon"),
        (entry(segmentation="abc"), "size [H, W]"),
        *[
            (entry(segmentation={**rle(), "size": size}), "size [H, W]")
            for size in (None, [12], [12.0, 16.0], [-12, -16], [0, 16], ["12", "16"], [True, True], [10**9, 10**9])
        ],
        *[
            (entry(segmentation={**rle(), "counts": counts}), "segmentation")
            for counts in (None, 5, "", "é", "\ud800", "0", rle()["counts"][:-1], rle()["counts"] + "1", "ooooooooo0")
        ],
        (entry(segmentation={**rle(), "size": [12, 15]}), "covers 192 pixels, not 12 x 15 = 180"),
        (entry(segmentation={**rle(), "size": [16, 12]}), "says 12 x 16"),
        (entry(segmentation=BROKEN_RUNS), "192 pixels in sum"),
        (entry(segmentation={**BROKEN_RUNS, "counts": [200, -8]}), "whole runs"),
        (entry(segmentation={**BROKEN_RUNS, "counts": [192.0]}), "whole runs"),
        (entry(segmentation={**BROKEN_RUNS, "counts": []}), "whole runs"),
    ],
)
def test_a_broken_entry_is_one_line_with_its_number(tmp_path, bad, word):
    same_frame = entry(segmentation=None) if word.startswith("covers") else entry()
    path = save(tmp_path, [entry(image_id="car/00002"), same_frame, bad, entry(image_id="car/00005")])
    line = refusal(read_coco_results, path)
    assert line.startswith(f"{path}: entry 2 (image_id ") and word in line and len(line) < 400
    assert repr(bad.get("image_id"))[:80] in line


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "not JSON or cut short"),
        ("{", "not JSON or cut short"),
        (json.dumps([entry()])[:-20], "not JSON or cut short"),
        ("[" * 100_000, "not JSON or cut short"),
        ("[" + "1" * 5000 + "]", "not JSON or cut short"),
        ("{}", "must be a list of results, not a JSON dict"),
        ('"car"', "must be a list"),
        ("null", "must be a list"),
        ("[3]", "entry 0 is no object"),
        ("[[1, 2]]", "entry 0 is no object"),
        ('[{"image_id": "car/00001", "bbox": [0, 0, 4, 4], "score": NaN}]', "score nan"),
        ('[{"image_id": "car/00001", "bbox": [0, 0, 4, 4], "score": 1e999}]', "score inf"),
        ('[{"image_id": "car/00001", "bbox": [0, 0, -Infinity, 4]}]', "bbox"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, content, word):
    path = save(tmp_path, content)
    line = refusal(open_proposals, path)
    assert line.startswith(f"{path}: ") and word in line and len(line) < 400


def test_files_that_are_not_there_or_not_text(tmp_path):
    assert "no such file" in refusal(open_proposals, tmp_path / "none.json")
    path = tmp_path / "proposals.json"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\0\0")
    assert "not JSON" in refusal(open_proposals, path)
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([entry()]).encode())
    assert open_proposals(path).sequences == ["car"], "a byte order mark does no harm"


def test_source(tmp_path):
    path = save(tmp_path, [entry(image_id="car/00003"), entry(image_id="boat/00001"), entry(image_id="car/00007")])
    source = open_proposals(path)
    assert source.path == path and source.sequences == ["boat", "car"]
    source.check("car", ["00003", "00005", "00007"])
    source.check("plane", ["00000"])
    line = refusal(source.check, "car", ["00000", "00003"])
    assert line.startswith(f"{path}: entry 2 (image_id 'car/00007')") and "'00000'" in line
    assert "entry 0" in refusal(source.check, "car", [])
    source.check_any(["plane", "boat"])
    assert "'plane'" in refusal(source.check_any, ["plane"])
    assert len(source.frame("car", "00005", SIZE)) == 0


def test_frames_of_another_size(tmp_path):
    box_only = entry(image_id="boat/00001", segmentation=None, bbox=[14, 10, 9, 9])
    source = open_proposals(save(tmp_path, [box_only, entry(segmentation=None), entry()]))
    line = refusal(source.frame, "car", "00003", (16, 12))
    assert "entry 2 (image_id 'car/00003')" in line and "12 x 16" in line and "16 x 12" in line
    boat = source.frame("boat", "00001", SIZE)
    assert boat.size == SIZE and boat.select(0).masks.shape == (1, *SIZE)
    for size in ((10, 16), (12, 14)):
        line = refusal(source.frame, "boat", "00001", size)
        assert "entry 0" in line and "outside" in line
    for box in ([-9, 1, 9, 4], [1, -9, 4, 9]):
        source = open_proposals(save(tmp_path, [entry(segmentation=None, bbox=box)]))
        assert "outside" in refusal(source.frame, "car", "00003", SIZE)


def test_written_files_read_back_bit_exact(tmp_path):
    masks = torch.rand(40, *SIZE) < torch.linspace(0.02, 1, 40)[:, None, None]
    boxes = masks_to_boxes(masks) + torch.rand(40, 4) * torch.tensor([-1.0, -1, 1, 1])
    counts = [None if n % 5 == 0 else item for n, item in enumerate(encode_masks(masks))]
    written = {"car": {"00003": EncodedProposals(boxes, torch.rand(40), counts, SIZE)}, "boat": {}}
    path = tmp_path / "new" / "proposals.json"
    write_coco_results(path, written)
    frame = read_coco_results(path)["car"]["00003"]
    expected = written["car"]["00003"]
    assert torch.equal(frame.boxes, boxes) and torch.equal(frame.scores, expected.scores)
    assert frame.counts == counts and frame.size == SIZE
    first = json.loads(path.read_text())[1]
    assert list(first) == ["image_id", "category_id", "bbox", "score", "segmentation"]
    assert first["image_id"] == "car/00003" and first["category_id"] == 1
    assert coco_mask.decode(first["segmentation"]).astype(bool).tolist() == masks[1].tolist()
    assert [p.name for p in path.parent.iterdir()] == ["proposals.json"]
    write_coco_results(path, {})
    assert json.loads(path.read_text()) == []


def test_writing_refuses_what_reading_would(tmp_path):
    path = tmp_path / "proposals.json"
    write_coco_results(path, {})
    for box, score in (([1.0, 1, 1, 5], 0.5), ([0, 0, 1, math.nan], 0.5), ([0, 0, 2, 2], math.nan)):
        bad = EncodedProposals(torch.tensor([box]), torch.tensor([score]), [None], SIZE)
        assert "car/00001" in refusal(write_coco_frames, path, [("car", "00001", bad)])
    assert path.read_text() == "[]\n" and len(list(tmp_path.iterdir())) == 1


def test_masks_are_decoded_only_when_chosen(tmp_path, monkeypatch):
    source = open_proposals(save(tmp_path, [entry() for _ in range(30)]))
    decode, calls = coco_mask.decode, []
    monkeypatch.setattr(coco_mask, "decode", lambda item: calls.append(1) or decode(item))
    frame = source.frame("car", "00003", SIZE)
    assert frame.boxes.shape == (30, 4) and calls == []
    frame.select([3, 8])
    assert len(calls) == 2
