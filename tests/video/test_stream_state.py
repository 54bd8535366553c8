import io
from collections import deque

import numpy as np
import pytest
import torch
from stream_state_cases import FRAMES, STOP, run, through_a_file

from datasets import SyntheticVideos
from stg_pyg import InputError, STGConfig, STGNet, VideoSegmenter
from stg_pyg.video.grouped import GroupedSegmenter
from stg_pyg.video.snapshot import restore_stream, stream_state


@pytest.fixture(scope="module")
def video():
    return SyntheticVideos("test", num_videos=1, num_frames=FRAMES, height=48, width=64, seed=7, max_objects=2)[0]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return STGNet.small(STGConfig.small().replace({"warping.gaps": (1, 3), "memory.frames": 4}), width=8).eval()


def make(model, grouped=False):
    options = {"max_objects": 1} if grouped else {}
    return (GroupedSegmenter if grouped else VideoSegmenter)(model, crop_size=32, **options)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_stream_goes_on_as_if_never_stopped(model, video, grouped):
    expected = run(make(model, grouped), video, range(FRAMES))
    first, second = make(model, grouped), make(model, grouped)
    run(first, video, range(STOP))
    restore_stream(second, through_a_file(stream_state(first)))
    for (labels, masks, ids), found in zip(expected[STOP:], run(second, video, range(STOP, FRAMES)), strict=True):
        assert torch.equal(labels, found[0]) and torch.equal(masks, found[1]) and ids == found[2]
    assert second.objects[0].boxes.maxlen == first.objects[0].boxes.maxlen


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_memory_of_half_precision_goes_on(video, dtype):
    torch.manual_seed(0)
    config = STGConfig.small().replace({"warping.gaps": (1, 3), "memory.frames": 4, "memory.dtype": dtype})
    model = STGNet.small(config, width=8).eval()
    expected = run(make(model), video, range(FRAMES))
    first, second = make(model), make(model)
    run(first, video, range(STOP))
    restore_stream(second, through_a_file(stream_state(first)))
    for stream in (first, second):
        _, keys, _ = stream.objects[0].bank.read()
        assert keys.dtype == stream.objects[0].bank.dtype == getattr(torch, dtype)
    for (labels, masks, _), found in zip(expected[STOP:], run(second, video, range(STOP, FRAMES)), strict=True):
        assert torch.equal(labels, found[0]) and torch.equal(masks, found[1])


def test_banks_of_an_earlier_version_come_back(model, video):
    first, second = make(model), make(model)
    run(first, video, range(STOP))
    for state in first.objects:
        del state.bank.dtype
    restore_stream(second, through_a_file(stream_state(first)))
    expected = run(first, video, range(STOP, FRAMES))
    for (labels, masks, _), found in zip(expected, run(second, video, range(STOP, FRAMES)), strict=True):
        assert torch.equal(labels, found[0]) and torch.equal(masks, found[1])


def test_every_attribute_comes_back(model, video):
    first, second = make(model), make(model)
    run(first, video, range(STOP))
    restore_stream(second, through_a_file(stream_state(first)))
    assert (second.frame_idx, second.first_frame) == (STOP - 1, 0)
    for image, other in zip(first._images, second._images, strict=True):
        np.testing.assert_array_equal(image, other)
    for state, other in zip(first.objects, second.objects, strict=True):
        assert vars(state).keys() == vars(other).keys()
        assert state.areas == other.areas and state.search_from == other.search_from
        assert state.masks.keys() == other.masks.keys()
        for mask, again in zip(state.masks.values(), other.masks.values(), strict=True):
            assert torch.equal(mask, again) and mask.dtype == again.dtype
        assert state.bank.frames == other.bank.frames and state.bank.max_frames == other.bank.max_frames
        for tensor, again in zip(state.bank.read()[:2], other.bank.read()[:2], strict=True):
            assert torch.equal(tensor, again)
        assert torch.equal(state.colours.posterior_of_bin, other.colours.posterior_of_bin)


def test_a_stream_that_has_not_begun(model, video):
    stream = make(model)
    restore_stream(stream, through_a_file(stream_state(make(model))))
    assert stream.frame_idx == -1
    assert run(stream, video, range(2))[0][2] == run(make(model), video, range(2))[0][2]


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3, 5),
        torch.eye(4)[None],
        torch.tensor([[0.0, 0.5], [1.0, 2.0]]),
        torch.tensor(3.5),
        torch.zeros(0, 4),
        torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        torch.ones(2, 3, dtype=torch.float64),
        torch.ones(2, 3, dtype=torch.bfloat16),
        torch.rand(2, 3).half(),
    ],
)
def test_tensors_of_all_kinds(model, value):
    first, second = make(model), make(model)
    for stream in (first, second):
        stream.extra = None
    first.extra = {"x": (value, [np.arange(3), np.float64(0.25)], deque([True], maxlen=2))}
    restore_stream(second, through_a_file(stream_state(first)))
    tensor, (array, number), queue = second.extra["x"]
    assert torch.equal(tensor, value) and tensor.dtype == value.dtype and tensor.stride() == value.stride()
    assert array.tolist() == [0, 1, 2] and number == 0.25 and queue == deque([True]) and queue.maxlen == 2


def test_binary_masks_take_a_bit_a_pixel(model):
    stream = make(model)
    sizes = []
    for mask in (torch.zeros(400, 400), torch.rand(400, 400)):
        stream.extra = mask
        file = io.BytesIO()
        torch.save(stream_state(stream), file)
        sizes.append(file.tell())
    assert sizes[0] < 25_000 < 600_000 < sizes[1]


def test_views_do_not_take_all_of_what_they_are_views_of(model):
    stream = make(model)
    stream.extra = torch.rand(1000, 100)[0]
    file = io.BytesIO()
    torch.save(stream_state(stream), file)
    assert file.tell() < 10_000


def test_what_has_no_plain_form_is_a_bug_that_shows(model):
    stream = make(model)
    stream.extra = object()
    with pytest.raises(TypeError, match=r"extra.*object"):
        stream_state(stream)


def test_states_of_other_versions_are_refused(model):
    state = stream_state(make(model))
    for broken in ({}, {**state, "format": "x"}, {**state, "segmenter": {**state["segmenter"], "more": 1}}):
        with pytest.raises(InputError, match="not of this version"):
            restore_stream(make(model), broken)
    with pytest.raises(InputError, match="not of this version"):
        restore_stream(make(model, grouped=True), state)
