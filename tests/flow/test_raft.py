import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import optical_flow
from torchvision.models.optical_flow import Raft_Large_Weights

from stg_pyg.errors import InputError
from stg_pyg.flow.raft import RAFTFlow

BLOCK_FLOW = (3.0, -2.0)


def frames(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def transformed(*pictures):
    tensors = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in pictures]
    return Raft_Large_Weights.DEFAULT.transforms()(*tensors)


class Recorder(nn.Module):
    """In place of the network: keeps its input and gives the same vector everywhere, worst guess first."""

    def forward(self, first, second, num_flow_updates):
        self.first, self.second, self.updates = first, second, num_flow_updates
        flow = torch.tensor(BLOCK_FLOW)[:, None, None].expand(len(first), 2, *first.shape[2:])
        return [flow * 0, flow]


def recorded(**options):
    flow = RAFTFlow("raft_small", "none", **options)
    flow.network = Recorder()
    return flow


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return RAFTFlow("raft_small", "none", num_updates=2)


@pytest.mark.parametrize(
    ("size", "padded"),
    [((128, 136), (128, 136)), ((129, 200), (136, 200)), ((20, 300), (128, 304)), ((1, 1), (128, 128))],
)
def test_the_network_gets_what_its_own_transforms_make_padded(size, padded):
    current, previous = frames(2, *size)
    flow = recorded()
    np.testing.assert_array_equal(flow(current, previous), np.broadcast_to(np.float32(BLOCK_FLOW), (*size, 2)))
    assert flow.network.updates == 12
    given = flow.network.first, flow.network.second
    for picture, expected, frame in zip(given, transformed(current, previous), (current, previous), strict=True):
        assert picture.shape == (1, 3, *padded)
        torch.testing.assert_close(picture[..., : size[0], : size[1]], expected, atol=1e-6, rtol=0)
        np.testing.assert_allclose(picture[0, :, -1, -1], frame[-1, -1] / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("size", [(9, 1), (1, 9), (8, 7)])
def test_mirrored_views_are_what_their_copies_are(size):
    current, previous = frames(2, *size)
    flow, copied = recorded(), recorded()
    flow(current[::-1, ::-1], previous[::-1, ::-1])
    copied(current[::-1, ::-1].copy(), previous[::-1, ::-1].copy())
    assert torch.equal(flow.network.first, copied.network.first)
    assert torch.equal(flow.network.second, copied.network.second)


def test_random_weights_are_the_same_in_every_process_and_draw_nothing():
    first = RAFTFlow("raft_small", "none").network.state_dict()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    second = RAFTFlow("raft_small", "none").network.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_reduced_flow_is_in_pixels_of_the_full_size():
    current, previous = frames(2, 75, 100)
    flow = recorded(max_size=50)  # 75 rows become 38
    expected = np.float32([BLOCK_FLOW[0] * 2, BLOCK_FLOW[1] * 75 / 38])
    np.testing.assert_allclose(flow(current, previous), np.broadcast_to(expected, (75, 100, 2)), rtol=1e-6)
    reduced = flow.network.first[0, :, :38, :50].permute(1, 2, 0).numpy()
    area = cv2.resize(current, (50, 38), interpolation=cv2.INTER_AREA) / 127.5 - 1
    assert np.abs(reduced - area).mean() < 0.15 < np.abs(area).mean()


@pytest.mark.parametrize("name", ["raft_large", "raft_small"])
def test_flow_is_that_of_torchvision(name):
    flow, (current, previous) = RAFTFlow(name, "none", num_updates=1), frames(2, 128, 136)
    with torch.no_grad():
        expected = flow.network(*transformed(current, previous), num_flow_updates=1)[-1][0].permute(1, 2, 0).numpy()
    found = flow(current, previous)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found - flow(previous, current)).max() > 1e-2  # the order matters
    assert not flow.network.training and not any(p.requires_grad for p in flow.network.parameters())


def test_pairs_equal_one_by_one(small):
    currents, previous = frames(2, 130, 140), frames(2, 130, 140, seed=1)
    both, one = small.pairs(currents, previous), small.pairs(currents[0], previous)
    assert both.shape == one.shape == (2, 130, 140, 2)
    for i in range(2):
        np.testing.assert_allclose(both[i], small(currents[i], previous[i]), atol=1e-3)
    np.testing.assert_allclose(one[1], small(currents[0], previous[1]), atol=1e-3)
    for a, b in ((2, 3), (0, 1)):
        with pytest.raises(ValueError, match="do not make pairs"):
            small.pairs(frames(a, 20, 30), frames(b, 20, 30))


def test_weights_from_a_file(tmp_path):
    state = optical_flow.raft_small(weights=None).state_dict()
    torch.save(state, tmp_path / "raft_small.pth")
    for path in (tmp_path, tmp_path / "raft_small.pth"):
        flow = RAFTFlow("raft_small", path)
        assert all(torch.equal(value, state[key]) for key, value in flow.network.state_dict().items())
    with pytest.raises(InputError, match=r"raft_small\.pth") as raised:
        RAFTFlow("raft_large", tmp_path / "raft_small.pth")
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="missing"):
        RAFTFlow("raft_small", tmp_path / "missing")


def test_wrong_arguments():
    with pytest.raises(ValueError, match="raft_large or raft_small"):
        RAFTFlow("raft")
    with pytest.raises(ValueError, match="num_updates"):
        RAFTFlow("raft_small", "none", num_updates=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_raft_on_the_gpu(small):
    pair = frames(2, 128, 136)
    torch.manual_seed(0)
    found = RAFTFlow("raft_small", "none", "cuda", num_updates=2)(*pair)
    np.testing.assert_allclose(found, small(*pair), atol=0.05)
