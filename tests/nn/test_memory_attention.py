import pytest
import reference
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch

from stg_pyg.graph.temporal import build_memory_graph
from stg_pyg.nn import MemoryAttention

TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-10}}


def random_input(r, dtype=torch.float64, channels=4, height=3, width=2):
    return (
        torch.rand(height, width, dtype=dtype),
        torch.randn(channels, height, width, dtype=dtype),
        torch.rand(r, height, width, dtype=dtype),
        torch.randn(r, channels, height, width, dtype=dtype),
    )


def expected_output(inputs, **kwargs):
    return torch.from_numpy(reference.memory_attention(*map(reference.to_numpy, inputs), **kwargs))


@pytest.mark.parametrize("max_logits", [2**27, 1, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("r", [0, 1, 5])
def test_equals_the_reference(r, dtype, max_logits, with_scatter):
    inputs = random_input(r, dtype)
    out = MemoryAttention(max_logits=max_logits)(*inputs)
    assert out.shape == (3, 2) and out.dtype == dtype
    assert_close(out.double(), expected_output(inputs), **TOLERANCE[dtype])


@pytest.mark.parametrize("normalize_keys, temperature", [(True, 1.0), (False, 2.5), (True, 0.1)])
def test_options_of_the_logits(normalize_keys, temperature):
    inputs = random_input(3)
    out = MemoryAttention(normalize_keys=normalize_keys, temperature=temperature)(*inputs)
    assert_close(out, expected_output(inputs, unit=normalize_keys, temperature=temperature))


@pytest.mark.parametrize("update", ["paper", "gated"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_memory_keeps_the_mask(update, dtype):
    inputs = random_input(0, dtype)
    assert_close(MemoryAttention(update=update).to(dtype)(*inputs), inputs[0], rtol=0, atol=0)


def test_large_logits_do_not_overflow():
    mask, key, memory_masks, memory_keys = random_input(2, torch.float32)
    out = MemoryAttention()(mask, 1e3 * key, memory_masks, 1e3 * memory_keys)
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1


def test_identical_frames_with_sharp_keys_keep_the_mask():
    mask = torch.rand(3, 2)
    key = 10 * torch.eye(6).view(6, 3, 2)
    out = MemoryAttention()(mask, key, mask.expand(4, -1, -1), key.expand(4, -1, -1, -1))
    assert_close(out, mask)


@pytest.mark.parametrize("update", ["paper", "gated"])
def test_gradients(update):
    inputs = tuple(part.requires_grad_() for part in random_input(2))
    conv = MemoryAttention(update=update).double()
    assert torch.autograd.gradcheck(conv, inputs)


@pytest.mark.parametrize("update", ["paper", "gated"])
@pytest.mark.parametrize("sizes", [[2], [3, 0, 1], [0, 0], [1, 4]])
def test_batch_of_ragged_memories_equals_one_by_one(update, sizes, with_scatter):
    objects = [random_input(r) for r in sizes]
    batch = Batch.from_data_list([build_memory_graph(*inputs) for inputs in objects])
    conv = MemoryAttention(update=update).double()
    edges = batch.edge_index[:, torch.randperm(batch.edge_index.size(1))]
    out = conv.forward_graph(batch.mask, batch.key, batch.memory_mask, batch.memory_key, edges)
    assert_close(out, torch.stack([conv(*inputs) for inputs in objects]))


def test_no_objects():
    mask, key, memory_masks, memory_keys = random_input(0)
    edges = torch.empty(2, 0, dtype=torch.long)
    out = MemoryAttention().forward_graph(mask[None][:0], key[None][:0], memory_masks, memory_keys, edges)
    assert out.shape == (0, 3, 2)


def test_messages_are_the_terms_of_equation_7():
    _, key, memory_masks, memory_keys = random_input(3)
    edges = torch.tensor([[2, 0], [0, 0]])
    out = MemoryAttention().messages(key[None], memory_masks, memory_keys, edges)
    expected = reference.memory_messages(*map(reference.to_numpy, (key, memory_masks, memory_keys)))
    assert_close(out, torch.from_numpy(expected)[[2, 0]])


def test_gate_starts_close_to_the_mask_and_learns():
    inputs = random_input(3, torch.float32)
    conv = MemoryAttention(update="gated")
    mean = MemoryAttention()(*inputs) * 4 / 3 - inputs[0] / 3
    out = conv(*inputs)
    assert_close(out, inputs[0] + 0.1 * (mean - inputs[0]))
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in conv.parameters())
    assert conv.gate.out.weight.grad.abs().sum() > 0
    assert not list(MemoryAttention().parameters())


def test_gate_takes_double_masks_in_a_float_module():
    inputs = random_input(2, torch.float64)
    conv = MemoryAttention(update="gated")
    out = conv(*inputs)
    assert out.dtype == torch.float64
    assert_close(out, conv.double()(*inputs), rtol=1e-6, atol=1e-6)


def test_bool_masks_and_half_keys():
    mask, key, memory_masks, memory_keys = random_input(2, torch.float32)
    hard = MemoryAttention()(mask > 0.5, key, memory_masks > 0.5, memory_keys)
    soft = MemoryAttention()((mask > 0.5).float(), key, (memory_masks > 0.5).float(), memory_keys)
    assert_close(hard, soft)
    assert MemoryAttention()(mask, key.half(), memory_masks, memory_keys.half()).dtype == torch.float32


def test_wrong_shapes_and_arguments_are_explained():
    mask, key, memory_masks, memory_keys = random_input(2)
    conv = MemoryAttention()
    with pytest.raises(ValueError, match="grids"):
        conv(mask[:2], key, memory_masks, memory_keys)
    with pytest.raises(ValueError, match="do not fit"):
        conv(mask, key, memory_masks[:1], memory_keys)
    with pytest.raises(ValueError, match="channels"):
        conv(mask, key[:3], memory_masks, memory_keys)
    with pytest.raises(ValueError, match="update"):
        MemoryAttention(update="gru")
    with pytest.raises(ValueError, match="temperature"):
        MemoryAttention(temperature=0.0)


def test_repr():
    assert str(MemoryAttention()) == "MemoryAttention(update='paper', normalize_keys=False, temperature=1.0)"
