"""Models are written by the library and come back, with nothing of the commands."""

import pytest
import torch
from model_cases import tiny

from stg_pyg import InputError, STGConfig, STGNet, VideoSegmenter
from stg_pyg.model import checkpoint
from stg_pyg.model.checkpoint import load_model, save_model
from stg_pyg.nn import MeanPropagation

CONFIG = STGConfig.small().replace({"temporal.key_size": 32, "spatial.alpha": 0.3, "warping.gaps": (1, 3)})


def small(config=CONFIG, width=4):
    torch.manual_seed(0)
    return STGNet.small(config, width)


def assert_halves(found, model):
    state = model.state_dict()
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(found[name], value.half().float() if value.is_floating_point() else value)


@pytest.mark.parametrize(
    "make", [small, lambda: small(width=6), lambda: STGNet.untrained(CONFIG.without_learned_parts())]
)
def test_models_come_back(tmp_path, make):
    model = make().train()
    model.crop_size = 48
    save_model(tmp_path / "c.pt", model)
    back = load_model(tmp_path / "c.pt")
    assert (back.config, back.made_of, back.crop_size) == (model.config, model.made_of, 48)
    assert not back.training and (back.segmentation is None) == (model.segmentation is None)
    assert_halves(back.state_dict(), model)


def test_the_place_may_be_text_and_other_values_are_kept(tmp_path):
    save_model(str(tmp_path / "c.pt"), small(), origin="here", seed=3)
    content = checkpoint.load(tmp_path / "c.pt", "model")
    assert (content["origin"], content["seed"], content["format"]) == ("here", 3, "stg_pyg-2")
    assert content["network"] == {"name": "small", "width": 4}
    assert content["config"]["spatial"]["alpha"] == 0.3
    assert load_model(str(tmp_path / "c.pt")).config == CONFIG


def test_layers_that_were_exchanged_come_back(tmp_path):
    model = small()
    model.spatial_conv = MeanPropagation()
    save_model(tmp_path / "c.pt", model)
    back = load_model(tmp_path / "c.pt")
    assert isinstance(back.spatial_conv, MeanPropagation) and back.config.spatial.conv == "mean"
    assert model.config.spatial.conv == "stg"


def test_a_model_put_together_by_hand_is_refused(tmp_path):
    model = tiny()
    assert model.made_of is None
    with pytest.raises(InputError, match=r"c\.pt: .*put together by hand.*state_dict"):
        save_model(tmp_path / "c.pt", model)
    assert not list(tmp_path.iterdir())


def test_the_shipped_model():
    model = load_model("shipped")
    assert (
        load_model().made_of
        == model.made_of
        == {
            "name": "pretrained",
            "backbone": "tf_efficientnet_lite0",
        }
    )
    assert model.config.spatial.node_gate and not model.training
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert VideoSegmenter(model).proposer.size == model.crop_size == 192


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "stg_pyg-1"}, "of this version of stg_pyg"),
        ({"config": {"alpha": 0.7}}, "another version"),
        ({"config": {"spatial": {"alhpa": 0.7}}}, r"spatial\.alhpa.*spatial\.alpha"),
        ({"config": {"spatial": {"alpha": "much"}}}, r"spatial\.alpha = 'much'"),
        ({"config": None}, "its configuration is not of this version"),
        ({"network": {"name": "huge"}}, "its configuration is not of this version"),
        ({"network": None}, "its configuration is not of this version"),
        ({"network": {"name": "small", "width": 6}}, "another network configuration"),
        ({"crop_size": "wide"}, "its configuration is not of this version"),
    ],
)
def test_what_is_not_of_this_version_is_refused_in_a_line(tmp_path, changes, words):
    path = tmp_path / "c.pt"
    save_model(path, small())
    torch.save({**torch.load(path, weights_only=True), **changes}, path)
    with pytest.raises(InputError, match=words) as error:
        load_model(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["network", "config", "crop_size", "model"])
def test_what_lacks_a_part_is_refused(tmp_path, name):
    path = tmp_path / "c.pt"
    save_model(path, small())
    content = torch.load(path, weights_only=True)
    del content[name]
    torch.save(content, path)
    with pytest.raises(InputError, match=rf"c\.pt: has no {name}, so another version"):
        load_model(path)
