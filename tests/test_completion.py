"""Finding the rest of an object of which a result is only a part."""

import pytest
import torch
from stream_cases import HEIGHT as STREAM_HEIGHT
from stream_cases import PLAIN, RedRule, label_map, nothing, picture, segmenter, square
from stream_cases import WIDTH as STREAM_WIDTH
from stream_cases import iou as label_iou
from test_redetect import (
    COLOURS,
    GREEN,
    HEIGHT,
    LIKENESS,
    RED,
    WIDTH,
    ColourRule,
    box_mask,
    iou,
    scene,
)

from stg_pyg.completion import find_rest, is_part
from stg_pyg.proposer import GuidedProposer

WHOLE = (8, 10, 38, 30)
PART = (8, 10, 16, 30)


def rest(image, part=PART, net=None, taken=None, size=(30.0, 20.0), area=600.0):
    proposer = GuidedProposer(net or ColourRule(), 32, 0.25)
    taken = torch.zeros(HEIGHT, WIDTH) if taken is None else taken
    return find_rest(proposer, image, box_mask(part), torch.tensor(size), area, COLOURS, LIKENESS, taken)


def painted(image, box, colour):
    return torch.where(box_mask(box) > 0.5, torch.tensor(colour)[:, None, None], image)


@pytest.mark.parametrize(
    ("area", "usual", "part"),
    [(0, 100, False), (74, 100, True), (76, 100, False), (200, 100, False)],
)
def test_parts_are_far_smaller_than_usual_but_not_empty(area, usual, part):
    assert is_part(area, usual) is part


def test_the_rest_is_found():
    found = rest(scene(red=WHOLE))
    assert found is not None and iou(found.masks[0], box_mask(WHOLE)) > 0.9
    torch.testing.assert_close(found.boxes[0], torch.tensor(WHOLE, dtype=torch.float32), atol=2, rtol=0)
    assert all(iou(mask, found.masks[0]) > 0.3 for mask in found.masks)
    assert len(found.scores) == len(found.masks) == len(found.boxes)


@pytest.mark.parametrize("part", [(30, 10, 38, 30), (8, 10, 38, 16), (18, 14, 28, 24)])
def test_the_part_may_be_anywhere_in_the_object(part):
    found = rest(scene(red=WHOLE), part)
    assert found is not None and iou(found.masks[0], box_mask(WHOLE)) > 0.9


def test_what_something_stands_in_front_of_is_one_object():
    visible = painted(scene(red=WHOLE), (16, 6, 24, 34), GREEN)
    found = rest(visible)
    assert found is not None
    assert iou(found.masks[0], box_mask(WHOLE) - box_mask((16, 10, 24, 30))) > 0.9


def test_where_no_more_is_seen_nothing_is_found():
    assert rest(scene(red=PART)) is None


def test_what_is_next_to_the_part_is_of_its_colours_or_not_of_the_object():
    image = painted(scene(red=PART), (16, 10, 38, 30), GREEN)
    assert rest(image) is None
    red_or_green = ColourRule()
    red_or_green.forward = lambda images, q: _more(images, q)
    assert rest(image, net=red_or_green) is None
    assert rest(painted(image, (16, 10, 38, 30), RED), net=red_or_green) is not None


def _more(images, q):
    """Says object to all that is red or green."""
    red, green = ColourRule(0)(images, q), ColourRule(1)(images, q)
    return red._replace(logits=torch.maximum(red.logits, green.logits))


def test_pixels_of_other_objects_are_not_the_rest():
    assert rest(scene(red=WHOLE), taken=box_mask((16, 10, 38, 30))) is None
    assert rest(scene(red=WHOLE), taken=box_mask((60, 40, 90, 60))) is not None


def test_what_the_network_does_not_believe_in_is_refused():
    assert rest(scene(red=WHOLE), net=ColourRule(quality=-5.0)) is None


def test_what_is_far_larger_than_the_object_is_refused():
    assert rest(scene(red=WHOLE), area=150.0) is None


def test_windows_around_a_part():
    proposer = GuidedProposer(ColourRule(), 16, 0.0)
    evidence = proposer.around(box_mask((40, 20, 50, 50)), torch.tensor([40.0, 30.0]))
    middle, left_end, right_end = (25.0, 20, 65, 50), (40.0, 20, 80, 50), (10.0, 20, 50, 50)
    expected = torch.tensor([middle, left_end, right_end] * 2)
    torch.testing.assert_close(evidence.windows, expected)
    assert set(evidence.origin) == {"around"} and len(evidence.origin) == 6
    assert evidence.q[:3].flatten(1).any(dim=1).all() and not evidence.q[3:].any()
    nearly_whole = proposer.around(box_mask((40, 20, 72, 50)), torch.tensor([40.0, 30.0]))
    assert len(nearly_whole.windows) == 2


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
    result, both = pass_behind(segmenter(PLAIN.with_options(complete=complete), RedRule()))
    share = label_iou(result.labels == 1, both)
    assert share > 0.9 if complete else share < 0.4


def test_proposals_from_outside_are_left_alone():
    video = segmenter(PLAIN.with_options(complete=True), RedRule())
    whole = bar((4, 44))
    video.step(picture(whole), masks=label_map(o1=whole))
    video.objects[0].masks[0] = bar((4, 12))  # what Q is made of
    result = video.step(picture(whole), nothing())
    assert torch.equal(result.labels > 0, bar((4, 12)) > 0.5)


def test_parts_are_not_learned_from(monkeypatch):
    monkeypatch.setattr("stg_pyg.stream.is_trusted", lambda quality, agreement: agreement >= 0)
    net = RedRule()
    net.weight = torch.nn.Parameter(torch.zeros(1))
    video = segmenter(PLAIN.with_options(update_every=8), net)
    assert video.updates is not None
    seen = []
    video.updates.see = lambda t, image, labels, ids: seen.append(ids)
    video.updates.learn = lambda t: False
    whole, part = square(10, 10), square(10, 10, side=10)
    video.step(picture(whole), masks=label_map(o1=whole))
    video.step(picture(whole))
    video.step(picture(part))
    assert seen == [[1], []]
