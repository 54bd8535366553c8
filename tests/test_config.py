import dataclasses
import json

import pytest

from stg_pyg import InputError, STGConfig
from stg_pyg.config import SelectionConfig, SpatialConfig, paths

PRINTED = {
    "motion": {"enabled": True, "steps": 10},
    "warping": {"gaps": (1,)},
    "proposals": {"crop_margin": 0.15},
    "assignment": {"min_box_iou": 0.0, "min_mask_iou": 0.0},
    "spatial": {"conv": "stg", "num_steps": 2, "alpha": 0.7, "edge_iou": "box", "node_gate": False},
    "selection": {"lambda1": 0.4, "quality_weight": 0.0, "thr": 0.2},
    "temporal": {"conv": "memory_attention", "update": "paper", "normalize_keys": False, "temperature": 1.0},
    "memory": {"frames": None, "dtype": "float32", "cell": 1},
    "recovery": {"redetect": False, "complete": False},
    "loss": {"gamma": 100.0, "reading": "logits"},
}


def test_paper_preset_has_the_constants_as_printed():
    paper = STGConfig.paper()
    for part, values in PRINTED.items():
        assert {name: paper.get(f"{part}.{name}") for name in values} == values
    assert paper.spatial.enabled and paper.temporal.enabled and STGConfig() == paper


def test_untrained_preset_is_small_without_what_must_be_trained():
    small, untrained = STGConfig.small(), STGConfig.untrained()
    changed = {path: untrained.get(path) for path in paths() if untrained.get(path) != small.get(path)}
    expected = {"spatial.node_gate": False, "selection.quality_weight": 0.0, "temporal.enabled": False}
    assert changed == expected | {"warping.gaps": (1,)}
    assert small.motion.enabled and small.spatial.enabled and small.temporal.enabled


@pytest.mark.parametrize("preset", ["paper", "small", "untrained"])
def test_round_trip(preset):
    config = getattr(STGConfig, preset)()
    assert STGConfig.from_dict(config.to_dict()) == config
    again = STGConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and isinstance(again.warping.gaps, tuple) and hash(again) == hash(config)
    config.to_dict()["selection"]["thr"] = 0.9
    assert again == config
    assert paths() == [f"{part}.{name}" for part, values in config.to_dict().items() for name in values]


OTHER_VALUES = {
    "spatial.edge_iou": "box",
    "spatial.features": "given",
    "temporal.update": "gated",
    "loss.reading": "probability",
    "loss.reduction": "sum",
    "spatial.conv": "mean",
    "temporal.conv": "joint",
    "memory.dtype": "float16",
    "proposals.evidence": ("q1", "blank"),
    "memory.frames": 3,
    "online.layers": "decoder",
    "online.update_layers": "decoder",
    "assignment.familiar_size": (0.5, 2.0),
}


@pytest.mark.parametrize("path", paths())
def test_every_constant_can_be_changed_alone(path):
    base = STGConfig()
    if path in ("spatial.edge_iou", "spatial.min_edge_iou"):
        base = base.replace("spatial.edge_iou", "mask")
    value = base.get(path)
    if (other := OTHER_VALUES.get(path)) is None:
        other = not value if isinstance(value, bool) else (*value, 9) if isinstance(value, tuple) else value + 1
    changed = base.replace(path, other)
    assert changed.get(path) == other != value == base.get(path)
    assert [name for name in paths() if changed.get(name) != base.get(name)] == [path]
    assert STGConfig.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
    assert changed == base.replace({path: other})


@pytest.mark.parametrize("order", [1, -1], ids=["needing first", "needed first"])
def test_changes_are_checked_against_each_other_when_all_are_made(order):
    for changes in (
        {"spatial.min_edge_iou": 0.3, "spatial.edge_iou": "mask"},
        {"proposals.evidence": ("q2", "p"), "warping.gaps": (1, 2)},
    ):
        changed = STGConfig().replace(dict(list(changes.items())[::order]))
        assert {path: changed.get(path) for path in changes} == changes


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"spatial.min_edge_iou": 0.3}, r'spatial\.min_edge_iou.*spatial\.edge_iou="mask"'),
        *(({"warping.gaps": gaps}, r"warping\.gaps must begin with 1") for gaps in ((), (2, 1), (1, 0), (1, -3))),
        ({"memory.cell": 0}, r"memory\.cell must be at least 1, not 0"),
        ({"proposals.evidence": ("q2", "p")}, r"proposals\.evidence must .*some of p, .*q1, .*not q2"),
        ({"proposals.evidence": ("q1",)}, r"proposals\.evidence must .*one that is always there: p, "),
        ({"spatial.features": "given", "proposals.own_evidence": True}, r'spatial\.features="given" excludes'),
        ({"spatial.features": "given", "proposals.resegment": True}, r'spatial\.features="given" excludes'),
        ({"scene.gaps": (0, 1)}, "scene.gaps"),
        ({"scene.gaps": ()}, "scene.gaps"),
        ({"scene.top_k": 0}, "scene.top_k"),
        ({"scene.detail": 0}, "scene.detail"),
        ({"selection.q_weight": -1.0}, "selection.q_weight"),
        ({"scene.temperature": 0.0}, "scene.temperature"),
        ({"scene.size": 16}, "scene.size"),
        ({"scene.radius": -1}, "scene.radius"),
        ({"scene.weight": -0.5}, "scene.weight"),
        ({"scene.blind": -1}, "scene.blind"),
        *(
            ({path: "other"}, rf"{path} must be one of .*not 'other'")
            for path in ("spatial.features", "spatial.edge_iou", "temporal.update", "loss.reading", "memory.dtype")
        ),
        *(({f"online.{name}": "other"}, f"online.{name} must be one of") for name in ("layers", "update_layers")),
    ],
)
def test_constants_that_do_not_fit_are_refused(changes, problem):
    with pytest.raises(InputError, match=problem):
        STGConfig().replace(changes)


def test_parts_are_checked_alone_and_may_be_given_whole():
    with pytest.raises(InputError, match="edge_iou"):
        SpatialConfig(min_edge_iou=0.3)
    assert STGConfig(selection=SelectionConfig(thr=0.5)) == STGConfig().replace("selection.thr", 0.5)
    assert STGConfig.from_dict({}) == STGConfig()
    assert STGConfig.from_dict({"selection": {"thr": 0.5}}) == STGConfig().replace("selection.thr", 0.5)
    for holder, name in ((STGConfig(), "selection"), (STGConfig().selection, "thr")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(holder, name, None)


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("spatial.alhpa", r"did you mean .*spatial\.alpha"),
        ("memory_frames", r"did you mean .*memory\.frames"),
        ("memory.frames.first", r"did you mean .*memory\.frames"),
        ("temporal", r"did you mean .*temporal\."),
        ("zzz", "the parts are motion, warping, .*online"),
    ],
)
def test_unknown_paths_are_refused_with_near_ones(path, near):
    for refused in (lambda: STGConfig().replace(path, 1), lambda: STGConfig().get(path)):
        with pytest.raises(InputError, match=rf"there is no constant {path}; {near}"):
            refused()


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"spatial": {"alpha": 0.3, "of_the_future": 1}}, r"no constant spatial\.of_the_future"),
        ({"future": {"alpha": 0.3}}, r"no constant future\.alpha"),
        ({"alpha": 0.3}, "another version of stg_pyg"),
    ],
)
def test_unknown_names_are_refused(values, problem):
    with pytest.raises(InputError, match=problem):
        STGConfig.from_dict(STGConfig().to_dict() | values)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spatial.alpha", "0.1"),
        ("spatial.alpha", None),
        ("spatial.alpha", True),
        ("spatial.num_steps", 2.0),
        ("spatial.enabled", 1),
        ("spatial.conv", None),
        ("memory.frames", 8.0),
        ("warping.gaps", 1),
        ("warping.gaps", (1, 2.0)),
        ("proposals.evidence", "p"),
        ("assignment.familiar_size", (0.6, "1.3")),
    ],
)
def test_values_of_another_type_are_refused(path, value):
    part, name = path.split(".")
    for refused in (lambda: STGConfig().replace(path, value), lambda: STGConfig.from_dict({part: {name: value}})):
        with pytest.raises(InputError) as refusal:
            refused()
        assert str(refusal.value).startswith(f"{path} = {value!r} is no value that it takes")


def test_values_of_a_type_that_fits_are_taken():
    changes = {"loss.gamma": 1, "memory.frames": None, "assignment.familiar_size": (1, 2.5)}
    changed = STGConfig.small().replace(changes | {"warping.gaps": [1, 2]})
    assert {path: changed.get(path) for path in changes} == changes and changed.warping.gaps == (1, 2)
