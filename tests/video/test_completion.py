"""Finding the rest of an object of which a result is only a part."""

import pytest
import torch
from proposer_cases import GREEN, RED, box_mask, colour_rule, iou, proposer, scene
from stream_cases import HEIGHT as STREAM_HEIGHT
from stream_cases import PLAIN, RedRule, label_map, picture, segmenter
from stream_cases import WIDTH as STREAM_WIDTH
from stream_cases import iou as label_iou

from stg_pyg.config import RecoveryConfig
from stg_pyg.proposals.appearance import ColourModel
from stg_pyg.video.recovery.completion import find_rest, is_part

CONFIG = RecoveryConfig()
WHOLE, PART, BESIDE, FIRST = (8, 10, 38, 30), (8, 10, 16, 30), (16, 10, 38, 30), (8, 10, 28, 30)
FRAME = scene(((40, 4, 60, 20), GREEN), (FIRST, RED))
COLOURS = ColourModel(FRAME, box_mask(*FIRST))
LIKENESS = float(COLOURS.likeness(FRAME, box_mask(*FIRST)[None])[0])


def rest(*things, part=PART, rule=None, taken=(0, 0, 0, 0), area=600.0):
    image, size = scene(((40, 4, 60, 20), GREEN), *things), torch.tensor([30.0, 20.0])
    return find_rest(proposer(rule), image, box_mask(*part), size, area, COLOURS, LIKENESS, box_mask(*taken), CONFIG)


@pytest.mark.parametrize(
    ("area", "usual", "part"),
    [(0, 100, False), (74, 100, True), (76, 100, False), (200, 100, False)],
)
def test_parts_are_far_smaller_than_usual_but_not_empty(area, usual, part):
    assert is_part(area, usual, CONFIG) is part


@pytest.mark.parametrize("part", [PART, (30, 10, 38, 30), (8, 10, 38, 16), (18, 14, 28, 24)])
def test_the_rest_is_found_wherever_the_part_is(part):
    found = rest((WHOLE, RED), part=part)
    assert iou(found.masks[0], box_mask(*WHOLE)) > 0.9
    torch.testing.assert_close(found.boxes[0], torch.tensor(WHOLE, dtype=torch.float32), atol=2, rtol=0)
    assert all(iou(mask, found.masks[0]) > 0.3 for mask in found.masks)
    assert len(found.scores) == len(found.masks) == len(found.boxes)


@pytest.mark.parametrize(
    ("things", "options", "seen"),
    [
        # What something stands in front of is one object.
        ([(WHOLE, RED), ((16, 6, 24, 34), GREEN)], {}, box_mask(*WHOLE) - box_mask(16, 10, 24, 30)),
        ([(PART, RED)], {}, None),
        # What is next to the part is of its colours or not of the object, whatever the network says.
        ([(PART, RED), (BESIDE, GREEN)], {"rule": colour_rule(0, 1)}, None),
        ([(PART, RED), (BESIDE, RED)], {"rule": colour_rule(0, 1)}, box_mask(*WHOLE)),
        ([(WHOLE, RED)], {"taken": BESIDE}, None),
        ([(WHOLE, RED)], {"taken": (60, 40, 90, 60)}, box_mask(*WHOLE)),
        ([(WHOLE, RED)], {"rule": colour_rule(0, quality=-5.0)}, None),
        ([(WHOLE, RED)], {"area": 150.0}, None),  # far larger than the object
    ],
)
def test_what_is_taken_and_what_is_refused(things, options, seen):
    found = rest(*things, **options)
    assert found is None if seen is None else iou(found.masks[0], seen) > 0.9


# In a video


def bar(*columns):
    mask = torch.zeros(STREAM_HEIGHT, STREAM_WIDTH)
    for start, end in columns:
        mask[16:30, start:end] = 1
    return mask


def pass_behind(video, hidden=2):
    """A bar whose right end is hidden for some frames and then comes out on the other side of a post."""
    whole, left, both = bar((4, 44)), bar((4, 12)), bar((4, 12), (24, 44))
    for _ in range(3):
        video.step(picture(whole), masks=label_map(o1=whole))
    for _ in range(hidden):
        assert label_iou(video.step(picture(left)).labels > 0, left > 0.5) > 0.85
    return video.step(picture(both)), both > 0.5


@pytest.mark.parametrize("complete", [True, False])
def test_an_object_that_comes_out_behind_something_is_whole_again(complete):
    result, both = pass_behind(segmenter(PLAIN.replace("recovery.complete", complete), RedRule()))
    share = label_iou(result.labels == 1, both)
    assert share > 0.9 if complete else share < 0.4


def test_parts_are_not_learned_from(monkeypatch):
    monkeypatch.setattr("stg_pyg.video.segmenter.is_trusted", lambda quality, agreement, config: agreement >= 0)
    net = RedRule()
    net.weight = torch.nn.Parameter(torch.zeros(1))
    video, seen = segmenter(PLAIN.replace("online.update_every", 8), net), []
    video.updates.see = lambda t, image, labels, ids: seen.append(ids)
    video.updates.learn = lambda t: False
    whole = bar((4, 24))
    video.step(picture(whole), masks=label_map(o1=whole))
    video.step(picture(whole))
    video.step(picture(bar((4, 14))))
    assert seen == [[1], []]
