import re
from pathlib import Path

from experiments.common import checkpoints
from experiments.common.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]


def test_they_are_a_small_checkpoint_of_this_version_of_the_preset():
    assert checkpoints.SHIPPED.stat().st_size < 12e6
    model, preset = checkpoints.load_model(checkpoints.SHIPPED)
    expected = PRESETS["davis2016-small"]
    assert (preset.name, preset.crop_size) == (expected.name, expected.crop_size)
    assert model.config == expected.config
    assert model.segmentation is not None and not model.training


def test_they_travel_with_the_package_under_a_licence_of_their_own():
    project = (ROOT / "pyproject.toml").read_text()
    folder = ROOT / "stg_pyg/weights"
    assert checkpoints.SHIPPED.parent == folder and not checkpoints.SHIPPED.is_symlink()
    assert re.search(r'^stg_pyg = \[.*"weights/\*".*\]$', project, re.MULTILINE)
    assert re.search(r'^license-files = \[.*"stg_pyg/weights/LICENSE".*\]$', project, re.MULTILINE)
    for text in ((folder / "README.md").read_text(), (folder / "LICENSE").read_text()):
        assert "CC BY-NC 4.0" in text and checkpoints.SHIPPED.name in text
