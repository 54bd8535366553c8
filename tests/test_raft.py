import pickle

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import optical_flow
from torchvision.models.optical_flow import Raft_Large_Weights

from stg_pyg import raft
from stg_pyg.errors import InputError
from stg_pyg.flow import flow_between, resolve_flow
from stg_pyg.raft import RAFTFlow

BLOCK_FLOW = (3.0, -2.0)


def frames(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


class Recorder(nn.Module):
    """In place of the network: keeps its input and gives the same vector everywhere, worst guess first."""

    def forward(self, first, second, num_flow_updates):
        self.first, self.second, self.updates = first, second, num_flow_updates
        flow = torch.tensor(BLOCK_FLOW)[:, None, None].expand(len(first), 2, *first.shape[2:])
        return [flow * 0, flow]


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(raft, "_network", lambda name, weights: Recorder())
    return RAFTFlow


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return RAFTFlow("raft_small", "none", num_updates=2)


@pytest.mark.parametrize(
    ("size", "padded"),
    [((128, 136), (128, 136)), ((129, 200), (136, 200)), ((20, 300), (128, 304)), ((1, 1), (128, 128))],
)
def test_sides_are_padded_for_the_network(recorded, size, padded):
    current, previous = frames(2, *size)
    flow = recorded()
    found = flow(current, previous)
    assert found.dtype == np.float32 and found.shape == (*size, 2)
    np.testing.assert_array_equal(found, np.broadcast_to(np.float32(BLOCK_FLOW), (*size, 2)))
    assert flow.network.first.shape == (1, 3, *padded) and flow.network.updates == 12
    picture = flow.network.first[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(picture[: size[0], : size[1]], current / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(picture[-1, -1], current[-1, -1] / 127.5 - 1, atol=1e-6)


def test_frames_reach_the_network_as_by_its_own_transforms(recorded):
    current, previous = frames(2, 128, 136)
    flow = recorded()
    flow(current, previous)
    tensors = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in (current, previous)]
    expected = Raft_Large_Weights.DEFAULT.transforms()(*tensors)
    torch.testing.assert_close(flow.network.first, expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(flow.network.second, expected[1], atol=1e-6, rtol=0)


def test_reduced_flow_is_in_pixels_of_the_full_size(recorded):
    current, previous = frames(2, 75, 100)
    flow = recorded(max_size=50)  # 75 rows become 38
    found = flow(current, previous)
    expected = np.float32([BLOCK_FLOW[0] * 2, BLOCK_FLOW[1] * 75 / 38])
    np.testing.assert_allclose(found, np.broadcast_to(expected, (75, 100, 2)), rtol=1e-6)
    reduced = flow.network.first[0, :, :38, :50].permute(1, 2, 0).numpy()
    area = cv2.resize(current, (50, 38), interpolation=cv2.INTER_AREA) / 127.5 - 1
    assert np.abs(reduced - area).mean() < 0.15 < np.abs(area).mean()


def test_mirrored_views_are_taken(recorded):
    current, previous = frames(2, 20, 30)
    flow = recorded()
    flow(current[:, ::-1], previous[:, ::-1])
    np.testing.assert_allclose(flow.network.first[0, 0, 0, 0], current[0, -1, 0] / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("name", ["raft_large", "raft_small"])
def test_both_networks_run_without_weights(name):
    flow = RAFTFlow(name, "none", num_updates=1)
    found = flow(*frames(2, 40, 50))
    assert found.shape == (40, 50, 2) and np.isfinite(found).all()
    assert not flow.network.training and not any(p.requires_grad for p in flow.network.parameters())
    assert repr(flow) == f"RAFTFlow('{name}', max_size=None, num_updates=1)"


def test_flow_is_that_of_torchvision(small):
    current, previous = frames(2, 128, 136)
    tensors = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in (current, previous)]
    images = Raft_Large_Weights.DEFAULT.transforms()(*tensors)
    with torch.no_grad():
        expected = small.network(*images, num_flow_updates=2)[-1][0].permute(1, 2, 0).numpy()
    found = small(current, previous)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found - small(previous, current)).max() > 1e-2  # the order matters
    np.testing.assert_array_equal(flow_between(small, current, previous, 5, 4), found)


def test_pairs_equal_one_by_one(small):
    currents, previous = frames(2, 130, 140), frames(2, 130, 140, seed=1)
    both = small.pairs(currents, previous)
    assert both.shape == (2, 130, 140, 2)
    for i in range(2):
        np.testing.assert_allclose(both[i], small(currents[i], previous[i]), atol=1e-3)
    one = small.pairs(currents[0], previous)
    np.testing.assert_allclose(one[1], small(currents[0], previous[1]), atol=1e-3)


def test_weights_come_from_the_loader(monkeypatch):
    torch.manual_seed(1)
    state = optical_flow.raft_small(weights=None).state_dict()
    asked = []
    monkeypatch.setattr(raft, "load_torchvision", lambda *args: asked.append(args) or state)
    flow = resolve_flow("raft:small", weights="auto", max_size=100)
    assert isinstance(flow, RAFTFlow) and flow.max_size == 100 and asked == [("raft_small", "auto")]
    for key, value in flow.network.state_dict().items():
        torch.testing.assert_close(value, state[key])


def test_raft_by_name_is_the_large_one():
    assert repr(resolve_flow("raft", weights="none", max_size=None)).startswith("RAFTFlow('raft_large', max_size=None")


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


def test_raft_can_be_sent_to_another_process(small):
    pair = frames(2, 20, 30)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(small))(*pair), small(*pair))


def test_raft_rejects(recorded):
    frame = frames(1, 20, 30)[0]
    with pytest.raises(ValueError, match="raft_large or raft_small"):
        RAFTFlow("raft")
    with pytest.raises(ValueError, match="num_updates"):
        recorded(num_updates=0)
    with pytest.raises(ValueError, match="max_size"):
        recorded(max_size=0)
    for bad in (frame[..., 0], frame.astype(np.float32), frame[:0]):
        with pytest.raises(InputError, match="uint8"):
            recorded()(bad, frame)
    with pytest.raises(InputError, match="one size"):
        recorded()(frame, frame[:10])
    with pytest.raises(ValueError, match="do not make pairs"):
        recorded().pairs(frames(2, 20, 30), frames(3, 20, 30))
    with pytest.raises(ValueError, match="do not make pairs"):
        recorded().pairs(frames(0, 20, 30), frames(1, 20, 30))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_raft_on_the_gpu(small):
    pair = frames(2, 128, 136)
    torch.manual_seed(0)
    found = RAFTFlow("raft_small", "none", "cuda", num_updates=2)(*pair)
    np.testing.assert_allclose(found, small(*pair), atol=0.05)
