"""A stream that is stopped goes on as if it never was, whatever it remembers."""

import io
from collections import deque

import numpy as np
import pytest
import torch

from datasets import SyntheticVideos
from stg_pyg import InputError, STGConfig, STGNet, VideoSegmenter
from stg_pyg.video.grouped import GroupedSegmenter
from stg_pyg.video.snapshot import restore_stream, stream_state

FRAMES, STOP = 7, 4
VIDEO = SyntheticVideos("test", num_videos=1, num_frames=FRAMES, height=48, width=64, seed=7, max_objects=2)[0]
CONFIG = STGConfig.small().replace({"warping.gaps": (1, 3), "memory.frames": 4, "online.update_every": 0})
UPDATES = {
    "online.update_every": 2,
    "online.update_steps": 2,
    "online.trusted_quality": -1.0,
    "online.trusted_agreement": -1.0,
}
SCENE = {"scene.enabled": True, "scene.size": 64, "temporal.key_size": 64}


def make(changes=None, grouped=False):
    torch.manual_seed(0)
    config = CONFIG.replace(changes or {})
    model = STGNet.pretrained(config, weights="imagenet") if changes is SCENE else STGNet.small(config, width=8)
    model.crop_size = 64 if changes is SCENE else 32
    return GroupedSegmenter(model.eval(), max_objects=1) if grouped else VideoSegmenter(model.eval())


@torch.no_grad()
def run(stream, frames):
    """The results of some frames; an object joins in the third."""
    late = np.zeros((48, 64), np.uint8)
    late[30:40, 40:60] = 9
    given = {0: VIDEO.labels(0), 2: late}
    return [stream.step(VIDEO.image(t), masks=given.get(t)) for t in frames]


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("changes", "stop", "grouped"),
    [
        ({}, 0, False),
        *((changes, STOP, grouped) for changes in ({}, UPDATES, SCENE) for grouped in (False, True)),
        *(({"memory.dtype": dtype}, STOP, False) for dtype in ("float16", "bfloat16")),
    ],
)
def test_a_stream_goes_on_as_if_never_stopped(changes, stop, grouped):
    whole, first, second = (make(changes, grouped) for _ in range(3))
    expected = run(whole, range(FRAMES))
    run(first, range(stop))
    restore_stream(second, through_a_file(stream_state(first)))
    for one, other in zip(expected[stop:], run(second, range(stop, FRAMES)), strict=True):
        assert torch.equal(one.labels, other.labels) and torch.equal(one.masks, other.masks)
        assert one.obj_ids == other.obj_ids
    for state, other in zip(whole.objects, second.objects, strict=True):
        assert vars(state).keys() == vars(other).keys() and state.boxes.maxlen == other.boxes.maxlen
        assert state.areas == other.areas and state.search_from == other.search_from
        for tensor, again in zip(state.bank.read()[:2], other.bank.read()[:2], strict=True):
            assert torch.equal(tensor, again) and tensor.dtype == again.dtype
    if changes is UPDATES:
        learned, untouched = second.updates.net, second.model.segmentation
        assert any(not torch.equal(a, b) for a, b in zip(learned.parameters(), untouched.parameters(), strict=True))


def test_banks_of_an_earlier_version_come_back():
    first, second = make(), make()
    run(first, range(STOP))
    for state in first.objects:
        del state.bank.dtype
    restore_stream(second, through_a_file(stream_state(first)))
    for one, other in zip(*(run(stream, range(STOP, FRAMES)) for stream in (first, second)), strict=True):
        assert torch.equal(one.masks, other.masks)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3, 5),
        torch.tensor([[0.0, 0.5], [1.0, 2.0]]),
        torch.tensor(3.5),
        torch.zeros(0, 4),
        torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        torch.ones(2, 3, dtype=torch.bfloat16),
    ],
)
def test_tensors_of_all_kinds(value):
    first, second = make(), make()
    second.extra = None
    first.extra = {"x": (value, [np.arange(3), np.float64(0.25)], deque([True], maxlen=2))}
    restore_stream(second, through_a_file(stream_state(first)))
    tensor, (array, number), queue = second.extra["x"]
    assert torch.equal(tensor, value) and tensor.dtype == value.dtype and tensor.stride() == value.stride()
    assert array.tolist() == [0, 1, 2] and number == 0.25 and queue == deque([True]) and queue.maxlen == 2


def test_binary_masks_take_a_bit_a_pixel_and_views_only_their_part():
    stream, sizes = make(), []
    for stream.extra in (torch.zeros(400, 400), torch.rand(400, 400), torch.rand(1000, 100)[0]):
        file = io.BytesIO()
        torch.save(stream_state(stream), file)
        sizes.append(file.tell())
    assert sizes[0] < 25_000 < 600_000 < sizes[1] and sizes[2] < 10_000


def test_what_has_no_plain_form_is_a_bug_that_shows():
    stream = make()
    stream.extra = object()
    with pytest.raises(TypeError, match=r"extra.*object"):
        stream_state(stream)


def test_states_of_other_versions_and_kinds_are_refused():
    state = stream_state(make())
    more = {**state["segmenter"], "more": 1}
    for broken in ({}, {**state, "format": "x"}, {**state, "segmenter": more}, stream_state(make(UPDATES))):
        with pytest.raises(InputError, match="not of this version"):
            restore_stream(make(), broken)
    for other in (make(grouped=True), make(UPDATES)):
        with pytest.raises(InputError, match="begin the video anew"):
            restore_stream(other, state)
