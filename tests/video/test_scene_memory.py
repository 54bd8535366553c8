"""The memory of whole frames in a stream: who is who, where an object is, and that a stream goes on with it."""

import numpy as np
import pytest
import torch

from stg_pyg import Proposals, STGConfig, STGNet, VideoSegmenter

SIZE = (64, 96)
CHANGES = {
    "temporal.key_size": 64,
    "warping.gaps": (1, 2),
    "memory.cell": 1,
    "online.update_every": 0,
    "scene.enabled": True,
    "scene.size": 96,
}


def make_model(**changes):
    torch.manual_seed(0)
    config = STGConfig.small().replace(CHANGES | {name.replace("__", "."): value for name, value in changes.items()})
    model = STGNet.pretrained(config, weights="imagenet").eval()
    model.crop_size = 64
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def picture(t=0, swapped=False):
    """A bright and a dark textured square that move, on grey; ids 3 and 7."""
    rng = np.random.default_rng(0)
    image, labels = np.full((*SIZE, 3), 110, np.uint8), np.zeros(SIZE, np.uint8)
    bright, dark = rng.integers(180, 255, (28, 28, 3)), rng.integers(0, 70, (28, 28, 3))
    for obj_id, x, look in ((3, 8, bright), (7, 60, dark)):
        x = (68 - x if swapped else x) + t
        image[18:46, x : x + 28], labels[18:46, x : x + 28] = look, obj_id
    return image, labels


def run(stream, frames, start=0):
    with torch.no_grad():
        return [stream.step(picture(t)[0], masks=picture(0)[1] if t == 0 else None) for t in range(start, frames)]


def test_the_memory_knows_who_is_who_where_objects_have_changed_places(model):
    stream = VideoSegmenter(model)
    run(stream, 1)
    image, labels = picture(0, swapped=True)
    tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    found = model.scene_attention(model.scene_keys(tensor), *stream.scene.read(1))
    cells = torch.nn.functional.interpolate(found[None], SIZE, mode="bilinear")[0].argmax(dim=0)
    for number, obj_id in enumerate((3, 7), start=1):
        inside = torch.from_numpy(labels == obj_id)
        assert float((cells[inside] == number).float().mean()) > 0.6


def test_what_it_sees_is_a_proposal_of_each_object(model):
    stream = VideoSegmenter(model)
    result = run(stream, 2)[-1]
    assert all(part.origin.count("scene") == 1 for part in result.frame.proposals)
    without = VideoSegmenter(make_model(scene__propose=False))
    assert all("scene" not in part.origin for part in run(without, 2)[-1].frame.proposals)


def test_its_weight_counts_in_the_result(model):
    frame = run(VideoSegmenter(model), 2)[-1].frame
    with torch.no_grad():
        heard, alone = model(frame).masks, make_model(scene__weight=0.0)(frame).masks
    sure = torch.nn.functional.interpolate(frame.scene[None, 1:], SIZE, mode="bilinear")[0] < 0.02
    assert float((heard - alone)[sure].max()) <= 0.01 and float((heard - alone).abs().max()) > 0.1


def test_an_object_that_comes_later_joins(model):
    stream = VideoSegmenter(model)
    image, labels = picture(0)
    with torch.no_grad():
        stream.step(image, masks=np.where(labels == 3, labels, 0))
        stream.step(picture(1)[0], masks=np.where(picture(1)[1] == 7, 7, 0).astype(np.uint8))
        result = stream.step(picture(2)[0])
    assert result.frame.scene.shape[0] == 3 and result.obj_ids == [3, 7]


def test_a_failed_step_leaves_it_as_it_was(model):
    stream, other = VideoSegmenter(model), VideoSegmenter(model)
    run(stream, 2), run(other, 2)
    with torch.no_grad(), pytest.raises(ValueError):
        stream.step(picture(2)[0], proposals=Proposals.from_masks(torch.full((1, *SIZE), torch.nan)))
    one, two = run(stream, 3, start=2)[0], run(other, 3, start=2)[0]
    assert torch.equal(one.masks, two.masks)
