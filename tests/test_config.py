import dataclasses
import json

import pytest

from stg_pyg import InputError, STGConfig

PRESETS = {"default": STGConfig, "paper": STGConfig.paper, "small": STGConfig.small}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("motion_steps", 10),
        ("use_motion", True),
        ("use_spatial", True),
        ("use_temporal", True),
        ("min_box_iou", 0.0),
        ("min_mask_iou", 0.0),
        ("alpha", 0.7),
        ("edge_iou", "box"),
        ("node_gate", False),
        ("num_steps", 2),
        ("spatial_conv", "stg"),
        ("lambda1", 0.4),
        ("quality_weight", 0.0),
        ("thr", 0.2),
        ("memory_frames", None),
        ("normalize_keys", False),
        ("temperature", 1.0),
        ("temporal_update", "paper"),
        ("temporal_conv", "memory_attention"),
        ("memory_dtype", "float32"),
        ("gamma", 100.0),
        ("loss_reading", "logits"),
        ("crop_margin", 0.15),
        ("gaps", (1,)),
        ("redetect", False),
        ("complete", False),
    ],
)
def test_paper_preset_has_the_constants_as_printed(name, value):
    assert getattr(STGConfig.paper(), name) == value
    assert STGConfig() == STGConfig.paper()


def test_small_preset_keeps_what_the_paper_fixes():
    small, paper = STGConfig.small(), STGConfig.paper()
    assert small != paper
    assert small.use_motion and small.use_spatial and small.use_temporal
    assert small.gaps[0] == 1 and list(small.gaps) == sorted(set(small.gaps))
    assert 0 < small.thr < 1 and 0 <= small.lambda1 <= 1 and 0 <= small.alpha <= 1
    assert small.memory_frames is None or small.memory_frames >= 1


@pytest.mark.parametrize("preset", PRESETS)
def test_round_trip(preset):
    config = PRESETS[preset]()
    assert STGConfig.from_dict(config.to_dict()) == config
    again = STGConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and isinstance(again.gaps, tuple) and hash(again) == hash(config)


OTHER_NAMES = {
    "spatial.edge_iou": "mask",
    "spatial.features": "given",
    "temporal.update": "gated",
    "loss.reading": "probability",
    "spatial.conv": "mean",
    "temporal.conv": "joint",
    "memory.dtype": "float16",
}
OTHER_VALUES = {"proposals.evidence": ("q1", "blank")}


def other_value(name, value):
    if isinstance(value, str):
        return OTHER_NAMES[name]
    by_type = {bool: lambda v: not v, tuple: lambda v: (*v, 9), type(None): lambda v: 3}
    return by_type.get(type(value), lambda v: v + 1)(value)


def test_round_trip_of_every_field():
    base = STGConfig().replace({"spatial.edge_iou": "mask", "spatial.min_edge_iou": 0.1})
    for field in dataclasses.fields(STGConfig):
        other = OTHER_VALUES.get(field.name)
        if other is None:
            other = "mask" if field.name == "edge_iou" else other_value(field.name, getattr(base, field.name))
        changed = base.replace({field.name: other})
        assert changed != base or field.name == "edge_iou"
        assert STGConfig.from_dict(changed.to_dict()) == changed


def test_pruned_edges_need_the_iou_of_masks():
    with pytest.raises(InputError, match=r'min_edge_iou.*edge_iou="mask"'):
        STGConfig().replace({"spatial.min_edge_iou": 0.3})


@pytest.mark.parametrize(
    ("evidence", "problem"), [(("q2", "p"), "some of p, .*q1, not q2"), (("q1",), "one that is always there: p, ")]
)
def test_evidence_is_known_and_there_in_every_frame(evidence, problem):
    with pytest.raises(InputError, match=problem):
        STGConfig().replace({"proposals.evidence": evidence})
    assert STGConfig().replace({"warping.gaps": (1, 2), "proposals.evidence": ("q2", "p")}).evidence == ("q2", "p")


@pytest.mark.parametrize("name", ["own_evidence", "resegment"])
def test_given_features_exclude_proposals_without(name):
    with pytest.raises(InputError, match=r'features="given" excludes'):
        STGConfig().replace({**{"features": "given", name: True}})


def test_missing_names_take_the_defaults():
    assert STGConfig.from_dict({}) == STGConfig()
    assert STGConfig.from_dict({"selection.thr": 0.3}) == STGConfig().replace({"selection.thr": 0.3})


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"another_option, beta.*version"):
        STGConfig.from_dict(STGConfig().to_dict() | {"beta": 0.3, "another_option": 1})


def test_to_dict_is_a_copy():
    config = STGConfig()
    config.to_dict()["thr"] = 0.9
    assert config.selection.thr == 0.2


def test_options_give_a_copy():
    config = STGConfig()
    changed = config.replace({"spatial.alpha": 0.1, "warping.gaps": (1, 2)})
    assert (changed.alpha, changed.gaps) == (0.1, (1, 2))
    assert (config.spatial.alpha, config.warping.gaps) == (0.7, (1,))
    assert config.with_options() == config
    with pytest.raises(TypeError, match="beta"):
        config.with_options(beta=0.9)


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        STGConfig().thr = 0.5  # type: ignore[misc]


@pytest.mark.parametrize("name", ["edge_iou", "temporal_update", "loss_reading", "memory_dtype"])
def test_unknown_choices_are_refused(name):
    with pytest.raises(InputError, match=rf"{name} must be one of .*not 'other'"):
        STGConfig().replace({name: "other"})
