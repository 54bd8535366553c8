"""Sources of flow: those that look at images, their names, RAFT's network, and the form of stored flow."""

import pickle
import struct

import cv2
import numpy as np
import pytest
import torch
from flow_cases import interior, shifted, texture
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import optical_flow
from torchvision.models.optical_flow import Raft_Large_Weights

from stg_pyg.errors import InputError
from stg_pyg.flow.dis import DISFlow
from stg_pyg.flow.flo_files import read_flo, write_flo
from stg_pyg.flow.interface import consistent_flow, flow_between, flow_for_sequence
from stg_pyg.flow.raft import RAFTFlow
from stg_pyg.flow.sources import resolve_flow

BLOCK_FLOW = (3.0, -2.0)


def raft(**options):
    return RAFTFlow("raft_small", "none", num_updates=1, **options)


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


def frames(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


# The contract of sources that look at images


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("DISFlow(preset='fast', max_size=60)", lambda **options: DISFlow("fast", **options)),
        ("RAFTFlow('raft_small', max_size=60, num_updates=1)", raft),
    ],
)
def test_any_source_takes_frames_of_any_size_and_can_be_sent_to_another_process(name, make):
    flow = make(max_size=60)
    copy = pickle.loads(pickle.dumps(flow))
    assert repr(copy) == repr(flow) == name and flow_for_sequence(flow, "clip", ["0", "1"]) is flow
    for size in ((1, 2), (40, 50), (100, 8)):
        current, previous = frames(*size)
        found = flow_between(flow, current, previous, 5, 3)
        assert found.dtype == np.float32 and found.shape == (*size, 2) and np.isfinite(found).all()
        np.testing.assert_array_equal(copy(current, previous), found)
        mirrored = current[::-1, ::-1], previous[::-1, ::-1]
        np.testing.assert_allclose(flow(*mirrored), flow(*map(np.ascontiguousarray, mirrored)), atol=1e-4)
    frame = np.zeros((40, 40, 3), dtype=np.uint8)
    for bad in (frame[..., 0], frame / 1.0, frame[:0], frame[:30]):
        with pytest.raises(InputError, match=r"uint8|one size"):
            flow(bad, frame)
    with pytest.raises(ValueError, match="max_size"):
        make(max_size=0)


# DIS


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium"])
def test_dis_finds_backward_flow(preset):
    previous, dis = texture(), DISFlow(preset)
    flow = dis(shifted(previous, 3, -2), previous)
    np.testing.assert_allclose(np.median(interior(flow), axis=(0, 1)), [-3, 2], atol=0.1)
    for height, width in ((96, 128), (12, 200), (100, 8)):  # frames of one side below what DIS takes
        assert np.abs(dis(texture(height, width), texture(height, width))).max() < 0.1


def test_reduced_flow_is_in_pixels_of_the_full_size():
    previous = cv2.resize(texture(64, 80), (320, 256))
    flow = DISFlow(max_size=160)(shifted(previous, 12, -8), previous)
    np.testing.assert_allclose(np.median(interior(flow, 40), axis=(0, 1)), [-12, 8], atol=0.5)


def test_consistent_flow_masks_what_an_object_uncovers():
    background, patch = texture(seed=11), texture(seed=3)[20:60, 20:60]
    previous, current = background.copy(), background.copy()
    previous[30:70, 40:80] = current[30:70, 48:88] = patch
    flow, valid = consistent_flow(DISFlow(), current, previous, 1, 0)
    assert np.median(flow[40:60, 58:78, 0]) == pytest.approx(-8, abs=0.1)
    assert valid[40:60, 58:78].mean() > 0.95 and valid[:20].mean() > 0.95
    assert valid[34:66, 41:47].mean() < 0.3  # uncovered since


# RAFT


@pytest.mark.parametrize(
    ("size", "padded"),
    [((128, 136), (128, 136)), ((129, 200), (136, 200)), ((20, 300), (128, 304)), ((1, 1), (128, 128))],
)
def test_the_network_gets_what_its_own_transforms_make_padded(size, padded):
    current, previous = frames(*size)
    flow = recorded()
    np.testing.assert_array_equal(flow(current, previous), np.broadcast_to(np.float32(BLOCK_FLOW), (*size, 2)))
    assert flow.network.updates == 12
    tensors = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in (current, previous)]
    given = flow.network.first, flow.network.second
    for picture, expected in zip(given, Raft_Large_Weights.DEFAULT.transforms()(*tensors), strict=True):
        assert picture.shape == (1, 3, *padded)
        torch.testing.assert_close(picture[..., : size[0], : size[1]], expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(picture[0, :, -1, -1], expected[0, :, -1, -1], atol=1e-6, rtol=0)


def test_reduced_flow_of_raft_is_in_pixels_of_the_full_size():
    current, previous = frames(75, 100)
    flow = recorded(max_size=50)  # 75 rows become 38
    expected = np.float32([BLOCK_FLOW[0] * 2, BLOCK_FLOW[1] * 75 / 38])
    np.testing.assert_allclose(flow(current, previous), np.broadcast_to(expected, (75, 100, 2)), rtol=1e-6)
    reduced = flow.network.first[0, :, :38, :50].permute(1, 2, 0).numpy()
    area = cv2.resize(current, (50, 38), interpolation=cv2.INTER_AREA) / 127.5 - 1
    assert np.abs(reduced - area).mean() < 0.15 < np.abs(area).mean()


def test_flow_is_that_of_torchvision():
    flow, (current, previous) = raft(), frames(128, 136)
    tensors = [torch.from_numpy(frame).permute(2, 0, 1)[None] / 127.5 - 1 for frame in (current, previous)]
    with torch.no_grad():
        expected = flow.network(*tensors, num_flow_updates=1)[-1][0].permute(1, 2, 0).numpy()
    found = flow(current, previous)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found - flow(previous, current)).max() > 1e-2  # the order matters
    assert not flow.network.training and not any(p.requires_grad for p in flow.network.parameters())
    if torch.cuda.is_available():
        np.testing.assert_allclose(raft(device="cuda")(current, previous), found, atol=0.05)


def test_weights_of_raft(tmp_path):
    """Random ones are the same in every process and draw nothing; others come from a file."""
    first = raft().network.state_dict()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    second = raft().network.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    state = optical_flow.raft_small(weights=None).state_dict()
    torch.save(state, tmp_path / "raft_small.pth")
    for path in (tmp_path, tmp_path / "raft_small.pth"):
        found = RAFTFlow("raft_small", path).network.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in found.items())
    for name, file in (("raft_large", "raft_small.pth"), ("raft_small", "missing")):
        with pytest.raises(InputError, match=file) as error:
            RAFTFlow(name, tmp_path / file)
        assert "\n" not in str(error.value)


# Names


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("dis", {}, "DISFlow(preset='medium', max_size=480)"),
        ("dis:fast", {"max_size": None}, "DISFlow(preset='fast', max_size=None)"),
        ("dis:ultrafast", {"max_size": 9}, "DISFlow(preset='ultrafast', max_size=9)"),
        ("raft", {"max_size": None}, "RAFTFlow('raft_large', max_size=None, num_updates=12)"),
        ("raft:small", {"max_size": 100}, "RAFTFlow('raft_small', max_size=100, num_updates=12)"),
    ],
)
def test_sources_by_name(name, options, expected):
    assert repr(resolve_flow(name, weights="none", **options)) == expected


def test_other_names_are_refused_with_those_there_are(tmp_path):
    for bad in ("dis:slow", "flownet", str(tmp_path / "missing"), ""):
        with pytest.raises(InputError, match="dis, dis:fast, dis:ultrafast, raft, raft:small, or a folder") as error:
            resolve_flow(bad)
        assert "\n" not in str(error.value) and str(error.value).startswith(bad)
    for kind, *arguments in ((DISFlow, "slow"), (RAFTFlow, "raft"), (RAFTFlow, "raft_small", "none", "cpu", None, 0)):
        with pytest.raises(ValueError, match="must be"):
            kind(*arguments)


# Files


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_flo_round_trip(tmp_path_factory, height, width, seed):
    path = tmp_path_factory.mktemp("flow") / "00001.flo"
    flow = np.random.default_rng(seed).normal(size=(height, width, 2)).astype(np.float32)
    write_flo(path, flow)
    found = read_flo(path, (height, width))
    np.testing.assert_array_equal(found, flow)
    np.testing.assert_array_equal(cv2.readOpticalFlow(str(path)), flow)
    assert found.flags.writeable and [p.name for p in path.parent.iterdir()] == ["00001.flo"]


def test_flo_bytes(tmp_path):
    path = tmp_path / "a.flo"
    write_flo(path, np.array([[[1, 2], [3, 4], [5, 6]]], dtype=np.float64)[:, ::-1])
    assert path.read_bytes() == b"PIEH" + struct.pack("<2i6f", 3, 1, 5, 6, 3, 4, 1, 2)
    with pytest.raises(ValueError, match="flow must be"):
        write_flo(path, np.zeros((2, 3), dtype=np.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too few"),
        (b"PNG!" + struct.pack("<2i2f", 1, 1, 0, 0), "bad header"),
        (b"PIEH" + struct.pack("<2i", -1, 1), "bad header"),
        (b"PIEH" + struct.pack("<2i", 0, 1), "bad header"),
        (b"PIEH" + struct.pack("<2i3f", 2, 1, 0, 0, 0), "24 bytes instead of 28"),
        (b"PIEH" + struct.pack("<2i3f", 1, 1, 0, 0, 0), "24 bytes instead of 20"),
        (b"PIEH" + struct.pack("<2i", 2**31 - 1, 2**31 - 1), "instead of"),
        (b"PIEH" + struct.pack("<2i12f", 3, 2, *[0] * 12), "flow of 3 x 2 for frames of 2 x 3"),
        (None, "check the path"),
    ],
)
def test_bad_flo_names_the_file(tmp_path, content, message):
    path = tmp_path / "bad.flo"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_flo(path, (3, 2))
    assert "bad.flo" in str(error.value) and "\n" not in str(error.value)
