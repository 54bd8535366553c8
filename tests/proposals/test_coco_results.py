import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocotools import mask as coco_mask

from stg_pyg.errors import InputError
from stg_pyg.proposals.coco import read_coco_results, write_coco_frames, write_coco_results
from stg_pyg.proposals.rle import EncodedProposals, encode_masks
from stg_pyg.proposals.store import open_proposals

SIZE = (12, 16)
MASK = torch.zeros(1, *SIZE, dtype=torch.bool)
MASK[0, 3:8, 2:9] = True
RLE: dict[str, Any] = {"size": list(SIZE), "counts": encode_masks(MASK)[0].decode()}
RUNS = [27, *[5, 7] * 6, 5, 88]


def entry(**changes: Any) -> dict[str, Any]:
    """A sound entry; None drops a key."""
    whole = {"image_id": "car/00003", "category_id": 1, "bbox": [2, 3, 7, 5], "score": 0.5, "segmentation": RLE}
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def save(folder: Path, content: Any) -> Path:
    path = folder / "proposals.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def refusal(function: Any, *arguments: Any) -> str:
    with pytest.raises(InputError) as error:
        function(*arguments)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    return str(error.value)


def test_read(tmp_path):
    entries = [
        entry(),
        entry(image_id="a/boat/s.1.JPG", segmentation=None, bbox=[1.5, 0, 2.25, 4], score=1),
        {"image_id": "car/00003.png", "segmentation": {**RLE, "counts": RUNS}},
        entry(score=0.25, bbox=[1, 1, 3, 3], segmentation=None),
        entry(image_id="car/00004"),
    ]
    results = read_coco_results(save(tmp_path, entries))
    assert {sequence: list(frames) for sequence, frames in results.items()} == {
        "car": ["00003", "00004"],
        "a/boat": ["s.1"],
    }
    car = results["car"]["00003"]
    assert car.boxes.tolist() == [[2, 3, 9, 8], [2, 3, 9, 8], [1, 1, 4, 4]] and car.scores.tolist() == [0.5, 1, 0.25]
    assert car.boxes.dtype == car.scores.dtype == torch.float32 and car.size == SIZE and car.feats is None
    chosen = car.select(slice(None))
    assert chosen.has_mask.tolist() == [True, True, False]
    assert torch.equal(chosen.masks, torch.cat([MASK, MASK, MASK & False]))
    boat = results["a/boat"]["s.1"]
    assert boat.counts == [None] and boat.size == (0, 0) and boat.boxes.tolist() == [[1.5, 0, 3.75, 4]]


def cases(key: str, word: str, values: tuple[Any, ...]) -> list[tuple[dict[str, Any], str]]:
    return [(entry(**{key: value}), word) for value in values]


NAMES = ("00003", "/00003", "car/", "../car/00003", "car/../00003", "a//b", "car/.", "c\n/", "a/\0", "")
SCORES = (math.nan, -math.inf, 10**400, "0.5", True, [1])
BOXES = ([1, 2, math.nan, 4], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4"], [1, 2, 3, True], [1, 2, 10**400, 4], {})
FLAT = ([1, 2, 0, 4], [1, 2, 3, 0], [1, 2, -3, 4], [1e9, 2, 1e-3, 4])
SIZES = (None, [12], [12.0, 16.0], [-12, -16], [0, 16], ["12", "16"], [True, True], [10**9, 10**9])
COUNTS = (None, 5, "", "é", "\ud800", "0", RLE["counts"][:-1], RLE["counts"] + "1", "ooooooooo0")


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (entry(image_id=17), "write image_id as"),
        (entry(image_id=None), "is missing"),
        *cases("image_id", "<sequence>/<frame stem>", NAMES),
        (entry(bbox=None, segmentation=None), "neither bbox nor segmentation"),
        *cases("score", "score", SCORES),
        *cases("bbox", "bbox", (*BOXES, *FLAT)),
        (entry(bbox=None, segmentation={**RLE, "counts": [192]}), "empty"),
        *cases("segmentation", "polygon", ([[0, 0, 4, 0, 4, 4]],)),
        *cases("segmentation", "size [H, W]", ("abc", *({**RLE, "size": size} for size in SIZES))),
        *cases("segmentation", "segmentation", tuple({**RLE, "counts": counts} for counts in COUNTS)),
        (entry(segmentation={**RLE, "size": [12, 15]}), "covers 192 pixels, not 12 x 15 = 180"),
        (entry(segmentation={**RLE, "size": [16, 12]}), "says 12 x 16"),
        *cases("segmentation", "whole runs", tuple({**RLE, "counts": c} for c in ([10, 5], [200, -8], [192.0], []))),
    ],
)
def test_a_broken_entry_is_one_line_with_its_number(tmp_path, bad, word):
    same_frame = entry(segmentation=None) if word.startswith("covers") else entry()
    path = save(tmp_path, [entry(image_id="car/00002"), same_frame, bad, entry(image_id="car/00005")])
    line = refusal(read_coco_results, path)
    assert line.startswith(f"{path}: entry 2 (image_id ") and word in line
    assert repr(bad.get("image_id"))[:80] in line


@pytest.mark.parametrize(
    ("content", "word"),
    [
        *[(text, "not JSON or cut short") for text in (b"", b"{", b"[" * 100_000, b"[" + b"1" * 5000 + b"]", b"\x89P")],
        *[(text, "must be a list") for text in (b"{}", b'"car"', b"null")],
        *[(text, "entry 0 is no object") for text in (b"[3]", b"[[1, 2]]")],
        (b'[{"image_id": "car/00001", "bbox": [0, 0, 4, 4], "score": NaN}]', "score nan"),
        (b'[{"image_id": "car/00001", "score": 1, "score": 2}]', "the key 'score' is there twice"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, content, word):
    path = save(tmp_path, content)
    line = refusal(open_proposals, path)
    assert line.startswith(f"{path}: ") and word in line


def test_source(tmp_path):
    assert "no such file" in refusal(open_proposals, tmp_path / "none.json")
    entries = [entry(image_id="car/00003"), entry(image_id="boat/00001"), entry(image_id="car/00007")]
    path = save(tmp_path, b"\xef\xbb\xbf" + json.dumps(entries).encode())  # a byte order mark does no harm
    source = open_proposals(path)
    assert source.path == path and source.sequences == ["boat", "car"] and not source.features
    source.check("car", ["00003", "00005", "00007"])
    source.check("plane", ["00000"])
    line = refusal(source.check, "car", ["00000", "00003"])
    assert line.startswith(f"{path}: entry 2 (image_id 'car/00007')") and "'00000'" in line
    assert "entry 0" in refusal(source.check, "car", [])
    source.check_any(["plane", "boat"])
    assert "'plane'" in refusal(source.check_any, ["plane"])
    frame = source.frame("car", "00005", SIZE)
    assert len(frame) == 0 and frame.size == SIZE and frame.select([]).masks.shape == (0, *SIZE)
    open_proposals(save(tmp_path, [])).check_any(["car"])


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


def test_written_entries(tmp_path):
    encoded = EncodedProposals(torch.tensor([[1.5, 2, 4, 8]] * 2), torch.rand(2), [*encode_masks(MASK), None], SIZE)
    path = tmp_path / "new" / "proposals.json"
    write_coco_results(path, {"car": {"00003": encoded}, "boat": {}})
    first, second = json.loads(path.read_text())
    assert list(first) == ["image_id", "category_id", "bbox", "score", "segmentation"] and "segmentation" not in second
    assert (first["image_id"], first["category_id"], first["bbox"]) == ("car/00003", 1, [1.5, 2, 2.5, 6])
    assert coco_mask.decode(first["segmentation"]).astype(bool).tolist() == MASK[0].tolist()
    write_coco_results(path, {})
    for box, score in (([1.0, 1, 1, 5], 0.5), ([0, 0, 1, math.nan], 0.5), ([0, 0, 2, 2], math.nan)):
        bad = EncodedProposals(torch.tensor([box]), torch.tensor([score]), [None], SIZE)
        assert "car/00001" in refusal(write_coco_frames, path, [("car", "00001", bad)])
    assert path.read_text() == "[]\n" and len(list(path.parent.iterdir())) == 1


def test_masks_are_decoded_only_when_chosen(tmp_path, monkeypatch):
    source = open_proposals(save(tmp_path, [entry() for _ in range(30)]))
    decode, calls = coco_mask.decode, []
    monkeypatch.setattr(coco_mask, "decode", lambda item: calls.append(1) or decode(item))
    frame = source.frame("car", "00003", SIZE)
    assert frame.boxes.shape == (30, 4) and calls == []
    frame.select([3, 8])
    assert len(calls) == 2
