import pytest
import torch

from stg_pyg.graph.memory import MemoryBank, memory_graph


def key(i, channels=2, size=(2, 3), dtype=torch.float32):
    return torch.full((channels, *size), float(i), dtype=dtype)


def fill(bank, frames):
    for i in frames:
        bank.write(i, key(i), key(i)[0] / 100)
    return bank


def check(bank, expected):
    """The frames held, in any order but the first, with their own keys and masks."""
    masks, keys, frames = bank.read()
    assert sorted(frames) == sorted(expected)
    assert frames[0] == expected[0]
    assert len(bank) == len(expected) == len(masks) == len(keys)
    for frame, mask, k in zip(frames, masks, keys, strict=True):
        assert torch.equal(k, key(frame))
        assert torch.equal(mask, key(frame)[0] / 100)


@pytest.fixture(params=["grad", "no_grad"])
def mode(request):
    with torch.set_grad_enabled(request.param == "grad"):
        yield request.param


@pytest.mark.parametrize(
    ("max_frames", "expected"), [(1, [0]), (2, [0, 9]), (3, [0, 8, 9]), (9, [0, *range(2, 10)]), (20, list(range(10)))]
)
def test_bounded_keeps_the_first_and_the_latest(mode, max_frames, expected):
    bank = MemoryBank(max_frames)
    for i in range(10):
        fill(bank, [i])
        held = list(range(i + 1))
        check(bank, held if i < max_frames else held[:1] + held[len(held) - max_frames + 1 :])
    check(bank, expected)


def test_frame_again_replaces_it(mode):
    bank = fill(MemoryBank(max_frames=3), range(5))
    bank.write(3, key(7), key(8)[0])
    masks, keys, frames = bank.read()
    slot = frames.index(3)
    assert torch.equal(keys[slot], key(7)) and torch.equal(masks[slot], key(8)[0])
    assert sorted(frames) == [0, 3, 4]
    fill(bank, [3, 5])
    check(bank, [0, 4, 5])


def test_what_is_stored_is_a_copy(mode):
    bank, k = MemoryBank(), key(1)
    bank.write(0, k, k[0])
    k += 1
    assert torch.equal(bank.read()[1][0], key(1))


def test_detached_memory_does_not_disturb_a_pending_backward():
    weight = torch.ones((), requires_grad=True)
    bank = fill(MemoryBank(max_frames=2), [0])
    total = torch.zeros(())
    for i in range(1, 4):
        total = total + (weight * bank.read()[1]).sum()
        fill(bank, [i])
    total.backward()
    assert weight.grad.item() == 12 * (0 + (0 + 1) + (0 + 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("detach", [True, False])
def test_keys_of_half_precision(mode, dtype, detach):
    whole, half = (MemoryBank(max_frames=4, detach=detach, dtype=d) for d in (None, dtype))
    for t in range(7):
        k, mask = torch.randn(2, 8, 9), torch.rand(8, 9)
        whole.write(t, k, mask)
        half.write(t, k, mask)
    masks, keys, frames = half.read()
    expected_masks, expected_keys, expected_frames = whole.read()
    assert frames == expected_frames and keys.dtype == dtype and masks.dtype == torch.float32
    assert torch.equal(masks, expected_masks) and torch.equal(keys, expected_keys.to(dtype))
    assert 2 * keys.untyped_storage().nbytes() == expected_keys.untyped_storage().nbytes()
    graph = memory_graph([half, half], torch.zeros(2, 8, 9), torch.zeros(2, 2, 8, 9))
    assert torch.equal(graph.memory_key, torch.cat([keys, keys]))


def test_cells_are_means(mode):
    key, mask = torch.arange(32.0).view(2, 4, 4), torch.rand(4, 4) > 0.5
    bank = MemoryBank(cell=2)
    bank.write(0, key, mask)
    masks, keys, _ = bank.read()
    assert keys.shape == (1, 2, 2, 2) and torch.equal(keys[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    assert float(masks[0, 1, 0]) == float(mask[2:, :2].float().mean())
    with pytest.raises(ValueError, match=r"key \[2, 3, 4\] cannot be divided into cells of 2 x 2"):
        MemoryBank(cell=2).write(0, key[:, :3], mask[:3])


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"dtype must be floating or None, not torch\.int8"):
        MemoryBank(dtype=torch.int8)
    with pytest.raises(ValueError, match="max_frames"):
        MemoryBank(0)
    for read in (MemoryBank().read, lambda: memory_graph([MemoryBank()], key(0)[:1], key(0)[None])):
        with pytest.raises(ValueError, match="empty"):
            read()
    with pytest.raises(ValueError, match="must be"):
        MemoryBank().write(0, key(0), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="differs"):
        fill(MemoryBank(), [0]).write(1, key(1, channels=3), key(1)[0])


def test_memory_graph(mode):
    banks = [fill(MemoryBank(), [0, 1]), MemoryBank(), fill(MemoryBank(), [4, 5, 6])]
    graph = memory_graph(banks, torch.rand(3, 2, 3), torch.rand(3, 4, 2, 3))
    assert graph.memory_key[:, 0, 0, 0].tolist() == [0, 1, 4, 5, 6] == graph.memory_frame_idx.tolist()
    torch.testing.assert_close(graph.memory_mask[:, 0, 0], torch.tensor([0, 0.01, 0.04, 0.05, 0.06]))
    assert graph.edge_index.dtype == torch.long and graph.validate() and graph.num_nodes == 3
    assert graph.edge_index.tolist() == [[0, 1, 2, 3, 4], [0, 0, 2, 2, 2]]
