"""Everything that a training run is made of, by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from datasets.base import VideoSequence
from datasets.davis import DAVIS
from datasets.synthetic import SyntheticVideos
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.lucid import LucidConfig


@dataclass(frozen=True)
class Preset:
    """Data, constants, network sizes and lengths of training."""

    name: str
    dataset: str
    """``synthetic``, ``davis2016`` or ``davis2017``."""
    train_split: str
    val_split: str
    config: STGConfig = field(default_factory=STGConfig.small)
    width: int = 32
    """Channels of the first stage of the small networks."""
    crop_size: int = 128
    """Side of the crops of the segmentation network."""
    lucid: LucidConfig = field(default_factory=LucidConfig)
    segmentation_steps: int = 4500
    batch_size: int = 24
    learning_rate: float = 2e-3
    graph_steps: int = 2400
    """Frames of videos that the graph is trained on."""
    graph_learning_rate: float = 1e-3
    graph_frame_size: int = 480
    """Longer side of the frames while the graph is trained, so that flow and pasting cost less."""
    online_batch_size: int = 12
    online_learning_rate: float = 5e-4
    size: str = "small"
    """``small``: random weights, for a CPU; ``paper``: ResNet-101/50 and pretrained weights."""
    detector_width: int = 24
    """Channels of the first stage of the small detector."""
    detector_size: int = 240
    """Short side of the pictures that the detector is trained on, and of the small detector's frames."""
    detector_steps: int = 2400
    detector_batch_size: int = 4
    detector_learning_rate: float = 1e-3
    coco_steps: int = 0
    """Length of the first phase on COCO, of the detector and of the segmentation network; 0: that of the second."""


def _paper(name: str, dataset: str, segmentation_steps: int) -> Preset:
    """The paper's networks and constants; steps of 4 crops make the 100 epochs of the segmentation network."""
    return Preset(
        name,
        dataset,
        "train",
        "val",
        config=STGConfig.paper(),
        size="paper",
        crop_size=512,
        lucid=LucidConfig(size=512, margin=0.15),
        segmentation_steps=segmentation_steps,
        batch_size=4,
        learning_rate=1e-5,
        detector_size=480,
        detector_steps=10_000,
        detector_batch_size=2,
        detector_learning_rate=2.5e-3,
        coco_steps=90_000,
    )


PRESETS = {
    preset.name: preset
    for preset in (
        _paper("davis2016-paper", "davis2016", 52_000),
        _paper("davis2017-paper", "davis2017", 105_000),
        Preset(
            "synthetic-small",
            "synthetic",
            "train",
            "test",
            config=STGConfig.small().with_options(key_size=64),
            width=16,
            crop_size=64,
            lucid=LucidConfig(size=64),
            segmentation_steps=1200,
            batch_size=32,
            graph_steps=250,
            graph_frame_size=160,
        ),
        Preset("davis2016-small", "davis2016", "train", "val", config=STGConfig.small().with_options(online_steps=150)),
        Preset("davis2017-small", "davis2017", "train", "val", config=STGConfig.small().with_options(online_steps=150)),
    )
}


def find_preset(name: str) -> Preset:
    """The preset of that name; ``synthetic`` is short for ``synthetic-small``.

    Raises:
        InputError: there is none.
    """
    preset = PRESETS.get(name) or PRESETS.get(f"{name}-small")
    if preset is None:
        raise InputError(f"no preset {name!r}: choose one of {', '.join(PRESETS)}")
    return preset


def open_split(preset: Preset, split: str, root: Path | None, seed: int = 0) -> list[VideoSequence]:
    """The videos of a split of the preset's data set.

    Raises:
        InputError: the data set needs files and there is no usable root.
    """
    if preset.dataset == "synthetic":
        counts = {"train": 40, "val": 8, "test": 10}
        if split not in counts:
            raise InputError(f"split {split!r} is unknown for synthetic videos: choose from {', '.join(counts)}")
        return list(SyntheticVideos(split, num_videos=counts[split], seed=seed))
    if root is None:
        raise InputError(f"preset {preset.name} reads files: give the folder of the data set with --root")
    return list(DAVIS(root, year=preset.dataset.removeprefix("davis"), split=split))
