"""Flow computed in a thread is the flow, to the last bit, and goes when nobody asks for it."""

import copy
import gc
import threading
import weakref

import numpy as np
import pytest
import torch

from datasets import SyntheticVideos
from stg_pyg import InputError, STGConfig, STGNet, VideoSegmenter
from stg_pyg.flow.ahead import FlowAhead, flow_ahead, prepare_flow
from stg_pyg.flow.dis import DISFlow
from stg_pyg.flow.flo_files import FloFiles, SequenceFlow, write_flo
from stg_pyg.flow.interface import consistent_flow, flow_for_sequence
from stg_pyg.video.grouped import GroupedSegmenter

FRAMES, SIZE = 7, (48, 64)
VIDEO = SyntheticVideos("test", num_videos=1, num_frames=FRAMES, height=SIZE[0], width=SIZE[1], seed=7, max_objects=2)[
    0
]
IMAGES = [VIDEO.image(t) for t in range(FRAMES)]
PAIRS = [(t, t - gap) for t in range(1, FRAMES) for gap in (1, 2, 4) if gap <= t]


class Watched(DISFlow):
    """Counts the flows that are computed in the thread and out of it."""

    ahead = now = 0

    def __call__(self, current, previous):
        if threading.current_thread().name.startswith("flow-ahead"):
            Watched.ahead += 1
        else:
            Watched.now += 1
        return super().__call__(current, previous)


@pytest.fixture(autouse=True)
def counted():
    Watched.ahead = Watched.now = 0
    yield
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("flow-ahead"):
            thread.join(timeout=60)
            assert not thread.is_alive()


def model(**options):
    torch.manual_seed(0)
    config = STGConfig.small().replace({"warping.gaps": (1, 3), "memory.frames": 4, **options})
    return STGNet.small(config, width=8).eval()


@pytest.fixture
def stored(tmp_path):
    """Flow of one's own for all frames, and forward flow for all but the fifth."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for t in range(1, FRAMES):
        backward, forward = np.random.default_rng(t).normal(0, 2, (2, *SIZE, 2)).astype(np.float32)
        write_flo(folder / f"{t}.flo", backward)
        if t != 5:
            write_flo(folder / f"{t}.fw.flo", forward)
    return FloFiles(tmp_path).for_sequence("clip", [str(t) for t in range(FRAMES)])


def wait_for(flow):
    """Until the thread has computed all that it was told."""
    flow._pool.submit(lambda: None).result()


def told(flow, t, number=0):
    """The flow, when the thread knows frame t and the next one and has nothing left to do."""
    for told_frame in range(t, min(t + 2, FRAMES)):
        prepare_flow(flow, told_frame + number, IMAGES[told_frame])
    if isinstance(flow, FlowAhead):
        wait_for(flow)
    return flow


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("kind", ["dis", "stored"])
def test_prepared_flow_is_the_flow(request, kind, both_ways):
    """Stored flow that was prepared needs its files no more."""
    source = Watched() if kind == "dis" else request.getfixturevalue("stored")
    config = STGConfig().replace({"warping.gaps": (1, 2, 4), "warping.consistency": both_ways})
    plain = FlowAhead(DISFlow(), (1,)) if kind == "dis" else copy.deepcopy(source)
    ask = consistent_flow if both_ways else lambda flow, *arguments: [flow.between(*arguments)]
    with flow_ahead(source, config) as flow:
        told(flow, 0)
        for t, t_prev in PAIRS:
            arguments = IMAGES[t].copy(), IMAGES[t_prev].copy(), t, t_prev
            expected = ask(plain, *arguments)
            for one, other in zip(ask(told(flow, t), *arguments), expected, strict=True):
                np.testing.assert_array_equal(one, other)
    if kind == "dis":
        assert (Watched.ahead, Watched.now) == (len(PAIRS) * (1 + both_ways), 0)


def test_stored_flow_is_read_in_the_thread_and_errors_are_raised_where_it_is_asked_for(stored):
    (stored.folder / "2.flo").unlink()
    expected = stored.between(*IMAGES[:2], 3, 2)
    with flow_ahead(stored, STGConfig().replace({"warping.gaps": (1, 2)})) as flow:
        for t in range(4):
            told(flow, t)
        (stored.folder / "3.flo").unlink()
        np.testing.assert_array_equal(flow.between(IMAGES[3], IMAGES[2], 3, 2), expected)
        with pytest.raises(InputError, match=r"2\.flo"):
            flow.between(IMAGES[3], IMAGES[1], 3, 1)


@pytest.mark.parametrize("current, previous", [(5, 0), (1, 5)])
def test_other_frames_than_those_that_were_told_get_their_own_flow(current, previous):
    with flow_ahead(Watched(), STGConfig()) as flow:
        found = told(flow, 0).between(IMAGES[current], IMAGES[previous], 1, 0)
    np.testing.assert_array_equal(found, DISFlow()(IMAGES[current], IMAGES[previous]))
    assert (Watched.ahead, Watched.now) == (1, 1)


def test_a_flow_that_was_not_begun_is_computed_by_who_asks():
    go_on = threading.Event()
    with flow_ahead(Watched(), STGConfig()) as flow:
        flow._pool.submit(go_on.wait)
        flow.prepare(0, IMAGES[0])
        flow.prepare(1, IMAGES[1])
        try:
            np.testing.assert_array_equal(flow.between(IMAGES[1], IMAGES[0], 1, 0), DISFlow()(IMAGES[1], IMAGES[0]))
        finally:
            go_on.set()
    assert (Watched.ahead, Watched.now) == (0, 1)


def test_what_nobody_asks_for_is_dropped():
    flows, images = [], []

    class Noted(DISFlow):
        def __call__(self, current, previous):
            flow = np.zeros((*SIZE, 2), np.float32)
            flows.append(weakref.ref(flow))
            return flow

    with flow_ahead(Noted(), STGConfig().replace({"warping.gaps": (1, 3), "warping.consistency": True})) as flow:
        for t in range(30):
            image = np.full((*SIZE, 3), t, np.uint8)
            images.append(weakref.ref(image))
            flow.prepare(t, image)
            del image
            wait_for(flow)
        gc.collect()
        assert len(flows) == 2 * (29 + 27)
        assert sum(ref() is not None for ref in flows) == 2 * 2 * 2, "two frames, two gaps, two ways"
        assert sum(ref() is not None for ref in images) <= 1 + 1 + 3, "two frames and what their gaps reach"
    gc.collect()
    assert not any(ref() is not None for ref in (*flows, *images))


@torch.no_grad()
def results_of(stream, frames):
    """Labels and soft masks, with two objects at first and one more in the third frame."""
    late = np.zeros(SIZE, np.uint8)
    late[30:40, 40:60] = 9
    given, found = {0: VIDEO.labels(0), 2: late}, []
    for t in frames:
        told(stream.flow, t, stream.first_frame + stream.frame_idx + 1 - t)
        result = stream.step(IMAGES[t], masks=given.get(t))
        found += [torch.as_tensor(result.labels), result.masks]
    return found


@pytest.mark.parametrize(
    "config, options",
    [({"warping.gaps": (1, 2), "warping.consistency": True}, {}), ({}, {"first_frame": 3}), ({}, {"max_objects": 1})],
    ids=["several gaps", "offset", "groups"],
)
def test_a_video_is_the_same_to_the_last_bit(config, options):
    net, kind = model(**config), GroupedSegmenter if "max_objects" in options else VideoSegmenter
    expected = results_of(kind(net, DISFlow(), 32, **options), range(FRAMES))
    with flow_ahead(Watched(), net.config) as flow:
        found = results_of(kind(net, flow, 32, **options), range(FRAMES))
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert Watched.now == 0 and Watched.ahead >= FRAMES - 1


def test_sources_that_cannot_be_used_in_a_thread_are_left_alone():
    def network(current, previous):
        raise AssertionError("is not asked before its time")

    source = DISFlow()
    for given, wanted in ((network, True), (source, False)):
        with flow_ahead(given, STGConfig(), wanted=wanted) as flow:
            assert told(flow, 0) is given
    with flow_ahead(source, STGConfig().replace({"warping.gaps": (1, 5)})) as flow:
        assert isinstance(flow, FlowAhead) and flow.gaps == (1, 5) and not flow.both_ways
    for gaps in ((), (0,), (1, -1)):
        with pytest.raises(ValueError, match="gaps"):
            FlowAhead(source, gaps)


def test_what_the_source_can_it_can(stored):
    bound = flow_for_sequence(FlowAhead(FloFiles(stored.folder.parent), (1, 2), True), "clip", stored.frame_names)
    assert isinstance(bound, FlowAhead) and isinstance(bound.estimator, SequenceFlow)
    assert (bound.gaps, bound.both_ways) == ((1, 2), True)
    assert bound.has_flow(5, 4) and not bound.has_flow(4, 5) and FlowAhead(DISFlow(), (1,)).has_flow(4, 5)
