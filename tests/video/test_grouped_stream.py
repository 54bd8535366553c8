import numpy as np
import pytest
import torch

from datasets import SyntheticVideos
from stg_pyg import Proposals, STGConfig, STGNet, VideoSegmenter
from stg_pyg.flow.dis import DISFlow
from stg_pyg.proposals.rle import EncodedProposals
from stg_pyg.video.grouped import GroupedSegmenter

SIZE, FRAMES = (48, 80), 3


class CountedFlow(DISFlow):
    calls = 0

    def __call__(self, current, previous):
        self.calls += 1
        return super().__call__(current, previous)


@pytest.fixture(scope="module")
def video():
    videos = SyntheticVideos("test", num_videos=1, num_frames=FRAMES, height=SIZE[0], width=SIZE[1], seed=3)
    return videos[0]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = STGConfig.small().replace(
        {
            "warping.gaps": (1, 2),
            "memory.frames": 3,
            "recovery.redetect": False,
            "selection.thr": 0.3,
            "assignment.min_mask_iou": 0.0,
        }
    )
    return STGNet.small(config, width=8).eval()


def five_objects():
    labels = np.zeros(SIZE, np.uint8)
    for k, (x, y) in enumerate([(4, 4), (14, 6), (40, 8), (60, 24), (20, 28)]):
        labels[y : y + 14, x : x + 14] = 3 * k + 2
    return labels


def from_outside(t):
    masks = torch.zeros(7, *SIZE)
    for k, (x, y) in enumerate([(5, 4), (10, 6), (14, 6), (41, 8), (60, 25), (21, 28), (66, 2)]):
        masks[k, y : y + 14, x + t : x + t + 14] = 1
    return Proposals.from_masks(masks)


def run(stream, video, outside=None):
    results = []
    with torch.no_grad():
        for t in range(FRAMES):
            proposals = None if outside is None else outside(from_outside(t))
            results.append(stream.step(video.image(t), proposals, masks=five_objects() if t == 0 else None))
    return results


@pytest.mark.parametrize("outside", [None, lambda p: p, EncodedProposals.from_proposals])
def test_groups_give_the_result_of_all_at_once(model, video, outside):
    expected = run(VideoSegmenter(model, crop_size=32), video, outside)
    for max_objects in (1, 2, 3, 5):
        found = run(GroupedSegmenter(model, crop_size=32, max_objects=max_objects), video, outside)
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(one.masks, other.masks, atol=1e-4, rtol=1e-4)
            assert (one.labels != other.labels).float().mean() < 1e-3
            assert one.obj_ids == other.obj_ids == [2, 5, 8, 11, 14]
            assert max_objects < 5 or (torch.equal(one.masks, other.masks) and torch.equal(one.labels, other.labels))
    assert len(found[-1].output.nodes) == len(expected[-1].output.nodes) > 0, "one group is the plain segmenter"
    assert len(np.unique(expected[-1].labels)) > 2, "the case must not be empty"


def test_groups_hold_no_nodes_and_share_the_flow(model, video):
    flow, seen = CountedFlow("medium"), []
    stream = GroupedSegmenter(model, flow, 32, max_objects=2)
    hook = model.register_forward_pre_hook(lambda net, inputs: seen.append(len(inputs[0].obj_ids)))
    results = run(stream, video)
    hook.remove()
    assert seen == [2, 2, 1] * (FRAMES - 1)
    assert flow.calls == 1 + 2, "one a gap and frame"
    output = results[-1].output
    assert len(output.nodes) == len(output.batch) == 0 and output.graphs is None and results[-1].frame is None
    assert output.masks.shape[0] == output.keys.shape[0] == output.windows.shape[0] == 5
    assert output.selected.tolist() == [-1] * 5


def test_the_objects_come_back_after_a_failure(model, video):
    stream = GroupedSegmenter(model, crop_size=32, max_objects=2)
    with torch.no_grad():
        stream.step(video.image(0), masks=five_objects())
        hook = model.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stream.step(video.image(1))
        hook.remove()
    assert [state.obj_id for state in stream.objects] == [2, 5, 8, 11, 14]
    with pytest.raises(ValueError, match="max_objects"):
        GroupedSegmenter(model, max_objects=0)
