import copy

import numpy as np
import pytest
import torch

from datasets import SyntheticVideos
from stg_pyg import STGConfig, STGNet, VideoSegmenter
from stg_pyg.learning import steps as training
from stg_pyg.learning.updates import OnlineUpdates, agreement, expected_quality, is_trusted
from stg_pyg.proposals.base import Proposals
from stg_pyg.video.grouped import GroupedSegmenter

FRAMES = 7
CONFIG = STGConfig.small().replace(
    {"warping.gaps": (1, 3), "memory.frames": 4, "online.update_every": 2, "online.update_steps": 2}
)


@pytest.fixture(scope="module")
def video():
    return SyntheticVideos("test", num_videos=1, num_frames=FRAMES, height=48, width=64, seed=7, max_objects=2)[0]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return STGNet.small(CONFIG, width=8).eval()


@pytest.fixture
def trusting(monkeypatch, model):
    """Every result is trusted, also those of a network that knows nothing."""
    least = {"online.trusted_quality": -1.0, "online.trusted_agreement": -1.0}
    monkeypatch.setattr(model, "config", CONFIG.replace(least))


@torch.no_grad()
def run(stream, video, frames):
    results = [stream.step(video.image(t), masks=video.labels(0) if t == 0 else None) for t in frames]
    return [(result.labels, result.masks, result.obj_ids) for result in results]


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def make(model, grouped=False):
    options = {"max_objects": 1} if grouped else {}
    return (GroupedSegmenter if grouped else VideoSegmenter)(model, crop_size=32, **options)


def updates(model, **options):
    config = CONFIG.replace({f"online.{name}": value for name, value in options.items()})
    return OnlineUpdates(model.segmentation, config.online, crop_size=32)


def test_expected_quality_is_the_mean_of_the_best_three():
    masks = torch.zeros(5, 4, 4)
    some = Proposals.from_masks(masks, torch.tensor([0.1, 0.9, 0.2, 0.8, 0.7]))
    one = Proposals.from_masks(masks[:1], torch.tensor([0.4]))
    none = Proposals.from_masks(masks[:0], torch.zeros(0))
    torch.testing.assert_close(expected_quality([some, one, none], masks), torch.tensor([0.8, 0.4, 0.0]))


def test_agreement_is_the_iou_of_what_is_above_the_thresholds():
    masks, q = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    masks[0, :2], q[0, 1:3] = 0.4, 0.6
    torch.testing.assert_close(agreement(masks, q, 0.3), torch.tensor([1 / 3, 0.0]))
    assert agreement(masks, q, 0.5)[0] == 0


def test_a_video_learns_and_the_model_stays_as_it_is(model, video, trusting):
    before, first = weights(model.segmentation), make(model)
    run(first, video, range(FRAMES))
    assert not torch.equal(weights(first.updates.net), before)
    assert torch.equal(weights(model.segmentation), before)
    assert first.proposer.net is first.updates.net
    assert torch.equal(weights(make(model).updates.net), before)


def test_what_is_not_trusted_is_not_learnt(model, video, monkeypatch):
    monkeypatch.setattr(model, "config", CONFIG.replace("online.trusted_quality", 2.0))
    segmenter = make(model)
    results = run(segmenter, video, range(FRAMES))
    assert torch.equal(weights(segmenter.updates.net), weights(model.segmentation))
    fixed = copy.copy(model)
    fixed.config = CONFIG.replace("online.update_every", 0)
    plain = make(fixed)
    assert plain.updates is None
    for (labels, masks, ids), found in zip(results, run(plain, video, range(FRAMES)), strict=True):
        assert torch.equal(labels, found[0]) and torch.equal(masks, found[1]) and ids == found[2]


def test_grouped_objects_are_trusted_one_by_one(model, video):
    segmenter = make(model, grouped=True)
    seen = []
    segmenter.updates.see = lambda t, image, labels, ids: seen.append(ids)
    two = np.zeros((48, 64), np.uint8)
    two[5:20, 5:25], two[25:40, 30:60] = 3, 7
    with torch.no_grad():
        segmenter.step(video.image(0), masks=two)
        result = segmenter.step(video.image(1))
    good = is_trusted(result.quality, result.agreement, CONFIG.online)
    assert result.quality.shape == result.agreement.shape == (2,)
    assert seen == [[i for i, yes in zip([3, 7], good.tolist(), strict=True) if yes]]


def test_only_frames_that_are_new_lead_to_an_update(model, video):
    learner = updates(model, update_every=4)
    image, labels = video.image(0), video.labels(0)
    learner.give(0, image, labels, [1, 2])
    assert not learner.learn(0) and not learner.learn(4)
    learner.see(6, image, labels, [1, 2])
    assert not learner.learn(6)
    assert learner.learn(8)
    assert not learner.learn(12)  # nothing since


def test_only_trusted_objects_are_learnt(model, video):
    learner = updates(model)
    labels = np.zeros((48, 64), np.uint8)
    labels[5:20, 5:25], labels[25:40, 30:60] = 3, 7
    learner.see(2, video.image(0), labels, [7])
    learner.see(4, video.image(0), labels, [])
    learner.see(5, video.image(0), labels, [3, 7])  # not a frame that is kept
    ((number, _, known),) = learner.state()["late"]
    assert number == 2
    np.testing.assert_array_equal(known, np.where(labels == 7, 7, 0))


def test_the_frames_that_are_kept_are_few_and_the_first_stays(model, video):
    learner = updates(model)
    labels = np.full((48, 64), 1, np.uint8)
    for t in range(0, 40, 2):
        learner.give(t, video.image(0), labels, [1])
        learner.see(t, video.image(0), labels, [1])
    state = learner.state()
    assert [frame[0] for frame in state["given"]] == [0, 34, 36, 38]
    assert [frame[0] for frame in state["late"]] == [32, 34, 36, 38]


def test_updates_are_the_same_again_and_learn_what_they_see(model, video):
    results = []
    for _ in range(2):
        learner = updates(model, update_every=1, update_steps=12, update_rate=2e-3)
        image, labels = video.image(0), video.labels(0)
        learner.give(0, image, labels, [1, 2])
        learner.see(2, image, labels, [1, 2])
        before = loss_on(learner)
        learner.learn(2)
        results.append((before, loss_on(learner), weights(learner.net)))
    assert torch.equal(results[0][2], results[1][2])
    assert results[0][1] < 0.9 * results[0][0]
    assert not learner.net.training


def loss_on(learner):
    batch = learner._draw(np.random.default_rng(5))
    with torch.no_grad():
        return float(training.segmentation_losses(learner.net, batch, torch.device("cpu"))["loss"])
