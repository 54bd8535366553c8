import numpy as np
import pytest
import torch
from stream_cases import (
    HEIGHT,
    PLAIN,
    WIDTH,
    RedRule,
    Shift,
    iou,
    label_map,
    nothing,
    picture,
    proposals,
    segmenter,
    square,
)

from stg_pyg import Proposals, STGConfig


def test_ids_of_the_user_are_kept():
    first, second = square(4, 4), square(40, 20)
    video = segmenter()
    video.step(picture(), masks=label_map(o7=first, o3=second))
    for _ in range(3):
        result = video.step(picture(), nothing())
        assert result.obj_ids == [3, 7]
        assert np.array_equal(result.labels.numpy(), label_map(o7=first, o3=second))
        assert torch.equal(result.masks, torch.stack([second, first]))


def test_objects_may_come_later():
    first, second = square(4, 4), square(40, 20)
    video = segmenter(PLAIN.replace("warping.gaps", (1, 2)), RedRule())
    video.step(picture(first), masks=label_map(o5=first))
    video.step(picture(first), nothing())
    result = video.step(picture(first, second), nothing(), masks=label_map(o2=second))
    assert result.obj_ids == [5, 2]
    assert np.array_equal(result.labels.numpy(), label_map(o5=first, o2=second))
    assert torch.equal(result.masks, torch.stack([first, second]))
    assert result.output.masks.shape[0] == 1
    assert [state.bank.frames[0] for state in video.objects] == [0, 2]
    for found in (nothing(), None):
        result = video.step(picture(first, second), found)
        assert result.obj_ids == [5, 2] and result.output.masks.shape[0] == 2
        assert iou(result.labels == 5, first > 0.5) > 0.9 and iou(result.labels == 2, second > 0.5) > 0.9


def test_object_given_over_another_takes_its_pixels():
    video = segmenter()
    video.step(picture(), masks=label_map(o1=square(4, 4, 20)))
    result = video.step(picture(), nothing(), masks=label_map(o2=square(14, 4, 20)))
    assert int((result.labels == 2).sum()) == 400 and int((result.labels == 1).sum()) == 200
    result = video.step(picture(), nothing())
    assert int((result.labels == 2).sum()) == 400 and int((result.labels == 1).sum()) == 200


def test_corrections_overrule_the_result():
    video = segmenter()
    video.step(picture(), masks=label_map(o4=square(10, 10, 10)))
    larger = square(8, 8, 20)
    result = video.step(picture(), nothing(), masks=label_map(o4=larger))
    assert result.obj_ids == [4]
    assert torch.equal(result.labels, 4 * larger.byte()) and torch.equal(result.masks[0], larger)
    assert torch.equal(video.step(picture(), nothing()).labels, 4 * larger.byte())
    torch.testing.assert_close(video.objects[0].boxes[-1], torch.tensor([8.0, 8, 28, 28]))


@pytest.mark.parametrize("corrected", [square(8, 8, 8), square(36, 24, 12)], ids=["smaller", "elsewhere"])
def test_corrections_take_pixels_away(corrected):
    video = segmenter()
    video.step(picture(), masks=label_map(o4=square(8, 8, 20)))
    result = video.step(picture(), nothing(), masks=label_map(o4=corrected))
    assert torch.equal(result.labels, 4 * corrected.byte())
    assert torch.equal(video.step(picture(), nothing()).labels, 4 * corrected.byte())


def test_corrections_are_written_to_the_memory():
    video = segmenter()
    video.step(picture(), masks=label_map(o4=square(10, 10, 20)))
    video.step(picture(), nothing(), masks=label_map(o4=square(8, 8, 28)))
    (state,) = video.objects
    assert state.bank.frames == [0, 1]
    masks = state.bank.read()[0]
    # The windows have the same margin around their objects, so at the grid both masks are the same.
    torch.testing.assert_close(masks[0], masks[1], atol=0.1, rtol=0)


def test_moved_by_flow_alone():
    video = segmenter(flow=Shift(3, 2))
    video.step(picture(), masks=label_map(o9=square(4, 4)))
    for t in range(1, 5):
        result = video.step(picture(), nothing())
        assert torch.equal(result.labels, 9 * square(4 + 3 * t, 4 + 2 * t).byte())
        assert result.output.selected.tolist() == [-1]


def test_flow_is_asked_for_the_frames_of_the_gaps():
    flow = Shift()
    video = segmenter(PLAIN.replace("warping.gaps", (1, 3)), RedRule(), flow)
    frames = [picture(square(4 + t, 4)) for t in range(5)]
    video.step(frames[0], masks=label_map(o1=square(4, 4)))
    for t in range(1, 5):
        flow.calls.clear()
        result = video.step(frames[t])
        expected = [frames[t - gap] for gap in (1, 3) if gap <= t]
        assert len(flow.calls) == len(expected)
        for (current, previous), wanted in zip(flow.calls, expected, strict=True):
            assert np.array_equal(current, frames[t]) and np.array_equal(previous, wanted)
        assert ("q3" in result.frame.proposals[0].origin) == (t >= 3)


def test_motion_predicts_where_the_object_is_looked_for():
    boxes = {}
    for use_motion in (True, False):
        video = segmenter(PLAIN.replace("motion.enabled", use_motion), flow=Shift(3, 0))
        video.step(picture(), masks=label_map(o1=square(4, 10)))
        for _ in range(3):
            result = video.step(picture(), nothing())
        boxes[use_motion] = result.frame.p[0].tolist()
    assert boxes[True] == [13, 10, 27, 24]
    assert boxes[False] == [10, 10, 24, 24]


def absent_frames(video, count):
    """Frames in which the object is found nowhere."""
    for _ in range(count):
        box = video.objects[0].boxes[-1]
        gone = Proposals(box[None], torch.zeros(1, HEIGHT, WIDTH), torch.ones(1))
        yield video.step(picture(), gone)


def test_absent_object_freezes_its_history_and_comes_back():
    video = segmenter(PLAIN.replace("memory.frames", 4))
    video.step(picture(), masks=label_map(o6=square(10, 10)))
    video.step(picture(), proposals(square(12, 10)))
    (state,) = video.objects
    boxes, areas, last = [box.clone() for box in state.boxes], list(state.areas), state.last_mask.clone()
    frames, memory = state.bank.frames, [x.clone() for x in state.bank.read()[:2]]
    for result in absent_frames(video, 5):
        assert result.obj_ids == [6] and not result.labels.any()
        assert len(state.boxes) == len(boxes)
        assert all(torch.equal(a, b) for a, b in zip(state.boxes, boxes, strict=True))
        assert list(state.areas) == areas and torch.equal(state.last_mask, last)
        assert state.bank.frames == frames
        assert all(torch.equal(a, b) for a, b in zip(state.bank.read()[:2], memory, strict=True))
        assert set(state.masks) == {video.frame_idx} and not state.masks[video.frame_idx].any()
    assert not result.frame.q.any()
    result = video.step(picture(), proposals(square(14, 10)))
    assert torch.equal(result.labels, 6 * square(14, 10).byte())
    assert len(state.boxes) == len(boxes) + 1 and state.bank.frames == [*frames, 7]
    assert torch.equal(last, square(12, 10)) and torch.equal(state.last_mask, square(14, 10))
    assert torch.equal(state.first_mask, square(10, 10))


def test_object_that_left_by_flow_comes_back_by_its_looks():
    video = segmenter(PLAIN.replace("warping.gaps", (1, 2)), RedRule())
    video.step(picture(square(10, 10)), masks=label_map(o1=square(10, 10)))
    counts = [int(video.step(picture()).labels.sum()) for _ in range(3)]
    assert counts == [0, 0, 0]
    result = video.step(picture(square(12, 11)))
    assert iou(result.labels == 1, square(12, 11) > 0.5) > 0.8


def test_lost_object_is_found_elsewhere_with_redetection_alone():
    found = {}
    for redetect in (True, False):
        video = segmenter(PLAIN.replace("recovery.redetect", redetect), RedRule())
        video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
        labels = [video.step(picture(square(44, 30))).labels for _ in range(6)]
        found[redetect] = iou(labels[-1] == 1, square(44, 30) > 0.5)
    assert found[True] > 0.6 and found[False] == 0


def test_redetection_leaves_proposals_from_outside_alone():
    video = segmenter(PLAIN.replace("recovery.redetect", True), RedRule())
    video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
    for _ in range(3):
        result = video.step(picture(square(44, 30)), nothing())
        assert torch.equal(result.labels, square(4, 4).byte())


@pytest.mark.parametrize("config", [PLAIN, STGConfig(), STGConfig.small()], ids=["plain", "paper", "small"])
def test_odd_objects(config):
    everything, pixel = torch.ones(HEIGHT, WIDTH), square(20, 20, 1)
    for mask in (everything, pixel, square(-10, -10, 14), square(60, 44, 14)):
        for source in (nothing, lambda mask=mask: proposals(mask), lambda: None):
            video = segmenter(config, RedRule())
            video.step(picture(mask), masks=label_map(o1=mask))
            for _ in range(2):
                result = video.step(picture(mask), source())
                assert result.labels.shape == (HEIGHT, WIDTH) and bool(result.masks.isfinite().all())
                assert set(result.labels.unique().tolist()) <= {0, 1}


def test_one_pixel_and_everything_are_carried():
    for mask in (square(20, 20, 1), torch.ones(HEIGHT, WIDTH)):
        video = segmenter()
        video.step(picture(), masks=label_map(o1=mask))
        assert torch.equal(video.step(picture(), nothing()).labels, mask.byte())


def test_many_objects():
    masks = {f"o{10 * k + 1}": square(8 * (k % 8), 8 * (k // 8), 7) for k in range(24)}
    video = segmenter(PLAIN.replace("temporal.enabled", True))
    video.step(picture(), masks=label_map(**masks))
    result = video.step(picture(), proposals(*masks.values()))
    assert result.obj_ids == sorted(int(name[1:]) for name in masks)
    assert [len(part) for part in result.frame.proposals] == [1] * 24
