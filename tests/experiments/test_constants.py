"""The argument ``--set``."""

from pathlib import Path

import pytest
import torch

from experiments.common import checkpoints
from experiments.common.constants import check_weights, with_constants
from experiments.common.layers_option import exchanged
from experiments.common.presets import PRESETS
from stg_pyg import InputError, STGConfig

PRESET = PRESETS["synthetic-small"]
CONFIG = STGConfig.small()


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("spatial.alpha=0.1", 0.1),
        ("spatial.alpha=1", 1),
        ("warping.gaps=1,2,4", (1, 2, 4)),
        ("warping.gaps=(1, 3)", (1, 3)),
        ("warping.gaps=1,", (1,)),
        ("memory.frames=none", None),
        ("memory.frames=None", None),
        ("recovery.redetect=false", False),
        ("recovery.redetect=True", True),
        ("spatial.conv=GraphConv:aggr=mean", "GraphConv:aggr=mean"),
        ("temporal.update=paper", "paper"),
        ('temporal.update="paper"', "paper"),
        ("assignment.familiar_size=0.5,2.0", (0.5, 2.0)),
    ],
)
def test_values_as_they_are_written(change, value):
    path = change.partition("=")[0]
    assert with_constants(CONFIG, [change]) == CONFIG.replace(path, value)
    assert with_constants(CONFIG, [change]).get(path) == value


def test_several_are_taken_at_once_and_the_last_counts():
    changes = ["spatial.edge_iou=box", "spatial.min_edge_iou=0.0", "spatial.alpha=0.1", "spatial.alpha=0.2"]
    expected = {"spatial.edge_iou": "box", "spatial.min_edge_iou": 0.0, "spatial.alpha": 0.2}
    assert with_constants(CONFIG, changes) == CONFIG.replace(expected)
    assert with_constants(CONFIG, []) == CONFIG


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("spatial.alpha", "no PATH=VALUE"),
        ("spatial.alhpa=0.1", r"no constant spatial\.alhpa; did you mean spatial\.alpha"),
        ("alpha=0.1", r"no constant alpha; did you mean .*spatial\.alpha"),
        ("spatial.alpha=much", r"spatial\.alpha = 'much' is no value"),
        ("warping.gaps=1", r"warping\.gaps = 1 is no value"),
        ("memory.cell=0", r"memory\.cell must be at least 1"),
    ],
)
def test_what_is_refused_names_the_option(change, words):
    with pytest.raises(InputError, match=words) as error:
        with_constants(CONFIG, [change])
    assert str(error.value).startswith(f"--set {change}: ") and "\n" not in str(error.value)


def test_constants_that_ask_for_weights_that_are_not_there_are_refused():
    torch.manual_seed(0)
    plain = PRESET.config.without_learned_parts()
    model = checkpoints.build_model(PRESET, plain)
    check_weights(model, PRESET, plain.replace("spatial.alpha", 0.3), Path("c.pt"))
    with pytest.raises(InputError, match=r"^--set: c\.pt has no weights of node_gate"):
        check_weights(model, PRESET, plain.replace("spatial.node_gate", True), Path("c.pt"))


def test_the_same_weights_run_under_other_constants():
    torch.manual_seed(0)
    model = checkpoints.build_model(PRESET)
    other = exchanged(model, PRESET, PRESET.config.replace({"spatial.alpha": 0.3, "spatial.node_gate": False}))
    assert other.config.spatial.alpha == 0.3 and other.node_gate is None and not other.training
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
