"""All temporal layers against one reference in plain loops, and each for itself."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from stg_pyg.nn import JointMemoryAttention, MeanMemory, MemoryAttention
from stg_pyg.nn.temporal import joint_memory_attention as joint_module
from stg_pyg.nn.temporal import memory_attention as memory_attention_module

HEIGHT, WIDTH, CHANNELS = 3, 2, 4
LAYERS = {
    "memory_attention": MemoryAttention,
    "joint": JointMemoryAttention,
    "top_3": lambda **options: JointMemoryAttention(top_k=3, **options),
    "top_1000": lambda **options: JointMemoryAttention(top_k=1000, **options),
    "mean": MeanMemory,
}
ATTENTIONS = [name for name in LAYERS if name != "mean"]
HALF = [torch.float16, torch.bfloat16]


def random_call(counts=(2, 0, 3, 1), dtype=torch.float64, height=HEIGHT, width=WIDTH):
    """Objects with so many memory frames each, whose edges are in no order."""
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    edges = torch.stack([torch.arange(len(owner)), owner])[:, torch.randperm(len(owner))]
    return (
        torch.rand(len(counts), height, width, dtype=dtype),
        torch.randn(len(counts), CHANNELS, height, width, dtype=dtype),
        torch.rand(len(owner), height, width, dtype=dtype),
        torch.randn(len(owner), CHANNELS, height, width, dtype=dtype),
        edges,
    )


def make(name, **options):
    """A layer whose gate, if any, differs from pixel to pixel."""
    layer = LAYERS[name](**options).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def softmax(logits):
    weights = np.exp(np.array(logits))
    return weights / weights.sum()


def message(name, key, i, frames, memory_masks, memory_keys, unit, tau):
    """What the memory frames of one object say to its pixel i, summed."""
    if name == "mean":
        return sum(memory_masks[r][i] for r in frames)
    query = key[(slice(None), *i)]
    logits, values = [], []
    for r in frames:
        for j in np.ndindex(*memory_masks.shape[1:]):
            past = memory_keys[(r, slice(None), *j)]
            scale = np.linalg.norm(query) * np.linalg.norm(past) if unit else 1.0
            logits.append(float(query @ past) / scale / tau)
            values.append(memory_masks[(r, *j)])
    if name == "memory_attention":
        size = len(logits) // len(frames)
        parts = [slice(n * size, (n + 1) * size) for n in range(len(frames))]
        return sum(float(softmax(logits[part]) @ np.array(values[part])) for part in parts)
    order = np.argsort(logits)[::-1][: {"top_3": 3}.get(name)]
    return len(frames) * float(softmax(np.array(logits)[order]) @ np.array(values)[order])


def gate(layer, mask, mean):
    hidden, out = layer.gate.hidden, layer.gate.out
    numbers = [p.detach().numpy() for p in (hidden.weight, hidden.bias, out.weight, out.bias)]
    state = numbers[0][:, :, 0, 0] @ np.array([mask, mean, abs(mask - mean)]) + numbers[1]
    return float(1 / (1 + np.exp(-(numbers[2][0, :, 0, 0] @ np.maximum(state, 0) + numbers[3][0]))))


def reference(name, layer, masks, keys, memory_masks, memory_keys, edges, unit=False, tau=1.0):
    masks, keys, memory_masks, memory_keys = (t.double().numpy() for t in (masks, keys, memory_masks, memory_keys))
    out = np.zeros_like(masks)
    for b in range(len(masks)):
        frames = [r for r, target in edges.t().tolist() if target == b]
        for i in np.ndindex(*masks.shape[1:]):
            mask = masks[(b, *i)]
            out[(b, *i)] = mask
            if not frames:
                continue
            total = message(name, keys[b], i, frames, memory_masks, memory_keys, unit, tau)
            mean = total / len(frames)
            if layer.gate is None:
                out[(b, *i)] = (mask + total) / (len(frames) + 1)
            else:
                out[(b, *i)] = mask + gate(layer, mask, mean) * (mean - mask)
    return torch.from_numpy(out)


@pytest.mark.parametrize("update", ["paper", "gated"])
@pytest.mark.parametrize("counts", [(2, 0, 3, 1), (4,), (0, 0), (1, 5)])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_reference(name, counts, update, with_scatter):
    inputs = random_call(counts)
    layer = make(name, update=update)
    assert_close(layer.forward_graph(*inputs), reference(name, layer, *inputs))


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("unit, tau", [(True, 1.0), (False, 2.5), (True, 0.1)])
def test_options_of_the_logits(name, unit, tau):
    inputs = random_call()
    layer = make(name, normalize_keys=unit, temperature=tau)
    assert_close(layer.forward_graph(*inputs), reference(name, layer, *inputs, unit=unit, tau=tau))


@pytest.mark.parametrize("name", LAYERS)
def test_memory_nodes_are_shared_repeated_or_unused(name):
    masks, keys, memory_masks, memory_keys, _ = random_call((2, 2))
    edges = torch.tensor([[0, 0, 2, 2, 2], [0, 1, 1, 0, 0]])
    layer = make(name)
    out = layer.forward_graph(masks, keys, memory_masks, memory_keys, edges)
    assert_close(out, reference(name, layer, masks, keys, memory_masks, memory_keys, edges))


@pytest.mark.parametrize("update", ["paper", "gated"])
@pytest.mark.parametrize("name", LAYERS)
def test_float32(name, update):
    inputs = random_call(dtype=torch.float32)
    layer = make(name, update=update)
    expected = reference(name, layer, *inputs)
    out = layer.float().forward_graph(*inputs)
    assert out.dtype == torch.float32
    assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_neither_objects_nor_memory(name):
    masks, keys, memory_masks, memory_keys, edges = random_call((2, 1))
    layer, none = make(name, update="gated"), edges[:, :0]
    assert torch.equal(layer.forward_graph(masks, keys, memory_masks, memory_keys, none), masks)
    assert torch.equal(layer.forward_graph(masks, keys, memory_masks[:0], memory_keys[:0], none), masks)
    out = layer.forward_graph(masks[:0], keys[:0], memory_masks, memory_keys, none)
    assert out.shape == (0, HEIGHT, WIDTH)


@pytest.mark.parametrize("name", LAYERS)
def test_bool_masks(name):
    masks, keys, memory_masks, memory_keys, edges = random_call()
    layer = make(name)
    hard = layer.forward_graph(masks > 0.5, keys, memory_masks > 0.5, memory_keys, edges)
    soft = layer.forward_graph((masks > 0.5).double(), keys, (memory_masks > 0.5).double(), memory_keys, edges)
    assert_close(hard, soft)


@pytest.mark.parametrize("update", ["paper", "gated"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name, update):
    *tensors, edges = random_call((2, 0, 1))
    tensors = [part.requires_grad_() for part in tensors]
    layer = make(name, update=update)
    assert torch.autograd.gradcheck(lambda *inputs: layer.forward_graph(*inputs, edges), tensors)


@pytest.mark.parametrize("name", LAYERS)
def test_the_gate_learns(name):
    layer = LAYERS[name](update="gated")
    inputs = random_call(dtype=torch.float32)
    layer.forward_graph(*inputs).sum().backward()
    assert layer.gate.out.weight.grad.abs().sum() > 0
    torch.nn.init.ones_(layer.gate.out.weight)
    layer.reset_parameters()
    assert not layer.gate.out.weight.any()


@pytest.mark.parametrize("max_logits", [1, 7, 20, 40, 100])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_turns_do_not_change_the_result(name, max_logits):
    inputs = random_call()
    layer = make(name)
    expected = layer.forward_graph(*inputs)
    layer.max_logits = max_logits
    assert_close(layer.forward_graph(*inputs), expected)


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("max_logits", [6, 13, 40, 10_000])
def test_no_more_logits_at_once_than_allowed(monkeypatch, max_logits, top_k):
    sizes, scores = [], JointMemoryAttention._scores

    def counted(self, query, key, value):
        sizes.append(query.size(0) * query.size(1) * key.size(1))
        return scores(self, query, key, value)

    monkeypatch.setattr(JointMemoryAttention, "_scores", counted)
    JointMemoryAttention(max_logits=max_logits, top_k=top_k).forward_graph(*random_call(dtype=torch.float32))
    assert sum(sizes) == 6 * 6 * 6 and max(sizes) <= max_logits
    assert max_logits < 10_000 or len(sizes) == 1


@pytest.mark.parametrize("name", ATTENTIONS)
def test_large_logits_do_not_overflow(name):
    masks, keys, memory_masks, memory_keys, edges = random_call(dtype=torch.float32)
    out = LAYERS[name]().forward_graph(masks, 1e3 * keys, memory_masks, 1e3 * memory_keys, edges)
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1


def test_one_frame_is_read_alike():
    inputs = random_call((1, 1, 0))
    assert_close(make("joint").forward_graph(*inputs), make("memory_attention").forward_graph(*inputs))


def test_a_frame_that_matches_better_counts_more():
    masks, keys = torch.full((1, 2, 2), 0.5), torch.ones(1, 1, 2, 2)
    memory_masks = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    memory_keys = torch.stack([torch.zeros(1, 2, 2), 20 * torch.ones(1, 2, 2)])
    inputs = (masks, keys, memory_masks, memory_keys, torch.tensor([[0, 1], [0, 0]]))
    assert_close(MemoryAttention().forward_graph(*inputs), masks)
    assert_close(JointMemoryAttention().forward_graph(*inputs), torch.full((1, 2, 2), 2.5 / 3))


def test_messages_of_a_joint_layer_are_of_each_frame_by_itself():
    _, keys, memory_masks, memory_keys, edges = random_call()
    inputs = (keys, memory_masks, memory_keys, edges)
    assert_close(JointMemoryAttention().messages(*inputs), MemoryAttention().messages(*inputs))
    logits = torch.einsum("ecp,ecq->epq", keys.flatten(2)[edges[1]], memory_keys.flatten(2)[edges[0]])
    nearest = memory_masks.flatten(1)[edges[0]].gather(1, logits.argmax(dim=2)).view(-1, HEIGHT, WIDTH)
    assert_close(JointMemoryAttention(top_k=1).messages(*inputs), nearest)


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_memory_keys_of_half_precision(name, unit, half):
    masks, keys, memory_masks, memory_keys, edges = random_call(dtype=torch.float32)
    layer = LAYERS[name](normalize_keys=unit)
    stored = memory_keys.to(half)
    out = layer.forward_graph(masks, keys, memory_masks, stored, edges)
    assert out.dtype == torch.float32
    # On this device the comparison itself is not rounded.
    assert_close(out, layer.forward_graph(masks, keys, memory_masks, stored.float(), edges))
    assert_close(layer.forward_graph(masks.double(), keys, memory_masks, stored, edges).float(), out)
    if name != "top_3":  # of which rounding may choose others
        whole = layer.forward_graph(masks, keys, memory_masks, memory_keys, edges)
        assert_close(out, whole, rtol=0, atol=2e-2 if half is torch.bfloat16 else 2e-3)
        assert not torch.equal(out, whole)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_memory_keys_of_half_precision_are_converted_in_groups(monkeypatch, name):
    masks, keys, memory_masks, memory_keys, edges = random_call((9,), torch.float32, 4, 4)
    layer = LAYERS[name](normalize_keys=True)
    expected = layer.forward_graph(masks, keys, memory_masks, memory_keys.half(), edges)
    sizes, convert = [], MemoryAttention._as

    def counted(self, query, key):
        sizes.append(len(key))
        return convert(self, query, key)

    monkeypatch.setattr(MemoryAttention, "_as", counted)
    for module in (memory_attention_module, joint_module):
        monkeypatch.setattr(module, "CONVERTED", 4 * CHANNELS * 16)
    assert_close(layer.forward_graph(masks, keys, memory_masks, memory_keys.half(), edges), expected)
    assert max(sizes) == 4 and sum(sizes) % 9 == 0


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("unit", [True, False])
def test_comparison_in_half_precision(monkeypatch, unit, half):
    """What a GPU does, here on the CPU."""
    monkeypatch.setattr(memory_attention_module, "_compares_half", lambda keys: True)
    seen, attend = set(), MemoryAttention._attend

    def watched(self, query, key, value):
        seen.add((query.dtype, key.dtype, value.dtype))
        return attend(self, query, key, value)

    monkeypatch.setattr(MemoryAttention, "_attend", watched)
    masks, keys, memory_masks, memory_keys, edges = random_call(dtype=torch.float32)
    layer = MemoryAttention(normalize_keys=unit)
    out = layer.forward_graph(masks, keys, memory_masks, memory_keys.to(half), edges)
    assert out.dtype == torch.float32 and seen == {(half, half, torch.float32)}
    whole = layer.forward_graph(masks, keys, memory_masks, memory_keys, edges)
    assert_close(out, whole, rtol=0, atol=3e-2 if half is torch.bfloat16 else 4e-3)


def test_keys_of_half_precision_everywhere():
    masks, keys, memory_masks, memory_keys, edges = random_call(dtype=torch.float32)
    halves = (masks, keys.half(), memory_masks, memory_keys.half(), edges)
    wholes = (masks, keys.half().float(), memory_masks, memory_keys.half().float(), edges)
    for name in ATTENTIONS:
        assert_close(LAYERS[name]().forward_graph(*halves), LAYERS[name]().forward_graph(*wholes))
        messages = LAYERS[name]().messages(keys.half(), memory_masks, memory_keys.half(), edges)
        assert messages.dtype == torch.float16
        assert_close(messages.float(), LAYERS[name]().messages(*wholes[1:]), rtol=0, atol=5e-3)


def test_wrong_arguments_and_shapes_are_explained():
    masks, keys, memory_masks, memory_keys, edges = random_call()
    with pytest.raises(ValueError, match="grids"):
        JointMemoryAttention().forward_graph(masks[:, :2], keys, memory_masks, memory_keys, edges)
    for cls in (JointMemoryAttention, MeanMemory):
        with pytest.raises(ValueError, match="update"):
            cls(update="gru")
    with pytest.raises(ValueError, match="top_k"):
        JointMemoryAttention(top_k=0)
    with pytest.raises(ValueError, match="temperature"):
        JointMemoryAttention(temperature=0.0)


def test_a_memory_of_another_grid_says_the_same():
    masks, keys, _, memory_keys, edges = random_call()
    size = masks.shape[-2:]
    flat = torch.rand(len(memory_keys), 1, 1, dtype=masks.dtype)
    fine, coarse = flat.expand(-1, *size), flat.expand(-1, 1, 1)
    for cls in (MemoryAttention, MeanMemory):
        expected = cls().forward_graph(masks, keys, fine, memory_keys, edges)
        found = cls().forward_graph(masks, keys, coarse, memory_keys.mean(dim=(2, 3), keepdim=True), edges)
        assert_close(found, expected)  # one mask value a frame is all that attention within it can say


def test_repr():
    assert str(MeanMemory(update="gated")) == "MeanMemory(update='gated')"
    joint = JointMemoryAttention(normalize_keys=True, temperature=0.5, top_k=20)
    assert str(joint) == "JointMemoryAttention(update='paper', normalize_keys=True, temperature=0.5, top_k=20)"
