# ruff: noqa: F401, F811 -- fixtures are imported and named as arguments
import dataclasses
from pathlib import Path

import numpy as np
import torch
from commands import command, error_line
from PIL import Image
from segment_cases import (
    COUNT,
    FIRST,
    FRAMES,
    HEIGHT,
    PRESET,
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

from experiments.common import checkpoints
from experiments.segment.given.masks import reduce_labels
from experiments.segment.given.proposals import resize_proposals
from stg_pyg.learning import lesson as online
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.coco import write_coco_results
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.utils.images import write_label_map
from stg_pyg.video.segmenter import VideoSegmenter


def test_masks_are_refused(complaint, tmp_path, clip, film, first):
    assert str(tmp_path / "none.png") in complaint(clip, tmp_path / "none.png")
    write_label_map(tmp_path / "big.png", np.pad(FIRST, 4))
    message = complaint(clip, tmp_path / "big.png")
    assert "big.png" in message and "72 x 56" in message and "64 x 48" in message
    write_label_map(tmp_path / "black.png", np.zeros_like(FIRST))
    assert "black.png: is all background" in complaint(clip, tmp_path / "black.png")
    write_label_map(tmp_path / f"{FRAMES[3]}.png", FIRST)
    assert "has the name of a later frame" in complaint(clip, tmp_path / f"{FRAMES[3]}.png")
    (tmp_path / "cut.png").write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    assert "cut.png" in complaint(clip, tmp_path / "cut.png")
    vanishing = np.zeros_like(FIRST)
    vanishing[:20, :20], vanishing[40, 40] = 1, 7
    write_label_map(tmp_path / "vanishing.png", vanishing)
    message = complaint(clip, tmp_path / "vanishing.png", "--max-size", 32)
    assert "object 7 vanishes at 32 x 24" in message and "--max-size" in message


def test_folders_of_masks_are_refused(complaint, tmp_path, clip, film):
    masks = tmp_path / "masks"
    masks.mkdir()
    assert "has no masks" in complaint(clip, masks)
    write_label_map(masks / f"{FRAMES[0]}.png", FIRST)
    write_label_map(masks / "other.png", FIRST)
    message = complaint(clip, masks)
    assert str(masks / "other.png") in message and str(clip) in message
    (masks / "other.png").rename(masks / "00099.png")
    assert str(masks / "00099.png") in complaint(clip, masks)
    assert str(masks / "00099.png") in complaint(film, masks), "beyond the end of the video"
    (masks / "00099.png").rename(masks / f"{FRAMES[3]}.png")
    assert "left out by --every 2" in complaint(clip, masks, "--every", 2)
    write_label_map(masks / f"{FRAMES[0]}.png", np.zeros_like(FIRST))
    assert f"{FRAMES[0]}.png: is all background" in complaint(clip, masks)
    for name in FRAMES[:4]:
        (masks / f"{name}.png").unlink(missing_ok=True)
    write_label_map(masks / "a.png", FIRST > 0)
    write_label_map(masks / "b.png", np.where(FIRST > 0, FIRST * 2 + np.uint8(1), np.eye(HEIGHT, WIDTH) > 0))
    message = complaint(clip, masks)
    assert "b.png: has " in message and f"{FRAMES[0]}.png" in message
    write_label_map(masks / "b.png", np.zeros_like(FIRST))
    assert "b.png: is all background" in complaint(clip, masks)
    write_label_map(masks / "b.png", np.ones_like(FIRST))
    assert "a.png: is hidden" in complaint(clip, masks)


def test_bad_arguments(complaint, tmp_path, clip, film, first):
    assert str(tmp_path / "none.mp4") in complaint(tmp_path / "none.mp4", first)
    assert "is one picture" in complaint(clip / f"{FRAMES[0]}.png", first)
    assert "--every" in complaint(clip, first, "--every", 0)
    assert "--max-size" in complaint(clip, first, "--max-size", 8)
    assert "--memory-frames" in complaint(clip, first, "--memory-frames", "many")
    assert "--sequence" in complaint(clip, first, "--sequence", "../x")
    assert "nosuch" in complaint(clip, first, "--flow", "nosuch")
    assert "experiments.train" in complaint(clip, first, "--checkpoint", tmp_path / "none.pt")
    assert str(tmp_path / "p.json") in complaint(clip, first, "--proposals", tmp_path / "p.json")


def test_what_was_given_is_never_replaced(run, capsys, tmp_path, clip, film, first):
    frames = {path.name: path.read_bytes() for path in clip.iterdir()}
    run(clip, first, "--out", clip.parent, status=2)
    assert f"{clip}: results would be written" in error_line(capsys)
    assert {path.name: path.read_bytes() for path in clip.iterdir()} == frames
    out = run(clip, first, "--overlay")
    before = (out / "overlay.mp4").read_bytes()
    run(out / "overlay.mp4", first, "--overlay", status=2)
    assert "would replace this very file" in error_line(capsys, alone=False)
    run(clip, out / "clip", status=2)
    assert "results would be written" in error_line(capsys)
    assert (out / "overlay.mp4").read_bytes() == before


def write_proposals(path: Path, sequence: str, frames: list[str], shift: int = 0) -> Path:
    """Squares, the second of them without a mask, as COCO results."""
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0, 6:30, 8 + shift : 30 + shift] = masks[1, 20:40, 30:50] = True
    encoded = EncodedProposals.from_proposals(Proposals.from_masks(masks))
    write_coco_results(path, {sequence: {name: encoded for name in frames}})
    return path


def test_proposals_reach_the_segmenter(run, complaint, tmp_path, monkeypatch, clip, first):
    path = write_proposals(tmp_path / "p.json", "elsewhere", FRAMES)
    given, step = [], VideoSegmenter.step

    def watched(self, *arguments, **named):
        given.append(named["proposals"])
        return step(self, *arguments, **named)

    monkeypatch.setattr(VideoSegmenter, "step", watched)
    out = run(clip, first, "--proposals", path)
    assert [len(proposals) for proposals in given] == [2] * COUNT and given[0].size == (HEIGHT, WIDTH)
    assert list(labels_in(out / "clip")) == FRAMES
    given.clear()
    run(clip, first, "--proposals", path, "--max-size", 32, "--sequence", "elsewhere", out="small")
    assert given[0].size == (24, 32)
    assert given[0].boxes[0].tolist() == [4, 3, 15, 15]


def test_proposals_are_refused(complaint, tmp_path, clip, first):
    path = write_proposals(tmp_path / "p.json", "elsewhere", FRAMES)
    message = complaint(clip, first, "--proposals", path, "--sequence", "mine")
    assert "'mine'" in message and "elsewhere" in message and "--sequence" in message
    path = write_proposals(tmp_path / "p.json", "clip", ["frame7"])
    assert "frame7" in complaint(clip, first, "--proposals", path)


def test_proposals_at_another_size():
    masks = torch.zeros(3, 20, 40, dtype=torch.bool)
    masks[0, 2:10, 4:20] = masks[1, :, 30:] = True
    known = Proposals(
        torch.tensor([[4.0, 2, 20, 10], [30, 0, 40, 20], [0, 0, 8, 8]]),
        masks,
        torch.tensor([0.9, 0.5, 0.1]),
        has_mask=torch.tensor([True, True, False]),
    )
    encoded = EncodedProposals.from_proposals(known)
    assert resize_proposals(encoded, (20, 40)) is encoded
    half = resize_proposals(encoded, (10, 20))
    assert half.size == (10, 20) and half.has_mask.tolist() == [True, True, False]
    decoded = half.select(slice(None))
    assert torch.equal(decoded.masks, masks[:, ::2, ::2]) and torch.equal(decoded.boxes, known.boxes / 2)
    assert torch.equal(decoded.scores, known.scores)


def test_proposals_need_no_checkpoint(monkeypatch, tmp_path, clip, first):
    asked = []

    def untrained_model(preset_name: str):
        asked.append(preset_name)
        return checkpoints.build_model(dataclasses.replace(PRESET, backbone=None, width=8)).eval()

    monkeypatch.setattr(checkpoints, "untrained_model", untrained_model, raising=False)
    monkeypatch.setattr(online, "learn_online", None)
    path = write_proposals(tmp_path / "p.json", "clip", FRAMES)
    arguments = (clip, "--masks", first, "--out", tmp_path / "out", "--device", "cpu", "--proposals", path)
    assert command(monkeypatch, "segment", *arguments) == 0
    assert asked == ["davis2016-small"] and list(labels_in(tmp_path / "out/clip")) == FRAMES


def test_labels_at_a_smaller_size():
    labels = np.zeros((8, 8), np.uint8)
    labels[:, 4:], labels[0:2, 0:2], labels[4, 0] = 9, 3, 9
    assert reduce_labels(labels, (8, 8), "x") is labels
    expected = np.zeros((4, 4), np.uint8)
    expected[:, 2:], expected[0, 0] = 9, 3
    np.testing.assert_array_equal(reduce_labels(labels, (4, 4), "x"), expected)


def test_label_maps_named_as_frames(run, tmp_path, clip, capsys):
    one, late = np.where(FIRST == 1, np.uint8(4), np.uint8(0)), np.zeros_like(FIRST)
    late[2:9, 2:9] = 200
    write_label_map(tmp_path / "masks" / f"{FRAMES[0]}.png", one)
    write_label_map(tmp_path / "masks" / f"{FRAMES[2]}.png", late)
    found = labels_in(run(clip, tmp_path / "masks") / "clip")
    np.testing.assert_array_equal(found[FRAMES[0]], one)
    assert 200 not in found[FRAMES[1]]
    assert (found[FRAMES[2]][2:9, 2:9] == 200).all(), "the object that comes later"
    assert "2 objects (4, 200)" in capsys.readouterr().out
    write_label_map(tmp_path / "masks" / f"{FRAMES[3]}.png", one)
    corrected = labels_in(run(clip, tmp_path / "masks", out="corrected") / "clip")[FRAMES[3]]
    np.testing.assert_array_equal(corrected == 4, one == 4)


def test_frames_before_the_first_mask_are_empty(run, tmp_path, film, capsys):
    write_label_map(tmp_path / "masks" / f"{FRAMES[2]}.png", VIDEO.labels(2))
    found = labels_in(run(film, tmp_path / "masks") / "film")
    assert not found[FRAMES[0]].any() and not found[FRAMES[1]].any()
    np.testing.assert_array_equal(found[FRAMES[2]], VIDEO.labels(2))
    assert f"the frames before {FRAMES[2]}" in capsys.readouterr().out


def test_one_file_an_object(run, tmp_path, clip, capsys):
    squares = np.zeros((3, HEIGHT, WIDTH), bool)
    squares[0, 4:20, 4:20] = squares[1, 10:26, 10:26] = squares[2, 30:40, 40:60] = True
    for name, square in zip(("obj2", "obj10", "obj11"), squares, strict=True):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.uint8(255) * square).save(tmp_path / "masks" / f"{name}.png")
    labels = labels_in(run(clip, tmp_path / "masks") / "clip")[FRAMES[0]]
    assert (labels[squares[1]] == 2).all(), "a later file is on top"
    assert (labels[squares[0] & ~squares[1]] == 1).all() and (labels[squares[2]] == 3).all()
    assert "one object a file, from obj2.png (id 1) on" in capsys.readouterr().out
