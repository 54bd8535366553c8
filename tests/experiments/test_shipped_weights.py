from pathlib import Path

from experiments.common import checkpoints
from experiments.common.presets import PRESETS


def test_they_are_a_small_checkpoint_of_this_version_of_the_preset():
    assert checkpoints.SHIPPED.stat().st_size < 12e6
    model, preset = checkpoints.load_model(checkpoints.SHIPPED)
    expected = PRESETS["davis2016-small"]
    assert (preset.name, preset.crop_size) == (expected.name, expected.crop_size)
    assert model.config == expected.config
    assert model.segmentation is not None and not model.training


def test_their_page_names_the_licence_and_they_are_not_in_the_wheel():
    page = checkpoints.SHIPPED.with_name("README.md").read_text()
    assert "CC BY-NC 4.0" in page and checkpoints.SHIPPED.name in page
    assert "stg_pyg" not in checkpoints.SHIPPED.relative_to(Path(checkpoints.__file__).parent).parts
