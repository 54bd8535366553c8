import functools
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from datasets import SyntheticVideos
from stg_pyg.learning.steps import (
    AveragedWeights,
    LucidBatches,
    Part,
    batches,
    learning_rate,
    optimisation_step,
    segmentation_losses,
    segmentation_step,
)
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.backbones.segmentation import SegmentationOutput, SmallSegmentationNet

CONFIG = LucidConfig(size=32)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def videos():
    return list(SyntheticVideos("train", num_videos=3, num_frames=4, height=48, width=64))


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert all(torch.equal(i, j) for i, j in zip(x, y, strict=True))


def test_items_depend_on_step_and_seed_alone(videos):
    dataset = LucidBatches(videos, CONFIG, 2, (0, 5), seed=1)
    items = [dataset[k] for k in range(5)]
    assert_same([dataset[k] for k in reversed(range(5))][::-1], items)
    assert len({item[0].numpy().tobytes() for item in items}) == 5
    other = LucidBatches(videos, CONFIG, 2, (0, 5), seed=2)
    assert not torch.equal(other[0][0], items[0][0])


def test_a_resumed_run_goes_on_where_it_ended(videos):
    whole = [LucidBatches(videos, CONFIG, 2, (0, 6), seed=3)[k] for k in range(6)]
    resumed = LucidBatches(videos, CONFIG, 2, (4, 6), seed=3)
    assert len(resumed) == 2
    assert_same(list(batches(resumed, workers=0)), whole[4:])
    assert list(batches(LucidBatches(videos, CONFIG, 2, (6, 6), seed=3), workers=0)) == []
    assert len(LucidBatches(videos, CONFIG, 2, (7, 6), seed=3)) == 0


def test_workers_give_the_same_batches_in_order(videos):
    dataset = LucidBatches(videos, CONFIG, 2, (2, 7), seed=4)
    assert_same(list(batches(dataset, workers=1)), list(batches(dataset, workers=0)))


def test_step_reduces_the_loss_of_a_repeated_batch(videos):
    torch.manual_seed(0)
    net = SmallSegmentationNet(8)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
    batch = LucidBatches(videos, CONFIG, 4, (0, 1), seed=0)[0]
    before = [x.clone() for x in batch]
    losses = [segmentation_step(net, optimizer, batch, CPU, mixed_precision=False)["loss"] for _ in range(50)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.6 * losses[0]
    assert_same([batch], [before])


def test_step_scales_bytes_and_clips_gradients():
    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, images, q):
            self.images, self.q = images, q
            return SegmentationOutput(1e6 * self.weight * (2 * q - 1), self.weight * q.mean(dim=(1, 2)))

    net = Recorder()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    images = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    q = torch.zeros(1, 16, 16, dtype=torch.uint8)
    q[:, :8] = 255
    segmentation_step(net, optimizer, (images, q, q), CPU, mixed_precision=False)
    assert net.q.unique().tolist() == [0, 1]
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(net.images[0, :, 0, 0], expected)
    assert 0 < net.weight.item() < 100


class Grouped(nn.Module):
    """A segmentation network whose samples do not see each other."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 1, 1))
        self.quality = nn.Linear(8, 1)

    def forward(self, images, q):
        x = self.layers[:3](torch.cat([images, q[:, None]], dim=1))
        return SegmentationOutput(self.layers[3](x)[:, 0], self.quality(x.mean(dim=(2, 3)))[:, 0])


@pytest.mark.parametrize("slices", [(slice(0, 2), slice(2, 5)), tuple(slice(k, k + 1) for k in range(5))])
def test_a_batch_in_parts_is_the_batch(videos, slices):
    batch = LucidBatches(videos, CONFIG, 5, (0, 1), seed=0)[0]
    nets, losses = [Grouped(), Grouped()], []
    nets[1].load_state_dict(nets[0].state_dict())
    parts = [Part((part.stop - part.start) / 5, tuple(x[part] for x in batch)) for part in slices]
    for net, own in zip(nets, ([Part(1.0, batch)], parts), strict=True):
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        for _ in range(3):
            losses_of = functools.partial(segmentation_losses, net, device=CPU)
            losses.append(optimisation_step(net, optimizer, own, losses_of, max_norm=100.0)["loss"])
    assert losses[:3] == pytest.approx(losses[3:], rel=1e-5)
    assert losses[0] - losses[2] > 0.01
    for name, value in nets[0].state_dict().items():
        torch.testing.assert_close(value, nets[1].state_dict()[name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_scaled_loss_of_float16_gives_the_same_step(videos):
    batch = LucidBatches(videos, CONFIG, 2, (0, 1), seed=0)[0]
    nets = [Grouped(), Grouped()]
    nets[1].load_state_dict(nets[0].state_dict())
    scalers = [None, torch.amp.GradScaler("cpu", init_scale=1024.0)]
    for net, scaler in zip(nets, scalers, strict=True):
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        losses_of = functools.partial(segmentation_losses, net, device=CPU)
        optimisation_step(net, optimizer, [Part(1.0, batch)], losses_of, max_norm=0.1, scaler=scaler)
    for name, value in nets[0].state_dict().items():
        torch.testing.assert_close(value, nets[1].state_dict()[name], rtol=1e-5, atol=1e-7, msg=name)
    before = [p.clone() for p in nets[1].parameters()]
    losses_of = lambda samples: {"loss": segmentation_losses(nets[1], samples, CPU)["loss"] * float("inf")}  # noqa: E731
    optimisation_step(nets[1], optimizer, [Part(1.0, batch)], losses_of, max_norm=0.1, scaler=scalers[1])
    assert all(torch.equal(a, b) for a, b in zip(before, nets[1].parameters(), strict=True)), "an overflow is no step"
    assert scalers[1].get_scale() == 512.0


@pytest.mark.parametrize(("steps", "warmup"), [(500, 100), (60, 10)])
def test_learning_rate(steps, warmup):
    rates = [learning_rate(step, steps, 0.1, warmup) for step in range(steps)]
    rising, falling = rates[:warmup], rates[warmup:]
    assert 0 < rising[0] < 0.1 / warmup * 1.01
    assert all(a < b for a, b in pairwise(rising))
    assert rising[-1] == pytest.approx(0.1) and falling[0] == pytest.approx(0.1)
    assert all(a > b for a, b in pairwise(falling))
    assert 0 < falling[-1] < 0.01
    assert falling[len(falling) // 2] == pytest.approx(0.1 / 2, rel=0.05)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(2, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.linear(x))


def test_average_forgets_its_start_and_follows():
    net = Tiny()
    average = AveragedWeights(net, decay=0.9)
    assert not average.net.training and average.net is not net
    start = average.net.linear.weight.clone()
    with torch.no_grad():
        net.linear.weight.fill_(1.0)
        net.norm.running_mean.fill_(3.0)
        net.norm.num_batches_tracked.fill_(5)
    average.update(net)
    first = average.net.linear.weight.clone()
    assert bool(((first - 1).abs() <= (start - 1).abs()).all()) and not torch.equal(first, start)
    assert int(average.net.norm.num_batches_tracked) == 5
    for _ in range(100):
        average.update(net)
    torch.testing.assert_close(average.net.linear.weight, torch.ones(3, 2), atol=1e-3, rtol=0)
    torch.testing.assert_close(average.net.norm.running_mean, torch.full((3,), 3.0), atol=1e-2, rtol=0)


def test_views_of_an_object_follow_each_other(videos):
    config = LucidConfig(size=32, views=3)
    owners = LucidBatches(videos, config, 12, (0, 1), seed=0)[0][3].view(4, 3)
    assert (owners == owners[:, :1]).all() and len(owners[:, 0].unique()) > 1
    for (video, obj), image in zip((divmod(int(i), 256) for i in owners[:, 0]), range(4), strict=True):
        assert any((videos[video].labels(t) == obj).any() for t in range(videos[video].num_frames)), image
