"""Every temporal layer against one reference in plain loops, each for itself, and layers by name."""

import re
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from torch.testing import assert_close
from torch_geometric.data import Batch
from torch_geometric.utils import scatter

from stg_pyg.errors import InputError
from stg_pyg.graph.temporal import build_memory_graph
from stg_pyg.nn import JointMemoryAttention, MeanMemory, MemoryAttention, resolve_temporal_conv
from stg_pyg.nn.made import arguments_of, format_layer
from stg_pyg.nn.temporal import joint_memory_attention as joint_module
from stg_pyg.nn.temporal import memory_attention as memory_attention_module
from stg_pyg.nn.temporal.registry import LAYERS as REGISTRY

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
CLASSES = {"memory_attention": MemoryAttention, "joint": JointMemoryAttention, "mean": MeanMemory}


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


def expected_output(name, layer, masks, keys, memory_masks, memory_keys, edges, unit=False, tau=1.0):
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("update", ["paper", "gated"])
@pytest.mark.parametrize("counts", [(2, 0, 3, 1), (4,), (0, 0)])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_reference(name, counts, update, dtype, with_scatter):
    inputs, layer = random_call(counts, dtype), make(name, update=update)
    expected = expected_output(name, layer, *inputs)
    out = layer.to(dtype).forward_graph(*inputs)
    assert out.dtype == dtype
    assert_close(out.double(), expected, rtol=1e-4, atol=1e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("unit, tau", [(True, 1.0), (False, 2.5), (True, 0.1)])
def test_options_of_the_logits(name, unit, tau):
    inputs = random_call()
    layer = make(name, normalize_keys=unit, temperature=tau)
    assert_close(layer.forward_graph(*inputs), expected_output(name, layer, *inputs, unit=unit, tau=tau))


@pytest.mark.parametrize("name", LAYERS)
def test_memory_nodes_may_be_shared_repeated_unused_or_missing_and_masks_bool(name):
    masks, keys, memory_masks, memory_keys, _ = random_call((2, 2))
    edges = torch.tensor([[0, 0, 2, 2, 2], [0, 1, 1, 0, 0]])
    layer, call = make(name), (masks, keys, memory_masks, memory_keys, edges)
    assert_close(layer.forward_graph(*call), expected_output(name, layer, *call))
    hard = layer.forward_graph(masks > 0.5, keys, memory_masks > 0.5, memory_keys, edges)
    soft = layer.forward_graph((masks > 0.5).double(), keys, (memory_masks > 0.5).double(), memory_keys, edges)
    assert_close(hard, soft)
    layer, none = make(name, update="gated"), edges[:, :0]
    assert torch.equal(layer.forward_graph(masks, keys, memory_masks, memory_keys, none), masks)
    assert torch.equal(layer.forward_graph(masks, keys, memory_masks[:0], memory_keys[:0], none), masks)
    assert layer.forward_graph(masks[:0], keys[:0], memory_masks, memory_keys, none).shape == (0, HEIGHT, WIDTH)


@pytest.mark.parametrize("update", ["paper", "gated"])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name, update):
    *tensors, edges = random_call((2, 0, 1))
    tensors = [part.requires_grad_() for part in tensors]
    layer = make(name, update=update)
    assert torch.autograd.gradcheck(lambda *inputs: layer.forward_graph(*inputs, edges), tensors)


@pytest.mark.parametrize("name", LAYERS)
def test_the_gate_starts_near_the_mask_learns_and_comes_back_from_its_text_and_weights(name):
    layer, inputs = LAYERS[name](update="gated"), random_call((2, 3), torch.float32)
    count = torch.tensor([2.0, 3.0]).view(-1, 1, 1)
    mean = ((count + 1) * LAYERS[name]().forward_graph(*inputs) - inputs[0]) / count
    out = layer.forward_graph(*inputs)
    assert_close(out, inputs[0] + 0.1 * (mean - inputs[0]), rtol=1e-4, atol=1e-5)
    out.sum().backward()
    assert layer.gate.out.weight.grad.abs().sum() > 0 and not list(LAYERS[name]().parameters())
    torch.nn.init.ones_(layer.gate.out.weight)
    again = resolve_temporal_conv(format_layer(REGISTRY.name_of(type(layer)), arguments_of(layer)))
    again.load_state_dict(layer.state_dict())
    assert str(again) == str(layer)
    assert torch.equal(again.forward_graph(*inputs), layer.forward_graph(*inputs))
    assert again.forward_graph(*(part.double() for part in inputs[:4]), inputs[4]).dtype == torch.float64
    again.reset_parameters()
    assert not again.gate.out.weight.any()


@pytest.mark.parametrize("max_logits", [1, 7, 20, 40, 100])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_turns_do_not_change_the_result(name, max_logits):
    inputs = random_call()
    layer = make(name)
    expected = layer.forward_graph(*inputs)
    layer.max_logits = max_logits
    assert_close(layer.forward_graph(*inputs), expected)


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("max_logits", [6, 40, 10_000])
def test_no_more_logits_at_once_than_allowed(monkeypatch, max_logits, top_k):
    sizes, scores = [], JointMemoryAttention._scores

    def counted(self, query, key, value):
        sizes.append(query.size(0) * query.size(1) * key.size(1))
        return scores(self, query, key, value)

    monkeypatch.setattr(JointMemoryAttention, "_scores", counted)
    JointMemoryAttention(max_logits=max_logits, top_k=top_k).forward_graph(*random_call(dtype=torch.float32))
    assert sum(sizes) == 6 * 6 * 6 and max(sizes) <= max_logits and (max_logits < 10_000 or len(sizes) == 1)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_large_logits_do_not_overflow_and_sharp_keys_keep_the_mask(name):
    masks, keys, memory_masks, memory_keys, edges = random_call(dtype=torch.float32)
    out = LAYERS[name]().forward_graph(masks, 1e3 * keys, memory_masks, 1e3 * memory_keys, edges)
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1
    key = 10 * torch.eye(6).view(6, 3, 2)
    one = LAYERS[name]().forward(masks[0], key, masks[:1].expand(4, -1, -1), key.expand(4, -1, -1, -1))
    assert name in ("top_3",) or torch.allclose(one, masks[0], atol=1e-5)


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


def test_wrong_arguments_and_shapes_are_explained():
    masks, keys, memory_masks, memory_keys, edges = random_call()
    for call, message in (
        ((masks[:, :2], keys, memory_masks, memory_keys), "grids"),
        ((masks, keys, memory_masks[:1], memory_keys), "do not fit"),
        ((masks, keys[:, :3], memory_masks, memory_keys), "channels"),
    ):
        with pytest.raises(ValueError, match=message):
            JointMemoryAttention().forward_graph(*call, edges)
    for name in CLASSES:
        with pytest.raises(InputError, match="update"):
            resolve_temporal_conv(name, update="gru")
    with pytest.raises(ValueError, match="temperature"):
        JointMemoryAttention(temperature=0.0)


def test_one_object_is_that_of_the_paper_and_of_its_graph():
    """The form of one object, against the equations written for one, and a batch of ragged graphs."""
    *tensors, edges = random_call((3, 0, 2))
    layer, objects = MemoryAttention(), []
    for b in range(3):
        own = edges[0][edges[1] == b].sort().values
        objects.append((tensors[0][b], tensors[1][b], tensors[2][own], tensors[3][own]))
        expected = reference.memory_attention(*map(reference.to_numpy, objects[-1]))
        assert_close(layer(*objects[-1]), torch.from_numpy(expected))
    batch = Batch.from_data_list([build_memory_graph(*one) for one in objects])
    order = torch.randperm(5)
    out = layer.forward_graph(batch.mask, batch.key, batch.memory_mask, batch.memory_key, batch.edge_index[:, order])
    assert_close(out, torch.stack([layer(*one) for one in objects]))
    _, key, memory_masks, memory_keys = objects[0]
    found = layer.messages(key[None], memory_masks, memory_keys, torch.tensor([[2, 0], [0, 0]]))
    terms = reference.memory_messages(*map(reference.to_numpy, (key, memory_masks, memory_keys)))
    assert_close(found, torch.from_numpy(terms)[[2, 0]])


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
    assert str(MemoryAttention()) == "MemoryAttention(update='paper', normalize_keys=False, temperature=1.0)"
    assert str(MeanMemory(update="gated")) == "MeanMemory(update='gated')"
    joint = JointMemoryAttention(normalize_keys=True, temperature=0.5, top_k=20)
    assert str(joint) == "JointMemoryAttention(update='paper', normalize_keys=True, temperature=0.5, top_k=20)"


# By name, class and instance


class LatestMask(torch.nn.Module):
    """A layer with learned weights, for keys of 7 channels only, that draws random numbers while training."""

    in_channels = 7

    def __init__(self):
        super().__init__()
        self.key = torch.nn.Linear(7, 2)

    def forward_graph(self, masks, keys, memory_masks, memory_keys, edge_index):
        assert not self.training or torch.rand(1) < 2
        assert self.key(keys.flatten(2).transpose(1, 2)).shape[2] == self.key(memory_keys.flatten(2).mT).shape[2] == 2
        assert masks.dtype == keys.dtype == self.key.weight.dtype
        return scatter(memory_masks[edge_index[0]], edge_index[1], 0, len(masks), "max").maximum(masks)


class Broken(torch.nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward_graph(self, masks, keys, memory_masks, memory_keys, edge_index):
        return self.result(masks, keys, memory_masks, memory_keys, edge_index)


class OneObject(torch.nn.Module):
    def forward_graph(self, mask, key, memory_mask, memory_key):
        return mask


class NoGraph(torch.nn.Module):
    def forward(self, masks):
        return masks


def mean_without_memory_is_nan(masks, keys, memory_masks, memory_keys, edge_index):
    counts = torch.bincount(edge_index[1], minlength=len(masks)).view(-1, 1, 1)
    return scatter(memory_masks[edge_index[0]], edge_index[1], 0, len(masks), "sum") / counts


def fails_in_two_lines(*_):
    raise RuntimeError("first line\n  second line")


@pytest.mark.parametrize("name", CLASSES)
def test_by_name_class_and_instance(name):
    cls = CLASSES[name]
    for query in (name, name.upper(), cls.__name__, cls):
        layer = resolve_temporal_conv(query, update="gated")
        assert type(layer) is cls and layer.update_rule == "gated"
    assert resolve_temporal_conv(layer) is layer


def test_own_layers_come_as_they_are():
    torch.manual_seed(0)
    layer = LatestMask()
    before = torch.get_rng_state()
    assert resolve_temporal_conv(layer) is layer
    assert torch.equal(before, torch.get_rng_state()) and layer.training
    assert isinstance(resolve_temporal_conv(LatestMask), LatestMask)
    assert resolve_temporal_conv(layer.double()).key.weight.dtype == torch.float64


def test_options_taken():
    options = {"normalize_keys": True, "temperature": 0.5, "update": "gated"}
    assert REGISTRY.options("joint", False, options) == REGISTRY.options(MemoryAttention, False, options) == options
    assert REGISTRY.options("mean", False, options) == {"update": "gated"}
    assert REGISTRY.options(LatestMask, False, options) == REGISTRY.options(MeanMemory(), False, options) == {}
    assert resolve_temporal_conv("joint", top_k=7).top_k == 7


@pytest.mark.parametrize(
    "query, kwargs, message",
    [
        ("nothing", {}, "unknown temporal layer 'nothing'; known names, the nearest first: .*mean"),
        (int, {}, "expected a name"),
        (3, {}, "expected a name"),
        (MeanMemory(), {"update": "gated"}, "instance already"),
        ("mean", {"top_k": 3}, "cannot make MeanMemory with {'top_k': 3}: .*unexpected keyword"),
        ("joint", {"top_k": 0}, "cannot make JointMemoryAttention .*'top_k' must be positive"),
        (NoGraph, {}, r"NoGraph does not fit: it has no method forward_graph\(masks, keys, memory_masks"),
        (OneObject, {}, r"does not fit: forward_graph\(mask, key, memory_mask, memory_key\) cannot be called"),
        (Broken(lambda *inputs: inputs[0].mean(0)), {}, r"it makes \[6, 5\] of masks \[2, 6, 5\]"),
        (Broken(lambda *inputs: None), {}, r"it makes NoneType of masks"),
        (Broken(mean_without_memory_is_nan), {}, "one without memory, it makes values that are not finite"),
        (Broken(lambda *inputs: inputs[0] / 2), {}, "it changes the mask of an object without memory"),
        (
            Broken(fails_in_two_lines),
            {},
            r"fails on 2 objects, one without memory \(first line second line\); see 'The temporal layer'",
        ),
        (Broken(lambda *inputs: inputs[0] + inputs[2]), {}, "it fails on 2 objects"),
    ],
)
def test_what_does_not_fit_is_said_at_construction(query, kwargs, message):
    with pytest.raises(InputError, match=message) as error:
        resolve_temporal_conv(query, **kwargs)
    assert "\n" not in str(error.value)


def test_the_example_of_the_documentation_runs():
    text = (Path(__file__).parents[2] / "docs" / "layers.md").read_text()
    own, use = (
        block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "NearestMemory" in block
    )
    assert own.count("\n") == 15
    namespace: dict = {}
    exec(own + use, namespace)
    assert type(namespace["model"].memory_attention).__name__ == "NearestMemory"
    masks, keys = torch.rand(3, 4, 4), torch.randn(3, 2, 4, 4)
    memory_masks, memory_keys = torch.rand(3, 4, 4), torch.randn(3, 2, 4, 4)
    memory_keys[2] = keys[0]
    edges = torch.tensor([[0, 2, 1], [0, 0, 2]])
    out = namespace["layer"].forward_graph(masks, keys, memory_masks, memory_keys, edges)
    assert_close(out[:2], torch.stack([(masks[0] + memory_masks[2]) / 2, masks[1]]))
    assert_close(out[2], (masks[2] + memory_masks[1]) / 2)
