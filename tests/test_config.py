import dataclasses
import json

import pytest

from stg_pyg import InputError, STGConfig
from stg_pyg.config import SelectionConfig, SpatialConfig, paths

PRESETS = {
    "default": STGConfig,
    "paper": STGConfig.paper,
    "small": STGConfig.small,
    "untrained": STGConfig.untrained,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("motion.enabled", True),
        ("motion.steps", 10),
        ("warping.gaps", (1,)),
        ("proposals.crop_margin", 0.15),
        ("assignment.min_box_iou", 0.0),
        ("assignment.min_mask_iou", 0.0),
        ("spatial.enabled", True),
        ("spatial.conv", "stg"),
        ("spatial.num_steps", 2),
        ("spatial.alpha", 0.7),
        ("spatial.edge_iou", "box"),
        ("spatial.node_gate", False),
        ("selection.lambda1", 0.4),
        ("selection.quality_weight", 0.0),
        ("selection.thr", 0.2),
        ("temporal.enabled", True),
        ("temporal.conv", "memory_attention"),
        ("temporal.update", "paper"),
        ("temporal.normalize_keys", False),
        ("temporal.temperature", 1.0),
        ("memory.frames", None),
        ("memory.dtype", "float32"),
        ("memory.cell", 1),
        ("recovery.redetect", False),
        ("recovery.complete", False),
        ("loss.gamma", 100.0),
        ("loss.reading", "logits"),
    ],
)
def test_paper_preset_has_the_constants_as_printed(path, value):
    assert STGConfig.paper().get(path) == value
    assert STGConfig() == STGConfig.paper()


def test_small_preset_keeps_what_the_paper_fixes():
    small, paper = STGConfig.small(), STGConfig.paper()
    assert small != paper
    assert small.motion.enabled and small.spatial.enabled and small.temporal.enabled
    assert small.warping.gaps[0] == 1 and list(small.warping.gaps) == sorted(set(small.warping.gaps))
    assert 0 < small.selection.thr < 1 and 0 <= small.selection.lambda1 <= 1 and 0 <= small.spatial.alpha <= 1
    assert small.memory.frames is None or small.memory.frames >= 1


def test_untrained_preset_is_small_without_what_must_be_trained():
    changed = {path for path in paths() if STGConfig.untrained().get(path) != STGConfig.small().get(path)}
    assert changed == {"spatial.node_gate", "selection.quality_weight", "temporal.enabled", "warping.gaps"}
    untrained = STGConfig.untrained()
    assert not untrained.spatial.node_gate and not untrained.temporal.enabled
    assert (untrained.selection.quality_weight, untrained.warping.gaps) == (0.0, (1,))


def test_paths_name_every_constant_once():
    known = paths()
    assert len(known) == len(set(known))
    nested = STGConfig().to_dict()
    assert known == [f"{part}.{name}" for part, values in nested.items() for name in values]
    for path in known:
        part, name = path.split(".")
        assert STGConfig.small().get(path) == getattr(getattr(STGConfig.small(), part), name)


@pytest.mark.parametrize("preset", PRESETS)
def test_round_trip(preset):
    config = PRESETS[preset]()
    assert STGConfig.from_dict(config.to_dict()) == config
    again = STGConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and isinstance(again.warping.gaps, tuple) and hash(again) == hash(config)


OTHER_VALUES = {
    "spatial.edge_iou": "box",
    "spatial.features": "given",
    "temporal.update": "gated",
    "loss.reading": "probability",
    "spatial.conv": "mean",
    "temporal.conv": "joint",
    "memory.dtype": "float16",
    "proposals.evidence": ("q1", "blank"),
    "memory.frames": 3,
    "online.layers": "decoder",
    "online.update_layers": "decoder",
    "assignment.familiar_size": (0.5, 2.0),
}


def other_value(path, value):
    if path in OTHER_VALUES:
        return OTHER_VALUES[path]
    by_type = {bool: lambda v: not v, tuple: lambda v: (*v, 9)}
    return by_type.get(type(value), lambda v: v + 1)(value)


@pytest.mark.parametrize("path", paths())
def test_round_trip_of_every_constant(path):
    base = STGConfig()
    if path in ("spatial.edge_iou", "spatial.min_edge_iou"):
        base = base.replace("spatial.edge_iou", "mask")
    other = other_value(path, base.get(path))
    changed = base.replace(path, other)
    assert changed.get(path) == other != base.get(path)
    assert [name for name in paths() if changed.get(name) != base.get(name)] == [path]
    assert STGConfig.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


def test_pruned_edges_need_the_iou_of_masks():
    for refused in (
        lambda: STGConfig().replace("spatial.min_edge_iou", 0.3),
        lambda: SpatialConfig(min_edge_iou=0.3),
        lambda: STGConfig.small().replace("spatial.edge_iou", "box"),
    ):
        with pytest.raises(InputError, match=r'spatial\.min_edge_iou.*spatial\.edge_iou="mask"'):
            refused()


@pytest.mark.parametrize("order", [1, -1], ids=["needing first", "needed first"])
def test_changes_are_checked_against_each_other_when_all_are_made(order):
    for changes in (
        {"spatial.min_edge_iou": 0.3, "spatial.edge_iou": "mask"},
        {"proposals.evidence": ("q2", "p"), "warping.gaps": (1, 2)},
    ):
        changed = STGConfig().replace(dict(list(changes.items())[::order]))
        assert {path: changed.get(path) for path in changes} == changes


@pytest.mark.parametrize("gaps", [(), (2,), (2, 1), (1, 0), (1, -3)])
def test_gaps_begin_with_the_frame_before(gaps):
    with pytest.raises(InputError, match=r"warping\.gaps must begin with 1"):
        STGConfig().replace("warping.gaps", gaps)


@pytest.mark.parametrize("cell", [0, -2])
def test_a_cell_of_the_memory_has_a_pixel(cell):
    with pytest.raises(InputError, match=rf"memory\.cell must be at least 1, not {cell}"):
        STGConfig().replace("memory.cell", cell)


@pytest.mark.parametrize(
    ("evidence", "problem"), [(("q2", "p"), "some of p, .*q1, not q2"), (("q1",), "one that is always there: p, ")]
)
def test_evidence_is_known_and_there_in_every_frame(evidence, problem):
    with pytest.raises(InputError, match=r"proposals\.evidence must .*" + problem):
        STGConfig().replace("proposals.evidence", evidence)
    changed = STGConfig().replace({"warping.gaps": (1, 2), "proposals.evidence": ("q2", "p")})
    assert changed.proposals.evidence == ("q2", "p")


@pytest.mark.parametrize("path", ["proposals.own_evidence", "proposals.resegment"])
def test_given_features_exclude_proposals_without(path):
    with pytest.raises(InputError, match=r'spatial\.features="given" excludes'):
        STGConfig().replace({"spatial.features": "given", path: True})


def test_missing_names_take_the_defaults():
    assert STGConfig.from_dict({}) == STGConfig()
    assert STGConfig.from_dict({"selection": {"thr": 0.3}}) == STGConfig().replace("selection.thr", 0.3)


UNKNOWN = [
    ("spatial.alhpa", r"spatial\.alpha"),
    ("selection.treshold_thr", r"selection\.thr"),
    ("memory_frames", r"memory\.frames"),
    ("memory.frames.first", r"memory\.frames"),
    ("temporal", r"temporal\."),
    ("spatial", r"spatial\."),
]


@pytest.mark.parametrize(("path", "near"), UNKNOWN)
def test_unknown_paths_are_refused_with_near_ones(path, near):
    for refused in (lambda: STGConfig().replace(path, 1), lambda: STGConfig().get(path)):
        with pytest.raises(InputError, match=rf"there is no constant {path}; did you mean .*{near}"):
            refused()


def test_a_path_like_no_other_is_refused_with_the_parts():
    with pytest.raises(InputError, match=r"there is no constant zzz; the parts are motion, warping, .*online"):
        STGConfig().get("zzz")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        pytest.param({"spatial": {"alpha": 0.3, "of_the_future": 1}}, r"no constant spatial\.of_the_future", id="name"),
        pytest.param({"future": {"alpha": 0.3}}, r"no constant future\.alpha", id="part"),
        pytest.param({"alpha": 0.3}, "another version of stg_pyg", id="flat"),
    ],
)
def test_unknown_names_are_refused(values, problem):
    with pytest.raises(InputError, match=problem):
        STGConfig.from_dict(STGConfig().to_dict() | values)


WRONG = [
    ("spatial.alpha", "0.1"),
    ("spatial.alpha", None),
    ("spatial.alpha", True),
    ("spatial.num_steps", 2.0),
    ("spatial.num_steps", True),
    ("spatial.enabled", 1),
    ("spatial.conv", None),
    ("memory.frames", "8"),
    ("memory.frames", 8.0),
    ("warping.gaps", 1),
    ("warping.gaps", (1, "2")),
    ("warping.gaps", (1, 2.0)),
    ("proposals.evidence", "p"),
    ("assignment.familiar_size", (0.6, "1.3")),
]


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_values_of_another_type_are_refused(path, value):
    part, name = path.split(".")
    for refused in (lambda: STGConfig().replace(path, value), lambda: STGConfig.from_dict({part: {name: value}})):
        with pytest.raises(InputError) as refusal:
            refused()
        assert str(refusal.value).startswith(f"{path} = {value!r} is no value that it takes")


def test_values_of_a_type_that_fits_are_taken():
    changed = STGConfig().replace(
        {"loss.gamma": 1, "memory.frames": None, "warping.gaps": [1, 2], "assignment.familiar_size": (1, 2.5)}
    )
    assert (changed.loss.gamma, changed.memory.frames, changed.warping.gaps) == (1, None, (1, 2))
    assert changed.assignment.familiar_size == (1, 2.5)
    assert STGConfig.small().replace("memory.frames", None).memory.frames is None


def test_to_dict_is_a_copy():
    config = STGConfig()
    config.to_dict()["selection"]["thr"] = 0.9
    assert config.selection.thr == 0.2


def test_replace_gives_a_copy():
    config = STGConfig()
    changed = config.replace({"spatial.alpha": 0.1, "warping.gaps": (1, 2)})
    assert (changed.spatial.alpha, changed.warping.gaps) == (0.1, (1, 2))
    assert (config.spatial.alpha, config.warping.gaps) == (0.7, (1,))
    assert config.replace({}) == config
    assert config.replace("spatial.alpha", 0.1) == config.replace({"spatial.alpha": 0.1})


def test_parts_may_be_given_whole():
    changed = STGConfig(selection=SelectionConfig(thr=0.5))
    assert changed == STGConfig().replace("selection.thr", 0.5) and changed.spatial == STGConfig().spatial


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        STGConfig().selection = SelectionConfig(thr=0.5)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        STGConfig().selection.thr = 0.5  # type: ignore[misc]


@pytest.mark.parametrize(
    "path", ["spatial.features", "spatial.edge_iou", "temporal.update", "loss.reading", "memory.dtype"]
)
def test_unknown_choices_are_refused(path):
    with pytest.raises(InputError, match=rf"{path} must be one of .*not 'other'"):
        STGConfig().replace(path, "other")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("scene.gaps", (0, 1)),
        ("scene.gaps", ()),
        ("scene.top_k", 0),
        ("scene.detail", 0),
        ("selection.q_weight", -1.0),
        ("scene.temperature", 0.0),
        ("scene.size", 16),
        ("scene.radius", -1),
        ("scene.weight", -0.5),
        ("scene.blind", -1),
    ],
)
def test_constants_of_the_memory_of_whole_frames_are_checked(path, value):
    with pytest.raises(InputError, match=path):
        STGConfig.small().replace(path, value)
