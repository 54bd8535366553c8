"""The memory as evidence that does not come from Q, and X in the search for a lost object."""

import numpy as np
import pytest
import torch

from stg_pyg import InputError, STGConfig, STGNet, VideoSegmenter
from stg_pyg.graph.memory import MemoryBank
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.ops.crops import crop_resize, crop_windows

SIZE = (64, 96)


def config(**changes):
    base = STGConfig.small().replace({"temporal.key_size": 64, "warping.gaps": (1, 2), "memory.cell": 1})
    return base.replace(
        {"online.update_every": 0, **{name.replace("__", "."): value for name, value in changes.items()}}
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = STGNet.pretrained(config(proposals__recall=True), weights="imagenet").eval()
    model.crop_size = 64
    return model


def picture():
    rng = np.random.default_rng(0)
    image = np.full((*SIZE, 3), 60, np.uint8)
    image[16:44, 20:52] = rng.integers(120, 255, (28, 32, 3))
    labels = np.zeros(SIZE, np.uint8)
    labels[16:44, 20:52] = 1
    return image, labels


def test_the_memory_of_a_frame_finds_its_mask_again(model):
    image, labels = picture()
    tensor, mask = torch.from_numpy(image).permute(2, 0, 1).float() / 255, torch.from_numpy(labels).float()
    window = crop_windows(masks_to_boxes(mask[None]), model.config.proposals.crop_margin)
    key = model.encode_keys(tensor, window)[0]
    value = crop_resize(mask[None, None], window, key.shape[-1])[0, 0]
    banks = [MemoryBank(), MemoryBank()]
    banks[0].write(0, key, value)
    banks[1].write(0, key, 1 - value)
    for t in (1, 2):
        banks[1].write(t, key, torch.zeros_like(value))
    found = model.recall(tensor, window.expand(2, 4), banks)
    assert found.shape == (2, *key.shape[1:])
    assert float(((found[0] > 0.5) == (value > 0.5)).float().mean()) > 0.85
    alone = model.recall(tensor, window, [one_frame(key, 1 - value)])[0]
    torch.testing.assert_close(found[1], alone / 3)


def one_frame(key, value):
    bank = MemoryBank()
    bank.write(0, key, value)
    return bank


@pytest.mark.parametrize("recall", [False, True])
def test_evidence_of_the_memory(model, recall):
    image, labels = picture()
    own = STGNet.pretrained(config(proposals__recall=recall)).eval()
    own.load_state_dict(model.state_dict())
    own.crop_size = 64
    stream = VideoSegmenter(own)
    stream.step(image, masks=labels)
    result = stream.step(np.roll(image, 2, axis=1))
    origin = result.frame.proposals[0].origin
    assert origin.count("memory") == recall and result.frame.proposals[0].feats is not None


def test_a_layer_that_does_not_say_what_it_retrieves(model):
    own = STGNet.pretrained(config(proposals__recall=True, temporal__conv="mean")).eval()
    image, labels = picture()
    stream = VideoSegmenter(own, crop_size=64)
    stream.step(image, masks=labels)
    with pytest.raises(InputError, match=r"proposals.recall: MeanMemory"):
        stream.step(image)


@pytest.mark.parametrize("compete", [False, True])
def test_competition_needs_several_objects(model, compete):
    image, labels = picture()
    both = labels.copy()
    both[50:62, 60:90] = 2
    own = STGNet.pretrained(config(proposals__compete=compete)).eval()
    own.load_state_dict(model.state_dict())
    scores = []
    for given in (labels, both):
        stream = VideoSegmenter(own, crop_size=64)
        stream.step(image, masks=given)
        first, last = stream.objects[0], stream.objects[-1]
        first.anchor, last.anchor = last.anchor, first.anchor
        scores.append(stream.step(image).frame.proposals[0].scores)
    assert torch.allclose(*scores, atol=1e-3) != compete
