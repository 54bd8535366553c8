"""Layers come back from a checkpoint as they were, or are refused when it is written."""

from pathlib import Path

import own_layers
import pytest
import torch
from layer_outcomes import NAMES, stated
from own_layers import Blend, Halved, Plain
from torch_geometric.nn import GraphConv
from train_cases import TINY, make_tiny

from experiments.common import checkpoints
from experiments.runs.job import Job, settings_of
from experiments.runs.rows import Row
from stg_pyg import InputError
from stg_pyg.graph.spatial import fully_connected_edge_index
from stg_pyg.model.layers import make_spatial, make_temporal, source_files, with_named_layers
from stg_pyg.nn import (
    AttentionPropagation,
    GRUPropagation,
    JointMemoryAttention,
    MaskPropagation,
    MeanMemory,
    MeanPropagation,
    call_spatial_conv,
    resolve_spatial_conv,
    resolve_temporal_conv,
)

CONFIG = TINY.config
STATED = stated()
WORKING = [name for name in NAMES if STATED[name]["small"] == "works"]
SPATIAL = {
    **{name: name for name in WORKING},
    "GraphConv:aggr=max": "GraphConv:aggr=max",
    "ChebConv:K=2": "ChebConv:K=2",
    "own_layers:Blend:share=0.25,kind=max": "own_layers:Blend:share=0.25,kind=max",
    "mean as an instance": MeanPropagation(),
    "steps": MaskPropagation(3),
    "heads": AttentionPropagation(heads=4, hidden_channels=3),
    "kernel": GRUPropagation(kernel_size=5),
    "own class": resolve_spatial_conv(Blend, share=0.75),
    "without arguments": Plain(),
}
TEMPORAL = {
    "memory_attention": "memory_attention",
    "joint:top_k=5": "joint:top_k=5",
    "own": "own_layers:Halved:share=0.25",
    "mean as an instance": MeanMemory(update="paper"),
    "joint as an instance": JointMemoryAttention(temperature=0.3, top_k=2),
}


def run_spatial(layer):
    edges, generator = fully_connected_edge_index(3), torch.Generator().manual_seed(0)
    x, attr = torch.rand(3, 1, 6, 5, generator=generator), torch.rand(6, 2, generator=generator)
    rest = {"edge_weight": attr.mean(1), "edge_attr": attr, "batch": torch.zeros(3, dtype=torch.long)}
    with torch.no_grad():
        return call_spatial_conv(layer, x, edges, feat=torch.rand(3, 32, generator=generator), **rest)


def run_temporal(layer):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(*shape, 4, 4, generator=generator) for shape in ((1,), (1, 3), (2,), (2, 3))]
    with torch.no_grad():
        return layer.forward_graph(*inputs, torch.tensor([[0, 1], [0, 0]]))


def changed(layer):
    """Weights that are not those of a new layer."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.125)
    return layer


@pytest.mark.parametrize("case", SPATIAL)
def test_spatial_layers_come_back(case):
    layer = make_spatial(SPATIAL[case], CONFIG)
    run_spatial(layer)  # shapes what is lazy
    before = run_spatial(changed(layer))
    config = with_named_layers(CONFIG, layer, make_temporal("mean", CONFIG))
    back = make_spatial(type(CONFIG).from_dict(config.to_dict()).spatial.conv, config)
    back.load_state_dict(layer.state_dict())
    assert torch.equal(run_spatial(back), before) and type(back) is type(layer)


@pytest.mark.parametrize("case", TEMPORAL)
def test_temporal_layers_come_back(case):
    layer = make_temporal(TEMPORAL[case], CONFIG)
    config = with_named_layers(CONFIG, make_spatial("stg", CONFIG), layer)
    back = make_temporal(config.temporal.conv, config)
    assert type(back) is type(layer) and str(back) == str(layer)
    before = run_temporal(changed(layer))
    back.load_state_dict(layer.state_dict())
    assert torch.equal(run_temporal(back), before)


def test_texts_in_the_configuration():
    joint, named = JointMemoryAttention(top_k=2), make_spatial("GraphConv:aggr=mean", CONFIG)
    config = CONFIG.replace("spatial.conv", "GraphConv:aggr=mean")
    assert with_named_layers(config, named, joint).spatial.conv == "GraphConv:aggr=mean"
    text = with_named_layers(CONFIG, MaskPropagation(3), joint)
    assert text.spatial.conv == "stg:num_steps=3,backend=auto" and text.temporal.conv.startswith("joint:normalize_keys")
    own = with_named_layers(CONFIG, resolve_spatial_conv(Blend, share=0.75), make_temporal("own_layers:Halved", CONFIG))
    assert (own.spatial.conv, own.temporal.conv) == (
        "own_layers:Blend:share=0.75,kind=mean",
        "own_layers:Halved:share=0.5",
    )
    as_configured = MaskPropagation(CONFIG.spatial.num_steps), make_temporal("memory_attention", CONFIG)
    assert with_named_layers(CONFIG, *as_configured) == CONFIG, "the number of steps stays the configuration's"


def misled():
    layer = MaskPropagation(3)
    layer.num_steps = 4
    return layer


def local_class():
    class Inner(Plain): ...

    return resolve_spatial_conv(Inner)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Blend(0.75), "Blend cannot be stored: what it was made with is not known; make the layer by its name"),
        (lambda: resolve_spatial_conv(GraphConv(1, 1)), "GraphConv cannot be stored: what it was made with"),
        (local_class, "Inner cannot be stored: .*<locals>.*move it into a module"),
        (misled, "MaskPropagation cannot be stored: it was changed since it was made"),
        (lambda: resolve_spatial_conv(Blend, share=torch.tensor(0.5)), "argument share is a Tensor, no plain value"),
    ],
)
def test_what_cannot_be_named_is_refused_when_it_is_stored(make, message, tmp_path):
    model = checkpoints.build_model(TINY)
    model.spatial_conv = make()
    with pytest.raises(InputError, match=message) as error:
        checkpoints.save_model(tmp_path / "c.pt", model, TINY, 0)
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_file_with_layers_of_ones_own(tmp_path, monkeypatch):
    make_tiny(monkeypatch)
    model = checkpoints.build_model(TINY)
    model.spatial_conv, model.memory_attention = changed(resolve_spatial_conv(Blend, share=0.75)), Halved()
    with pytest.raises(InputError, match="Halved cannot be stored"):
        checkpoints.save_model(tmp_path / "c.pt", model, TINY, 0)
    model.memory_attention = resolve_temporal_conv(Halved, share=0.25)
    model.spatial_conv.share.data.fill_(1e5)  # beyond half precision
    before = torch.get_rng_state()
    checkpoints.save_model(tmp_path / "c.pt", model, TINY, 0)
    assert torch.equal(before, torch.get_rng_state())
    back, _ = checkpoints.load_model(tmp_path / "c.pt")
    assert back.config.spatial.conv == "own_layers:Blend:share=0.75,kind=mean"
    assert (type(back.spatial_conv), type(back.memory_attention)) == (Blend, Halved)
    assert (float(back.spatial_conv.share), back.memory_attention.share) == (1e5, 0.25)
    assert torch.equal(run_spatial(back.spatial_conv), run_spatial(model.spatial_conv))
    assert isinstance(checkpoints.build_model(TINY, back.config).spatial_conv, Blend), "as rows and variants are made"

    content = torch.load(tmp_path / "c.pt", weights_only=True)
    for text, message in (
        ("gone:Blend", "gone:Blend: cannot be imported .* PYTHONPATH"),
        ("own_layers:torch", "no torch.nn.Module"),
        ("subprocess:Popen:args=ls", "no layer is there"),
    ):
        content["config"]["spatial"]["conv"] = text
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(InputError, match=message) as error:
            checkpoints.load_model(tmp_path / "other.pt")
        assert str(error.value).startswith(f"{tmp_path / 'other.pt'}: ")


def test_results_depend_on_the_program_of_a_layer_and_of_modules_beside_it(tmp_path, monkeypatch):
    package, text = tmp_path / "layers_of_parts", Path(own_layers.__file__).read_text()
    package.mkdir()
    for name, content in (
        ("__init__", ""),
        ("other", ""),
        ("base", text),
        ("blends", "from layers_of_parts.base import Blend\n\n\nclass Mine(Blend):\n    pass\n"),
    ):
        (package / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    config = CONFIG.replace("spatial.conv", "layers_of_parts.blends:Mine")
    assert source_files(config) == [package / "base.py", package / "blends.py"] and source_files(CONFIG) == []
    job = Job(None, TINY, "test", None, (Row("masks", "", config),), tmp_path, "cpu", 0)
    before = settings_of(job)
    (package / "base.py").write_text(text.replace("0.5 * self.share", "0.6 * self.share"))
    assert settings_of(job) != before
