"""How large an object is taken to be when it is looked for again."""

import pytest
import torch
from stream_cases import PLAIN, RedRule, iou, label_map, picture, segmenter, square

from stg_pyg.video.objects import is_cut
from stg_pyg.video.recovery.completion import is_part


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((1, 1, 63, 47), False),
        ((20.0, 10, 30, 20), False),
        ((0, 10, 30, 20), True),
        ((20, 0, 30, 20), True),
        ((20, 10, 64, 20), True),
        ((20, 10, 30, 47.5), True),
        ((0, 0, 64, 48), True),
    ],
)
def test_boxes_at_the_border_are_cut(box, cut):
    assert is_cut(box, (48, 64)) is cut


def leave(video, start=20, frames=30):
    """Lets a square move out of the frame to the left, pixel by pixel, with the true mask given in every frame."""
    for t in range(frames):
        mask = square(start - t, 20)
        video.step(picture(mask), masks=label_map(o1=mask) if mask.any() else None)
    return video.objects[0]


def test_an_object_that_leaves_keeps_its_size():
    state = leave(segmenter(PLAIN, RedRule()))
    assert state.boxes[-1][2] - state.boxes[-1][0] < 14, "the last ones are cut by the border"
    assert state.usual_size().tolist() == [14, 14]


def test_an_object_that_is_always_cut_has_the_size_that_is_seen():
    state = leave(segmenter(PLAIN, RedRule()), start=0, frames=3)
    assert not state.whole_boxes and state.usual_size().tolist() == [13, 14]


def test_what_a_collapse_has_left_does_not_count():
    video = segmenter(PLAIN, RedRule())
    for t in range(14):
        mask = square(20, 20, side=14 if t < 3 else 4)
        video.step(picture(mask), masks=label_map(o1=mask))
        if t == 3:
            assert video.objects[0].usual_size().tolist() == [14, 14]
    assert video.objects[0].usual_size().tolist() == [4, 4], "but for one that lasts"


def test_the_usual_area_is_the_median_of_the_history():
    state = leave(segmenter(PLAIN, RedRule()), frames=1)
    state.areas.clear()
    state.areas.extend([10.0, 100.0, 900.0])
    usual, config = state.usual_area(), PLAIN.recovery
    assert usual == 100 and is_part(74, usual, config) and not is_part(76, usual, config)


def test_an_object_that_left_is_found_whole_when_it_comes_back():
    video = segmenter(PLAIN.replace("recovery.redetect", True), RedRule())
    leave(video, frames=36)
    for _ in range(4):  # searches pause
        back = square(40, 10)
        result = video.step(picture(back))
    assert iou(result.labels == 1, back > 0.5) > 0.8
    assert torch.equal(video.objects[0].usual_size(), torch.tensor([14.0, 14.0]))
