import numpy as np
import pytest
import torch
from torch import nn

from datasets import SyntheticVideos
from stg_pyg import InputError, Proposals, STGConfig, STGNet, VideoSegmenter
from stg_pyg.boxes import masks_to_boxes
from stg_pyg.crops import IMAGE_MEAN, IMAGE_STD
from stg_pyg.losses import stg_loss_batched
from stg_pyg.nn.encoders import KeyEncoder, ProposalEncoder, SmallBackbone
from stg_pyg.nn.segmentation import SegmentationOutput

HEIGHT, WIDTH = 48, 64
PLAIN = STGConfig(thr=0.5, use_temporal=False)


class RedRule(nn.Module):
    """A segmentation network that says object to all that is red."""

    def forward(self, images, q):
        images = images * images.new_tensor(IMAGE_STD)[:, None, None] + images.new_tensor(IMAGE_MEAN)[:, None, None]
        logits = 40 * (images[:, 0] - images[:, 1:].amax(dim=1) - 0.3)
        return SegmentationOutput(logits, (logits > 0).float().mean(dim=(1, 2)) * 4)


class Shift:
    """Flow of a scene that moves as a whole by some pixels a frame; it notes the frames it is given."""

    def __init__(self, x=0.0, y=0.0):
        self.step = (x, y)
        self.calls = []

    def __call__(self, current, previous):
        self.calls.append((current, previous))
        return np.broadcast_to(np.float32([-self.step[0], -self.step[1]]), (*current.shape[:2], 2)).copy()


def tiny(config=PLAIN, segmentation=None, seed=0):
    torch.manual_seed(seed)
    return STGNet(
        config.with_options(key_size=32),
        ProposalEncoder(SmallBackbone(4, 8), mode="crop", pool="mask", out_features=8, size=32),
        KeyEncoder(SmallBackbone(4, 8), 8, grid=8),
        segmentation,
    ).eval()


def segmenter(config=PLAIN, segmentation=None, flow=None):
    return VideoSegmenter(tiny(config, segmentation), flow or Shift(), crop_size=32)


def square(x, y, side=14):
    mask = torch.zeros(HEIGHT, WIDTH)
    mask[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)] = 1
    return mask


def picture(*masks):
    """A dim frame with noise and red objects, uint8 [H, W, 3]."""
    noise = np.random.default_rng(0).integers(40, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for mask in masks:
        noise[mask.numpy() > 0.5] = (230, 20, 20)
    return noise


def label_map(**masks):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name, mask in masks.items():
        labels[mask.numpy() > 0.5] = int(name[1:])
    return labels


def proposals(*masks):
    return Proposals.from_masks(torch.stack(masks))


def nothing():
    return Proposals.empty(HEIGHT, WIDTH)


def iou(a, b):
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


# What is given


def test_given_objects_are_the_result():
    first, second = square(4, 4), square(40, 20)
    result = segmenter().step(picture(first, second), masks=label_map(o3=first, o7=second))
    assert result.labels.dtype == torch.uint8 and result.labels.shape == (HEIGHT, WIDTH)
    assert np.array_equal(result.labels.numpy(), label_map(o3=first, o7=second))
    assert result.obj_ids == [3, 7]
    assert torch.equal(result.masks, torch.stack([first, second]))
    assert result.output is None and result.frame is None


@pytest.mark.parametrize("masks", [None, np.zeros((HEIGHT, WIDTH), np.uint8)])
def test_first_frame_without_objects(masks):
    video = segmenter()
    with pytest.raises(InputError, match="first frame needs a mask"):
        video.step(picture(), masks=masks)
    result = video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
    assert result.obj_ids == [1] and video.frame_idx == 0


@pytest.mark.parametrize("shape", [(WIDTH, HEIGHT), (HEIGHT, WIDTH + 1), (HEIGHT, WIDTH, 3), (1, HEIGHT, WIDTH)])
def test_mask_of_another_size(shape):
    with pytest.raises(InputError, match=rf"mask is {' x '.join(map(str, shape))} and the image {HEIGHT} x {WIDTH}"):
        segmenter().step(picture(), masks=np.ones(shape, np.uint8))


@pytest.mark.parametrize("obj_id", [-1, 256, 70000])
def test_object_ids_outside_of_a_byte(obj_id):
    masks = np.zeros((HEIGHT, WIDTH), np.int64)
    masks[4:9, 4:9] = obj_id
    with pytest.raises(InputError, match="1 to 255"):
        segmenter().step(picture(), masks=masks)


@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m,
        torch.from_numpy,
        lambda m: m.astype(np.int32),
        lambda m: m.astype(np.int64),
        lambda m: torch.from_numpy(m).long(),
    ],
)
def test_types_of_masks(convert):
    labels = label_map(o255=square(4, 4), o1=square(30, 20))
    result = segmenter().step(picture(), masks=convert(labels))
    assert np.array_equal(result.labels.numpy(), labels) and result.obj_ids == [1, 255]


def test_bool_mask_is_object_1():
    result = segmenter().step(picture(), masks=square(4, 4).numpy() > 0.5)
    assert result.obj_ids == [1] and torch.equal(result.labels, square(4, 4).byte())


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((HEIGHT, WIDTH, 3), np.float32),
        np.zeros((HEIGHT, WIDTH), np.uint8),
        np.zeros((3, HEIGHT, WIDTH), np.uint8),
        np.zeros((HEIGHT, WIDTH, 4), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.uint16),
        torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8),
        torch.zeros(HEIGHT, WIDTH, 3),
        torch.zeros(HEIGHT, WIDTH),
        torch.zeros(1, 3, HEIGHT, WIDTH),
    ],
)
def test_images_of_other_types(image):
    with pytest.raises(InputError, match="image"):
        segmenter().step(image, masks=label_map(o1=square(4, 4)))


@pytest.mark.parametrize("tensor", [False, True])
def test_frames_that_change_size(tensor):
    video = segmenter()
    video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
    other = torch.zeros(3, HEIGHT, WIDTH + 2) if tensor else np.zeros((HEIGHT, WIDTH + 2, 3), np.uint8)
    with pytest.raises(InputError, match=f"the frame is {WIDTH + 2} x {HEIGHT}"):
        video.step(other, nothing())
    result = video.step(picture(square(4, 4)), nothing())
    assert video.frame_idx == 1 and torch.equal(result.labels, square(4, 4).byte())


def test_numpy_and_torch_frames_give_the_same():
    results = []
    for convert in (lambda x: x, lambda x: torch.from_numpy(x).permute(2, 0, 1).float() / 255):
        video = VideoSegmenter(tiny(STGConfig.small().with_options(thr=0.5), RedRule()), crop_size=32)
        video.step(convert(picture(square(4, 4))), masks=label_map(o1=square(4, 4)))
        results.append([video.step(convert(picture(square(4 + 3 * t, 4))), None) for t in (1, 2)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.masks, b.masks)
        assert a.labels.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_tensor_frames_of_any_precision(dtype):
    video = segmenter()
    image = (torch.from_numpy(picture(square(4, 4))).permute(2, 0, 1) / 255).to(dtype)
    video.step(image, masks=label_map(o1=square(4, 4)))
    assert torch.equal(video.step(image, nothing()).labels, square(4, 4).byte())


@pytest.mark.parametrize("turned", ["image", "masks"])
def test_arrays_that_were_turned_around(turned):
    image, labels = picture(square(4, 4)), label_map(o1=square(4, 4))
    if turned == "image":
        image = np.ascontiguousarray(image[..., ::-1])[..., ::-1]
    else:
        labels = np.ascontiguousarray(labels[:, ::-1])[:, ::-1]
    assert torch.equal(segmenter().step(image, masks=labels).labels, square(4, 4).byte())


def test_callers_may_use_the_array_of_a_frame_again():
    flow = Shift()
    video = segmenter(flow=flow)
    buffer = picture(square(4, 4))
    video.step(buffer, masks=label_map(o1=square(4, 4)))
    buffer[:] = picture(square(20, 20))
    video.step(buffer, nothing())
    current, previous = flow.calls[0]
    assert np.array_equal(current, picture(square(20, 20)))
    assert np.array_equal(previous, picture(square(4, 4)))


def test_what_the_caller_gave_is_not_changed():
    image, labels = picture(square(4, 4)), label_map(o2=square(4, 4))
    found = proposals(square(6, 4), square(40, 30))
    before = image.copy(), labels.copy(), found.masks.clone()
    video = segmenter()
    video.step(image, masks=labels)
    video.step(image, found)
    assert np.array_equal(image, before[0]) and np.array_equal(labels, before[1])
    assert torch.equal(found.masks, before[2])


# Objects over time


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
    video = segmenter(PLAIN.with_options(gaps=(1, 2)), RedRule())
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
    video = segmenter(PLAIN.with_options(gaps=(1, 3)), RedRule(), flow)
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
        video = segmenter(PLAIN.with_options(use_motion=use_motion), flow=Shift(3, 0))
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
    video = segmenter(PLAIN.with_options(memory_frames=4))
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
    video = segmenter(PLAIN.with_options(gaps=(1, 2)), RedRule())
    video.step(picture(square(10, 10)), masks=label_map(o1=square(10, 10)))
    counts = [int(video.step(picture()).labels.sum()) for _ in range(3)]
    assert counts == [0, 0, 0]
    result = video.step(picture(square(12, 11)))
    assert iou(result.labels == 1, square(12, 11) > 0.5) > 0.8


def test_lost_object_is_found_elsewhere_with_redetection_alone():
    found = {}
    for redetect in (True, False):
        video = segmenter(PLAIN.with_options(redetect=redetect), RedRule())
        video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
        labels = [video.step(picture(square(44, 30))).labels for _ in range(6)]
        found[redetect] = iou(labels[-1] == 1, square(44, 30) > 0.5)
    assert found[True] > 0.6 and found[False] == 0


def test_redetection_leaves_proposals_from_outside_alone():
    video = segmenter(PLAIN.with_options(redetect=True), RedRule())
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
    video = segmenter(PLAIN.with_options(use_temporal=True))
    video.step(picture(), masks=label_map(**masks))
    result = video.step(picture(), proposals(*masks.values()))
    assert result.obj_ids == sorted(int(name[1:]) for name in masks)
    assert [len(part) for part in result.frame.proposals] == [1] * 24


# Proposals from outside


def test_proposals_are_assigned_to_the_object_they_overlap():
    first, second = square(4, 4), square(40, 26)
    video = segmenter()
    video.step(picture(), masks=label_map(o3=first, o7=second))
    parts = [square(42, 26), square(6, 4), square(40, 4, 10), square(4, 6), square(41, 27)]
    result = video.step(picture(), proposals(*parts))
    of_first, of_second = result.frame.proposals
    assert torch.equal(of_first.masks, torch.stack([parts[1], parts[3]]))
    assert torch.equal(of_second.masks, torch.stack([parts[0], parts[4]]))
    assert result.output.batch.tolist() == [0, 0, 1, 1]


def test_proposals_of_one_object_may_all_be_rejected():
    video = segmenter()
    video.step(picture(), masks=label_map(o3=square(4, 4)))
    result = video.step(picture(), proposals(square(40, 26), square(30, 30)))
    assert [len(part) for part in result.frame.proposals] == [0]
    assert torch.equal(result.labels, 3 * square(4, 4).byte())


def test_boxes_that_hardly_overlap_can_be_rejected():
    counts = []
    for least in (0.0, 0.5):
        video = segmenter(PLAIN.with_options(min_box_iou=least))
        video.step(picture(), masks=label_map(o3=square(4, 4)))
        result = video.step(picture(), proposals(square(14, 14), square(5, 4)))
        counts.append(len(result.frame.proposals[0]))
    assert counts == [2, 1]


def test_masks_that_hardly_overlap_can_be_rejected():
    video = segmenter(PLAIN.with_options(min_mask_iou=0.5))
    video.step(picture(), masks=label_map(o3=square(4, 4)))
    frame_of_box = square(4, 4) - square(5, 5, 12)
    result = video.step(picture(), proposals(frame_of_box, square(5, 4)))
    assert torch.equal(result.frame.proposals[0].masks, square(5, 4)[None])


def test_no_proposals_in_any_frame():
    video = segmenter(PLAIN.with_options(use_temporal=True, temporal_update="gated"))
    video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
    for _ in range(6):
        result = video.step(picture(square(4, 4)), nothing())
        assert result.output.nodes.shape[0] == 0 and result.output.selected.tolist() == [-1]
    assert iou(result.labels == 1, square(4, 4) > 0.5) > 0.6


def test_neither_proposals_nor_a_network_that_makes_them():
    video = segmenter()
    video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
    with pytest.raises(InputError, match="no proposals were given"):
        video.step(picture(square(4, 4)))


def test_video_goes_on_after_a_refused_frame():
    video = segmenter()
    video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
    with pytest.raises(InputError):
        video.step(picture(square(4, 4)))
    assert video.frame_idx == 0
    assert torch.equal(video.step(picture(square(4, 4)), nothing()).labels, square(4, 4).byte())


def test_proposals_of_another_size():
    video = segmenter()
    video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
    with pytest.raises(InputError, match="proposals"):
        video.step(picture(square(4, 4)), Proposals.from_masks(torch.ones(1, HEIGHT + 2, WIDTH)))


@pytest.mark.parametrize("gaps", [(), (2,), (2, 4), (1, 0)])
def test_gaps_without_a_q_are_refused(gaps):
    with pytest.raises(InputError, match="gaps"):
        PLAIN.with_options(gaps=gaps)


# The whole


@pytest.fixture(scope="module")
def synthetic():
    return SyntheticVideos("val", num_videos=3, num_frames=40, height=HEIGHT, width=WIDTH, max_objects=3)


def run(video, model, frames):
    stream = VideoSegmenter(model, crop_size=32)
    with torch.no_grad():
        results = [stream.step(video.image(0), masks=video.labels(0))]
        results += [stream.step(video.image(t)) for t in range(1, frames)]
    return results


def test_same_seed_same_result(synthetic):
    digests = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results = run(synthetic[0], STGNet.small(width=8).eval(), 4)
        digests.append([(r.labels.numpy().tobytes(), r.masks.numpy().tobytes()) for r in results])
    assert digests[0] == digests[1] and digests[0] != digests[2]


def test_videos_on_one_model_do_not_influence_each_other(synthetic):
    model = STGNet.small(width=8).eval()
    alone = [run(video, model, 3) for video in synthetic[:2]]
    streams = [VideoSegmenter(model, crop_size=32) for _ in range(2)]
    with torch.no_grad():
        for t in range(3):
            for stream, video, expected in zip(streams, synthetic[:2], alone, strict=True):
                result = stream.step(video.image(t), masks=video.labels(0) if t == 0 else None)
                assert torch.equal(result.labels, expected[t].labels)
                assert torch.equal(result.masks, expected[t].masks)


def test_history_is_bounded():
    config = STGConfig.small().with_options(memory_frames=4, gaps=(1, 3), redetect=True)
    video = segmenter(config, RedRule(), Shift(1, 0))
    video.step(picture(square(2, 8)), masks=label_map(o1=square(2, 8)))
    storage = []
    with torch.no_grad():
        for t in range(1, 41):
            video.step(picture(square(2 + t, 8)))
            (state,) = video.objects
            assert len(state.bank) <= 4 and state.bank.frames[0] == 0
            assert len(state.masks) <= 4 and len(video._images) <= 3
            assert max(len(state.boxes), len(state.whole_boxes)) <= config.motion_steps + 1
            storage.append(state.bank.read()[1].untyped_storage().nbytes())
    assert len(state.boxes) == config.motion_steps + 1 and len(state.bank) == 4
    assert state.bank.frames[1:] and max(state.bank.frames) >= 35
    assert len(set(storage[6:])) == 1
    assert len(state.areas) <= 50


def test_memory_keeps_everything_as_printed():
    video = segmenter(PLAIN)
    video.step(picture(), masks=label_map(o1=square(4, 4)))
    for _ in range(6):
        video.step(picture(), nothing())
    assert video.objects[0].bank.frames == list(range(7))


def test_small_network_runs_through_whole_videos(synthetic):
    torch.manual_seed(0)
    model = STGNet.small(width=8).eval()
    for video in synthetic[:2]:
        results = run(video, model, 6)
        ids = [i for i in video.object_ids if (video.labels(0) == i).any()]
        for result in results:
            assert result.obj_ids == ids and set(result.labels.unique().tolist()) <= {0, *ids}
            assert bool(result.masks.isfinite().all())
            assert float(result.masks.min()) >= 0 and float(result.masks.max()) <= 1


def test_history_carries_no_gradients():
    config = STGConfig.small().with_options(memory_frames=None)
    video = segmenter(config, RedRule())
    video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
    for t in range(1, 4):
        result = video.step(picture(square(4 + t, 4)))
        assert result.masks.requires_grad
    (state,) = video.objects
    tensors = [state.anchor, state.first_mask, state.last_mask, *state.boxes, *state.masks.values()]
    tensors += list(state.bank.read()[:2])
    assert not any(tensor.requires_grad for tensor in tensors)
    assert not result.frame.q.requires_grad and not result.frame.anchors.requires_grad
    assert all(parameter.grad is None for parameter in video.model.parameters())


@pytest.mark.parametrize("update", ["paper", "gated"])
def test_gradients_of_a_clip_survive_the_history(update):
    config = STGConfig(node_gate=True, temporal_update=update, memory_frames=3, normalize_keys=True)
    video = segmenter(config, RedRule(), Shift(1, 0))
    video.model.train()
    with torch.no_grad():
        video.step(picture(square(4, 8)), masks=label_map(o1=square(4, 8)))
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
    grads = [p.grad for p in video.model.key_encoder.parameters()]
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
    assert sum(float(grad.abs().sum()) for grad in grads) > 0


def test_video_of_one_frame():
    video = segmenter()
    result = video.step(picture(square(4, 4)), masks=label_map(o1=square(4, 4)))
    assert torch.equal(result.labels, square(4, 4).byte())
    assert video.frame_idx == 0 and len(video.objects) == 1
    torch.testing.assert_close(video.objects[0].boxes[0], masks_to_boxes(square(4, 4)[None])[0])


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (20, 24)])
def test_small_and_odd_frames(size):
    rng = np.random.default_rng(0)
    labels = np.zeros(size, np.uint8)
    labels[6:14, 5:15] = 1
    video = VideoSegmenter(STGNet.small(width=8).eval(), crop_size=32)
    with torch.no_grad():
        for t in range(3):
            image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
            result = video.step(image, masks=labels if t == 0 else None)
            assert result.labels.shape == size and bool(result.masks.isfinite().all())


def foreign(*masks, feats=None):
    return Proposals.from_masks(torch.stack(masks), feats=feats)


def test_own_proposals_join_foreign_ones_with_features():
    config = PLAIN.with_options(own_evidence=True)
    stream, mask = segmenter(config, RedRule()), square(10, 10)
    stream.step(picture(mask), masks=mask.numpy().astype(np.uint8))
    result = stream.step(picture(mask), foreign(mask, square(12, 10), feats=torch.ones(2, 5)))
    origins = result.frame.proposals[0].origin
    assert origins[:2] == ["", ""] and "q1" in origins[2:]


def test_a_box_without_a_mask_is_segmented_and_a_mask_kept():
    stream, mask = segmenter(PLAIN, RedRule()), square(10, 10)
    stream.step(picture(mask), masks=mask.numpy().astype(np.uint8))
    given = Proposals(
        torch.tensor([[8.0, 8, 26, 26], [8.0, 8, 26, 26]]),
        torch.stack([torch.zeros(HEIGHT, WIDTH), square(9, 9, 16)]),
        torch.ones(2),
        has_mask=torch.tensor([False, True]),
    )
    masks = stream.step(picture(mask), given).frame.proposals[0].masks
    assert iou(masks[0] > 0.5, mask > 0.5) > 0.9 and torch.equal(masks[1], square(9, 9, 16))


def test_all_boxes_are_segmented_again_on_demand():
    stream, mask = segmenter(PLAIN.with_options(resegment=True), RedRule()), square(10, 10)
    stream.step(picture(mask), masks=mask.numpy().astype(np.uint8))
    masks = stream.step(picture(mask), foreign(square(8, 8, 18))).frame.proposals[0].masks
    assert iou(masks[0] > 0.5, mask > 0.5) > 0.9


def test_given_features_are_x_and_the_likest_proposal_is_the_anchor():
    stream, mask = segmenter(PLAIN.with_options(features="given")), square(10, 10)
    far = square(40, 30)
    feats = torch.tensor([[1.0, 0], [0, 1.0]])
    stream.step(picture(mask), foreign(far, mask, feats=feats), mask.numpy().astype(np.uint8))
    result = stream.step(picture(mask), foreign(mask, square(12, 10), feats=feats))
    assert torch.equal(result.output.graphs.feat, feats)
    assert result.output.graphs.anchor.tolist() == [0, 1]


def test_given_features_must_be_given():
    stream, mask = segmenter(PLAIN.with_options(features="given")), square(10, 10)
    stream.step(picture(mask), masks=mask.numpy().astype(np.uint8))
    with pytest.raises(InputError, match="no features"):
        stream.step(picture(mask), foreign(mask))


def test_disjoint_proposals_do_not_vote_on_each_other():
    config = PLAIN.with_options(edge_iou="mask", alpha=0.5, num_steps=1)
    whole, parts = square(10, 10), [square(10, 10), square(30, 10), square(10, 30)]
    for pruned, equal in ((0.0, False), (0.2, True)):
        stream = segmenter(config.with_options(min_edge_iou=pruned))
        stream.step(picture(whole), masks=whole.numpy().astype(np.uint8))
        proposals = foreign(*[torch.maximum(part, 0 * part) for part in parts])
        nodes = stream.step(
            picture(whole), Proposals(torch.tensor([[10.0, 10, 24, 24]]).repeat(3, 1), proposals.masks, torch.ones(3))
        ).output.nodes
        assert torch.equal(nodes, torch.stack(parts)) == equal


def test_a_lost_object_is_found_among_foreign_proposals():
    stream, first = segmenter(PLAIN.with_options(redetect=True)), square(5, 5)
    labels = first.numpy().astype(np.uint8)
    stream.step(picture(first), masks=labels)
    gone = picture()
    background = square(30, 28, 12)
    stream.step(gone, foreign(background))
    back = square(44, 30)
    result = stream.step(picture(back), foreign(background, back))
    assert iou(result.labels == 1, back > 0.5) > 0.9


def test_a_proposal_that_is_unlike_q_passes_if_it_looks_like_the_object():
    config = PLAIN.with_options(min_mask_iou=0.6)
    jumped, dull = square(18, 12), square(18, 12)
    for scene, expected in ((picture(jumped), 1), (picture(), 0)):
        stream, first = segmenter(config), square(10, 10)
        stream.step(picture(first), masks=first.numpy().astype(np.uint8))
        result = stream.step(scene, foreign(dull))
        assert len(result.frame.proposals[0]) == expected
