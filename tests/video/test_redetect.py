import pytest
import torch
from proposer_cases import GREEN, HEIGHT, RED, WIDTH, box_mask, colour_rule, iou, proposer, scene

from stg_pyg.config import RecoveryConfig
from stg_pyg.proposals.appearance import ColourModel
from stg_pyg.video.recovery.redetect import find_again, has_collapsed

CONFIG = RecoveryConfig()
FIRST, MOVED, PATCH = (8, 10, 28, 30), (66, 38, 86, 58), (40, 4, 60, 20)
FRAME = scene((PATCH, GREEN), (FIRST, RED))
COLOURS = ColourModel(FRAME, box_mask(*FIRST))
LIKENESS = float(COLOURS.likeness(FRAME, box_mask(*FIRST)[None])[0])


def search(*reds, rule=None, taken=(0, 0, 0, 0), size=(20.0, 20.0)):
    image = scene((PATCH, GREEN), *((place, RED) for place in reds))
    return find_again(proposer(rule), image, torch.tensor(size), COLOURS, LIKENESS, box_mask(*taken), CONFIG)


@pytest.mark.parametrize(
    ("box", "median_area", "first_likeness", "collapsed"),
    [
        (FIRST, 400.0, LIKENESS, False),
        ((8, 10, 28, 28), 400.0, LIKENESS, False),
        ((0, 0, 0, 0), 400.0, LIKENESS, True),
        ((0, 0, 0, 0), 0.0, 0.0, True),  # empty, whatever the history
        ((10, 12, 12, 14), 400.0, LIKENESS, True),  # tiny
        ((10, 12, 11, 13), 1.0, LIKENESS, False),  # as small as ever
        ((42, 6, 58, 20), 400.0, LIKENESS, True),  # of other colours
        ((18, 10, 38, 30), 400.0, 0.5, False),  # one half background, as in the first frame
    ],
)
def test_collapse_is_relative_to_the_first_frame_and_the_usual_area(box, median_area, first_likeness, collapsed):
    mask = box_mask(*box)
    likeness = float(COLOURS.likeness(FRAME, mask[None])[0])
    assert has_collapsed(float(mask.sum()), median_area, likeness, first_likeness, CONFIG) is collapsed


@pytest.mark.parametrize("place", [MOVED, (0, 0, 20, 20), (76, 44, 96, 64), (40, 24, 60, 44)])
def test_displaced_object_is_found(place):
    found, again = search(place), search(place)
    assert found.masks.shape[1:] == (HEIGHT, WIDTH) and iou(found.masks[0], box_mask(*place)) > 0.8
    torch.testing.assert_close(found.boxes[0], torch.tensor(place, dtype=torch.float32), atol=3, rtol=0)
    assert torch.equal(found.masks, again.masks) and torch.equal(found.scores, again.scores)
    for size in ((6.0, 6.0), (300.0, 200.0)):
        odd = search(place, size=size)
        assert odd is None or iou(odd.masks[0], box_mask(*place)) > 0.5


def test_the_free_one_of_two_is_found():
    for reds in ((MOVED,), (FIRST, MOVED)):
        assert iou(search(*reds, taken=FIRST).masks[0], box_mask(*MOVED)) > 0.8


@pytest.mark.parametrize(
    ("reds", "options"),
    [
        ((), {}),
        ((MOVED,), {"rule": colour_rule(0, quality=-5.0)}),  # the network does not believe in it
        ((), {"rule": colour_rule(1)}),  # it believes in the patch, which has other colours
        ((MOVED,), {"taken": MOVED}),
    ],
    ids=["nothing", "doubtful", "other colours", "of another object"],
)
def test_refused(reds, options):
    assert search(*reds, **options) is None
