import base64
import io

import cv2
import numpy as np
import pytest
from PIL import Image
from report_cases import labels_of

from experiments.report.budget import LEVELS, choose_frames, pack_details, pack_pictures, shrink
from experiments.report.pictures import SourcePictures
from experiments.report.scores import SequenceScores, frame_score, moments
from experiments.report.shapes import MOST_CONTOURS, label_outlines, outline
from experiments.report.strips import CELL, draw_strip
from experiments.report.tables import Table
from experiments.report.trace import Detail, cell_attention, object_attention
from stg_pyg import InputError

NOISE = np.random.default_rng(0).integers(0, 255, (480, 854, 3), dtype=np.uint8)


def filled(shape, size):
    """A mask of contours by the even-odd rule, with their lines, as the page draws it."""
    mask = np.zeros(size, np.uint8)
    for points in shape:
        inside = cv2.fillPoly(np.zeros(size, np.uint8), [np.array(points).reshape(-1, 2)], 1)
        mask ^= inside
    for points in shape:
        cv2.polylines(mask, [np.array(points).reshape(-1, 2)], True, 1)
    return mask > 0


def test_outlines_keep_holes_pieces_and_single_pixels():
    mask = np.zeros((60, 80), bool)
    mask[10:40, 10:50] = True
    mask[20:30, 20:40] = False
    mask[50, 70] = True
    shape = outline(mask)
    assert len(shape) == 3
    wrong = filled(shape, mask.shape) ^ mask
    assert wrong.sum() <= 0.08 * mask.sum() and filled(shape, mask.shape)[50, 70]


def test_outlines_are_scaled_and_bounded():
    mask = np.zeros((20, 20), bool)
    mask[5:10, 5:15] = True
    assert max(outline(mask, scale=(2.0, 3.0))[0]) == 28 and outline(np.zeros((4, 4), bool)) == []
    noise = np.random.default_rng(1).random((100, 100)) > 0.7
    assert len(outline(noise)) == MOST_CONTOURS
    assert set(label_outlines(labels_of(0))) == {1, 3}


def test_pictures_shrink_until_they_fit():
    jpegs = [shrink(NOISE) for _ in range(3)]
    whole, half = pack_pictures(jpegs, 10**9), pack_pictures(jpegs, sum(map(len, jpegs)) // 2)
    sides = [max(Image.open(io.BytesIO(base64.b64decode(p[0]))).size) for p in (whole, half)]
    assert sides[0] == LEVELS[0][0] and sides[1] < sides[0]
    assert sum(map(len, half)) <= sum(map(len, jpegs)) // 2
    assert max(Image.open(io.BytesIO(base64.b64decode(pack_pictures(jpegs, 1)[0]))).size) == LEVELS[-1][0]


def test_details_are_thinned_until_they_fit():
    details = [Detail("x" * 100, "y" * 400), None] + [Detail("x" * 100, "y" * 400) for _ in range(18)]
    notes: list[str] = []
    assert pack_details(details, 10_000, notes) == ([d and d.frame for d in details], [d and d.cells for d in details])
    assert notes == []
    for most in (5000, 1500, 900):
        notes = []
        frames, cells = pack_details(details, most, notes)
        assert (
            sum(len(text) for text in [*frames, *cells] if text) <= max(most, 900) and frames[0] and cells[0] and notes
        )
        assert all(frame for frame, cell in zip(frames, cells, strict=True) if cell)


def test_frames_that_are_wanted_are_kept():
    assert choose_frames(5, 10, [3]) == [0, 1, 2, 3, 4]
    kept = choose_frames(1000, 20, [501, 502, 777])
    assert {0, 999, 501, 502, 777} <= set(kept) and len(kept) <= 20


def test_moments_are_worst_occluded_and_evenly_between():
    scores = SequenceScores()
    for t in range(14):
        result = labels_of(t)
        if t == 11:
            result[result == 1] = 0
        scores.add(result, labels_of(t))
    found = {moment.frame: moment.reason for moment in moments(scores, {1: 0, 3: 0})}
    assert found[0] == "given" and found[11] == "worst" and found[6] == "occlusion"
    assert len(found) == 6 and list(found) == sorted(found)


def test_moments_of_one_frame():
    scores = SequenceScores()
    scores.add(labels_of(0), None)
    assert [moment.frame for moment in moments(scores, {1: 0})] == [0] and not scores.annotated


def test_scores_of_objects_that_come_and_go():
    scores = SequenceScores()
    maps = [labels_of(0), np.where(labels_of(1) == 3, 0, labels_of(1)).astype(np.uint8), labels_of(6)]
    scores.add(maps[1], labels_of(1))
    scores.add(maps[1], None)
    scores.add(maps[2], labels_of(6))
    assert scores.j == {1: [1.0, None, 1.0], 3: [0.0, None, 1.0]}
    assert scores.worst({1: 0}) == [(0, 3)]
    scores.forget_before({3: 2})
    assert scores.f[3] == [None, None, 1.0]
    with pytest.raises(InputError, match="64 x 48 pixels and annotations of 63 x 48"):
        scores.add(labels_of(0), labels_of(0)[:, 1:])


def test_nothing_in_both_is_right():
    nothing = np.zeros((20, 30), bool)
    assert frame_score(nothing, nothing) == (1.0, 1.0) and frame_score(nothing, ~nothing)[0] == 0


def test_a_strip_has_a_row_for_the_annotation():
    picture = np.zeros((48, 64, 3), np.uint8)
    cells = [(picture, labels_of(t), labels_of(t), f"{t}") for t in range(3)]
    both = Image.open(io.BytesIO(draw_strip("walk", cells)))
    alone = Image.open(io.BytesIO(draw_strip("walk", [(p, r, None, c) for p, r, _, c in cells])))
    assert both.width == alone.width > 3 * CELL and both.height - alone.height >= 48 / 64 * CELL


def test_attention_is_relative_to_its_largest():
    cells = np.array([[[0.5, 0.25, 0.005], [0.1, 0.1, 0.2]]], np.float16)
    np.testing.assert_array_equal(cell_attention(cells), [[[255, 128, 0], [128, 128, 255]]])
    grid = np.zeros((2, 64, 64), np.float16)
    grid[1, :2, :2] = 0.25
    small = object_attention(grid)
    assert small.shape == (2, 32, 32) and small[1, 0, 0] == 255 and small.sum() == 255


def test_frames_of_a_source_are_found_by_name():
    class Source:
        def __iter__(self):
            return iter([(f"{t:05d}", np.full((2, 2, 3), t, np.uint8)) for t in range(6)])

        def position(self, name):
            return int(name) if name.isdecimal() else None

    frames = list(SourcePictures(Source()).frames(["00001", "odd", "00004"]))
    assert [None if f is None else int(f[0, 0, 0]) for f in frames] == [1, None, 4]


def test_tables_escape_what_they_show():
    html = Table("<t>", ["<c>", "n"], [["<v>&", 1.5], [None, True]]).to_html()
    assert "<t>" not in html and "&lt;v&gt;&amp;" in html and "<td class=number>1.50</td>" in html and "yes" in html
