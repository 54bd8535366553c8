import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.utils import scatter

from stg_pyg.errors import InputError
from stg_pyg.nn import JointMemoryAttention, MeanMemory, MemoryAttention, resolve_temporal_conv
from stg_pyg.nn.temporal.registry import LAYERS

CLASSES = {"memory_attention": MemoryAttention, "joint": JointMemoryAttention, "mean": MeanMemory}


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


def test_arguments():
    layer = resolve_temporal_conv("joint", top_k=7, temperature=0.5)
    assert (layer.top_k, layer.temperature) == (7, 0.5)


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
    assert LAYERS.options("joint", False, options) == LAYERS.options(MemoryAttention, False, options) == options
    assert LAYERS.options("mean", False, options) == {"update": "gated"}
    assert LAYERS.options(LatestMask, False, options) == LAYERS.options(MeanMemory(), False, options) == {}


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
