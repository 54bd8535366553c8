"""Objects of a stream: given, added, corrected, lost and found; what is remembered of them is bounded."""

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

from datasets import SyntheticVideos
from stg_pyg import Proposals, STGConfig, STGNet, VideoSegmenter
from stg_pyg.model.losses import stg_loss_batched
from stg_pyg.video.objects import is_cut

SMALL = STGConfig.small()


def started(mask, config=PLAIN, net=None, flow=None, obj_id=1):
    stream = segmenter(config, net, flow)
    stream.step(picture(mask), masks=label_map(**{f"o{obj_id}": mask}))
    return stream


def test_objects_come_later_and_ids_stay():
    first, second = square(4, 4), square(40, 20)
    video = started(first, PLAIN.replace("warping.gaps", (1, 2)), RedRule(), obj_id=5)
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
    video = started(square(4, 4, 20))
    for given in (label_map(o2=square(14, 4, 20)), None):
        result = video.step(picture(), nothing(), masks=given)
        assert int((result.labels == 2).sum()) == 400 and int((result.labels == 1).sum()) == 200


@pytest.mark.parametrize("corrected", [square(8, 8, 28), square(8, 8, 8), square(36, 24, 12)])
def test_corrections_overrule_the_result(corrected):
    video = started(square(8, 8, 20), obj_id=4)
    result = video.step(picture(), nothing(), masks=label_map(o4=corrected))
    assert result.obj_ids == [4] and torch.equal(result.masks[0], corrected)
    for labels in (result.labels, video.step(picture(), nothing()).labels):
        assert torch.equal(labels, 4 * corrected.byte())
    (state,) = video.objects
    y, x = corrected.nonzero().T
    box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
    torch.testing.assert_close(state.boxes[-1], box)
    if len(x) == 28**2:  # the windows have the same margin around their objects, so at the grid all masks are the same
        masks = state.bank.read()[0]
        torch.testing.assert_close(masks[0], masks[1], atol=0.1, rtol=0)


@pytest.mark.parametrize("motion", [True, False])
def test_moved_by_flow_and_looked_for_by_motion(motion):
    video = started(square(4, 4), PLAIN.replace("motion.enabled", motion), flow=Shift(3, 2), obj_id=9)
    for t in range(1, 5):
        result = video.step(picture(), nothing())
        assert torch.equal(result.labels, 9 * square(4 + 3 * t, 4 + 2 * t).byte())
        assert result.output.selected.tolist() == [-1]
    x, y = (16, 12) if motion else (13, 10)
    assert result.frame.p[0].tolist() == [x, y, x + 14, y + 14]


def test_flow_is_asked_for_the_frames_of_the_gaps():
    flow, frames = Shift(), [picture(square(4 + t, 4)) for t in range(5)]
    video = started(square(4, 4), PLAIN.replace("warping.gaps", (1, 3)), RedRule(), flow)
    for t in range(1, 5):
        flow.calls.clear()
        result = video.step(frames[t])
        expected = [frames[t - gap] for gap in (1, 3) if gap <= t]
        for (current, previous), wanted in zip(flow.calls, expected, strict=True):
            assert np.array_equal(current, frames[t]) and np.array_equal(previous, wanted)
        assert ("q3" in result.frame.proposals[0].origin) == (t >= 3)


def test_absent_object_freezes_its_history_and_comes_back():
    video = started(square(10, 10), PLAIN.replace("memory.frames", 4), obj_id=6)
    video.step(picture(), proposals(square(12, 10)))
    (state,) = video.objects
    boxes, areas, last = [box.clone() for box in state.boxes], list(state.areas), state.last_mask.clone()
    frames, memory = state.bank.frames, [x.clone() for x in state.bank.read()[:2]]
    for _ in range(5):
        gone = Proposals(state.boxes[-1][None], torch.zeros(1, HEIGHT, WIDTH), torch.ones(1))
        result = video.step(picture(), gone)
        assert result.obj_ids == [6] and not result.labels.any()
        assert all(torch.equal(a, b) for a, b in zip(state.boxes, boxes, strict=True))
        assert list(state.areas) == areas and torch.equal(state.last_mask, last)
        assert state.bank.frames == frames
        assert all(torch.equal(a, b) for a, b in zip(state.bank.read()[:2], memory, strict=True))
        assert set(state.masks) == {video.frame_idx} and not state.masks[video.frame_idx].any()
    assert not result.frame.q.any()
    result = video.step(picture(), proposals(square(14, 10)))
    assert torch.equal(result.labels, 6 * square(14, 10).byte())
    assert len(state.boxes) == len(boxes) + 1 and state.bank.frames == [*frames, 7]
    assert torch.equal(state.last_mask, square(14, 10)) and torch.equal(state.first_mask, square(10, 10))


@pytest.mark.parametrize(("redetect", "outside"), [(True, False), (False, False), (True, True)])
def test_lost_object_is_found_elsewhere_with_redetection_alone(redetect, outside):
    video = started(square(4, 4), PLAIN.replace("recovery.redetect", redetect), RedRule())
    for _ in range(6):
        labels = video.step(picture(square(44, 30)), nothing() if outside else None).labels
    found = iou(labels == 1, square(44, 30) > 0.5)
    assert found > 0.6 if redetect and not outside else found == 0
    assert not outside or torch.equal(labels, square(4, 4).byte()), "proposals from outside are left alone"


@pytest.mark.parametrize("config", [PLAIN, STGConfig(), SMALL], ids=["plain", "paper", "small"])
def test_odd_objects(config):
    everything, pixel = torch.ones(HEIGHT, WIDTH), square(20, 20, 1)
    for mask in (everything, pixel, square(-10, -10, 14), square(60, 44, 14)):
        for source in (nothing(), proposals(mask), None):
            video = started(mask, config, RedRule())
            for _ in range(2):
                result = video.step(picture(mask), source)
                assert result.labels.shape == (HEIGHT, WIDTH) and bool(result.masks.isfinite().all())
                assert set(result.labels.unique().tolist()) <= {0, 1}
            if config is PLAIN and source is not None and mask.any():
                assert torch.equal(result.labels, mask.byte())


def test_many_objects():
    masks = {f"o{10 * k + 1}": square(8 * (k % 8), 8 * (k // 8), 7) for k in range(24)}
    video = segmenter(PLAIN.replace("temporal.enabled", True))
    video.step(picture(), masks=label_map(**masks))
    result = video.step(picture(), proposals(*masks.values()))
    assert result.obj_ids == sorted(int(name[1:]) for name in masks)
    assert [len(part) for part in result.frame.proposals] == [1] * 24


@pytest.mark.parametrize("size", [(33, 47), (20, 24)])
def test_small_and_odd_frames(size):
    rng, labels = np.random.default_rng(0), np.zeros(size, np.uint8)
    labels[6:14, 5:15] = 1
    video = VideoSegmenter(STGNet.small(width=8).eval(), crop_size=32)
    with torch.no_grad():
        for t in range(3):
            image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
            result = video.step(image, masks=labels if t == 0 else None)
            assert result.labels.shape == size and bool(result.masks.isfinite().all())


# How large an object is taken to be when it is looked for again


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((1, 1, 63, 47), False),
        ((0, 10, 30, 20), True),
        ((20, 0, 30, 20), True),
        ((20, 10, 64, 20), True),
        ((20, 10, 30, 47.5), True),
    ],
)
def test_boxes_at_the_border_are_cut(box, cut):
    assert is_cut(box, (48, 64)) is cut


@pytest.mark.parametrize(("start", "frames", "size"), [(20, 36, [14, 14]), (0, 3, [13, 14])])
def test_an_object_that_leaves_keeps_its_size_and_is_found_when_it_comes_back(start, frames, size):
    """A square leaves to the left, pixel by pixel, with the true mask given; the other one was never whole."""
    video = segmenter(PLAIN.replace("recovery.redetect", True), RedRule())
    for t in range(frames):
        mask = square(start - t, 20)
        video.step(picture(mask), masks=label_map(o1=mask) if mask.any() else None)
    state = video.objects[0]
    assert state.boxes[-1][2] - state.boxes[-1][0] < 14, "the last ones are cut by the border"
    assert state.usual_size().tolist() == size
    if start:
        for _ in range(4):  # searches pause
            result = video.step(picture(square(40, 10)))
        assert iou(result.labels == 1, square(40, 10) > 0.5) > 0.8 and state.usual_size().tolist() == size


def test_what_a_collapse_has_left_does_not_count():
    video = segmenter(PLAIN, RedRule())
    for t in range(14):
        mask = square(20, 20, side=14 if t < 3 else 4)
        video.step(picture(mask), masks=label_map(o1=mask))
        if t == 3:
            assert video.objects[0].usual_size().tolist() == [14, 14]
    assert video.objects[0].usual_size().tolist() == [4, 4], "but for one that lasts"


# What is remembered


def test_videos_on_one_model_do_not_influence_each_other():
    model = STGNet.small(width=8).eval()
    videos = SyntheticVideos("val", num_videos=2, num_frames=3, height=HEIGHT, width=WIDTH, max_objects=3)

    def step(stream, video, t):
        return stream.step(video.image(t), masks=video.labels(0) if t == 0 else None)

    with torch.no_grad():
        streams = [VideoSegmenter(model, crop_size=32) for _ in range(4)]
        alone = [[step(stream, video, t) for t in range(3)] for stream, video in zip(streams[:2], videos, strict=True)]
        for t in range(3):
            for stream, video, expected in zip(streams[2:], videos, alone, strict=True):
                result = step(stream, video, t)
                assert torch.equal(result.labels, expected[t].labels) and torch.equal(result.masks, expected[t].masks)


def test_history_is_bounded():
    config = SMALL.replace({"memory.frames": 4, "warping.gaps": (1, 3), "recovery.redetect": True})
    video, storage = started(square(2, 8), config, RedRule(), Shift(1, 0)), []
    (state,) = video.objects
    with torch.no_grad():
        for t in range(1, 61):
            video.step(picture(square(2 + t % 40, 8)), masks=label_map(o1=square(2 + t % 40, 8)) if t > 5 else None)
            assert len(state.bank) <= 4 and state.bank.frames[0] == 0
            assert len(state.masks) <= 4 and len(video._images) <= 3
            storage.append(state.bank.read()[1].untyped_storage().nbytes())
    assert max(state.bank.frames) >= 55 and len(set(storage[6:])) == 1
    assert len(state.boxes) == config.motion.steps + 1 >= len(state.whole_boxes) and len(state.areas) == 50


def test_memory_keeps_everything_as_printed():
    video = started(square(4, 4))
    for _ in range(6):
        video.step(picture(), nothing())
    assert video.objects[0].bank.frames == list(range(7))


@pytest.mark.parametrize("update", ["paper", "gated"])
def test_gradients_of_a_clip_survive_the_history_which_carries_none(update):
    config = STGConfig().replace(
        {"spatial.node_gate": True, "temporal.update": update, "memory.frames": 3, "temporal.normalize_keys": True}
    )
    with torch.no_grad():
        video = started(square(4, 8), config, RedRule(), Shift(1, 0))
    video.model.train()
    total = torch.zeros(())
    for t in range(1, 7):
        target = square(4 + t, 8)[None]
        result = video.step(picture(square(4 + t, 8)), target=target)
        output, frame = result.output, result.frame
        loss = stg_loss_batched(output.nodes, output.masks, target, frame.p, frame.q, output.batch).total
        if t % 2:
            loss.backward()
        else:
            total = total + loss
    total.backward()
    (state,) = video.objects
    history = [state.anchor, state.last_mask, *state.boxes, *state.masks.values(), *state.bank.read()[:2], frame.q]
    assert result.masks.requires_grad and not any(tensor.requires_grad for tensor in history)
    grads = [p.grad for p in video.model.key_encoder.parameters()]
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
    assert sum(float(grad.abs().sum()) for grad in grads) > 0
