"""Every Python block of README.md, run as it stands."""

import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stg_pyg.utils.images import write_label_map

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def write_holiday(folder: Path) -> None:
    """A video of a red square that moves, and its mask in the first frame."""
    with av.open(str(folder / "holiday.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for t in range(3):
            frame = np.full((64, 96, 3), 90, np.uint8)
            frame[20:44, 20 + 3 * t : 44 + 3 * t] = (220, 30, 30)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    mask = np.zeros((64, 96), np.uint8)
    mask[20:44, 20:44] = 1
    write_label_map(folder / "first.png", mask)


def test_there_are_examples():
    assert len(BLOCKS) == 2 and "segment_video" in BLOCKS[0]


@pytest.mark.parametrize("block", BLOCKS, ids=["video", "layer"])
def test_the_example_runs(block, tmp_path, monkeypatch):
    write_holiday(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block, str(README), "exec"), names)
    if "labels" in names:
        labels = np.asarray(names["labels"])
        assert labels.shape == (64, 96) and names["ids"] == [1]
        assert 400 < np.count_nonzero(labels[18:46, 24:52]) < 750 and not labels[:10].any()
