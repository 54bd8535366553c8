import numpy as np
import pytest
import torch
from stream_cases import (
    HEIGHT,
    PLAIN,
    WIDTH,
    RedRule,
    Shift,
    label_map,
    nothing,
    picture,
    segmenter,
    square,
)

from datasets import SyntheticVideos
from stg_pyg import STGConfig, STGNet, VideoSegmenter
from stg_pyg.model.losses import stg_loss_batched
from stg_pyg.ops.boxes import masks_to_boxes


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
    config = STGConfig.small().replace({"memory.frames": 4, "warping.gaps": (1, 3), "recovery.redetect": True})
    video = segmenter(config, RedRule(), Shift(1, 0))
    video.step(picture(square(2, 8)), masks=label_map(o1=square(2, 8)))
    storage = []
    with torch.no_grad():
        for t in range(1, 41):
            video.step(picture(square(2 + t, 8)))
            (state,) = video.objects
            assert len(state.bank) <= 4 and state.bank.frames[0] == 0
            assert len(state.masks) <= 4 and len(video._images) <= 3
            assert max(len(state.boxes), len(state.whole_boxes)) <= config.motion.steps + 1
            storage.append(state.bank.read()[1].untyped_storage().nbytes())
    assert len(state.boxes) == config.motion.steps + 1 and len(state.bank) == 4
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
    config = STGConfig.small().replace("memory.frames", None)
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
    config = STGConfig().replace(
        {"spatial.node_gate": True, "temporal.update": update, "memory.frames": 3, "temporal.normalize_keys": True}
    )
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
