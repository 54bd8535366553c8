import copy

import numpy as np
import pytest
import torch

from datasets import SyntheticVideos
from stg_pyg.learning.keys import _draw, learn_keys_online, retrieval_loss
from stg_pyg.lucid.dreamer import Dreamer
from stg_pyg.nn.backbones.encoders import KeyEncoder, SmallBackbone
from stg_pyg.nn.temporal.memory_attention import MemoryAttention

OPTIONS = {"crop_size": 32, "margin": 0.25, "peak": 3e-3, "device": torch.device("cpu")}
ATTENTION = MemoryAttention(normalize_keys=True, temperature=0.07)


@pytest.fixture(scope="module")
def frame():
    video = SyntheticVideos("val", num_videos=1, num_frames=1, height=48, width=64)[0]
    return video.image(0), video.labels(0)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return KeyEncoder(SmallBackbone(8), out_channels=8, grid=8).eval()


def loss_on(encoder, frame):
    """Mean loss on pairs that online learning did not see."""

    dreamer, losses = Dreamer(*frame), []
    for number in range(12):
        pair = _draw(np.random.default_rng([9, number]), dreamer, 32, 0.25, torch.device("cpu"))
        with torch.no_grad():
            losses.append(float(retrieval_loss(encoder.eval(), ATTENTION, *pair)))
    return np.mean(losses)


def test_keys_learn_to_retrieve_the_mask(encoder, frame):
    before = copy.deepcopy(encoder.state_dict())
    adapted = learn_keys_online(encoder, ATTENTION, *frame, steps=30, **OPTIONS)
    assert loss_on(adapted, frame) < 0.95 * loss_on(encoder, frame)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert not adapted.training


def test_the_same_seed_gives_the_same_keys(encoder, frame):
    one, two, other = (
        learn_keys_online(encoder, ATTENTION, *frame, steps=2, seed=seed, **OPTIONS).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("steps", "seconds", "seen"), [(0, None, 1), (5, 0.0, 1), (3, None, 0)])
def test_no_steps_no_time_and_an_empty_mask_change_nothing(encoder, frame, steps, seconds, seen):
    image, labels = frame
    adapted = learn_keys_online(encoder, ATTENTION, image, seen * labels, steps=steps, seconds=seconds, **OPTIONS)
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in adapted.state_dict().items())


def test_perfect_keys_have_no_loss():
    """One-hot keys of every cell of equal masks retrieve exactly these."""
    masks = torch.zeros(2, 16, 16)
    masks[:, :8] = 1
    hot = torch.eye(64).view(64, 8, 8)[None].expand(2, -1, -1, -1)
    assert float(retrieval_loss(lambda crops: hot, ATTENTION, torch.zeros(2, 3, 16, 16), masks)) < 1e-3
    turned = masks.clone()
    turned[1] = 1 - turned[1]
    assert float(retrieval_loss(lambda crops: hot, ATTENTION, torch.zeros(2, 3, 16, 16), turned)) > 5
