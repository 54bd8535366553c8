"""The example of README.md that shows the stream in Python, run as it stands."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.common import checkpoints
from experiments.common.presets import PRESETS

README = Path(__file__).resolve().parents[1] / "README.md"


def examples() -> list[str]:
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    return [block for block in blocks if "VideoSegmenter(" in block]


def write_checkpoint(path: Path) -> None:
    """A small model with random weights under a name that the example takes one from."""
    preset = PRESETS["synthetic-small"]
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = checkpoints.build_model(preset, preset.config.replace({"recovery.redetect": False, "warping.gaps": (1,)}))
    checkpoints.save_model(path, model, preset, 0)


def test_there_is_an_example():
    assert examples()


@pytest.mark.parametrize("block", examples())
def test_the_example_runs(block, tmp_path, monkeypatch):
    for name in re.findall(r"[\"']([^\"']+\.pt)[\"']", block):
        write_checkpoint(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block, str(README), "exec"), names)
    labels = np.asarray(names["labels"])
    assert labels.ndim == 2 and labels.dtype == np.uint8 and labels.any()
