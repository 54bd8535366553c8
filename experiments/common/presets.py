"""Everything that a training run is made of, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets.base import VideoSequence
from datasets.composed.videos import ComposedVideos
from datasets.davis import DAVIS
from datasets.segtrack import SegTrackV2
from datasets.synthetic.videos import SyntheticVideos
from datasets.youtube_objects import YouTubeObjects
from datasets.youtube_vos import YouTubeVOS
from stg_pyg.config import STGConfig
from stg_pyg.errors import InputError
from stg_pyg.lucid.samples import LucidConfig
from stg_pyg.nn.backbones.registry import LITE0


@dataclass(frozen=True)
class Preset:
    """Data, constants, network sizes and lengths of training."""

    name: str
    dataset: str
    """``synthetic``, or a name in :data:`OPENERS`."""
    train_split: str
    val_split: str
    """The same as ``train_split`` where the benchmark is for testing only: its model is trained elsewhere."""
    config: STGConfig = field(default_factory=STGConfig.small)
    backbone: str | None = LITE0
    """What the small networks look through, a model of timm; none: networks of their own, from random weights. Of the
    paper's networks: one ResNet of torchvision in the place of all; none: ResNet-101 and ResNet-50."""
    width: int = 32
    """Channels of the first stage of the small networks without a backbone."""
    crop_size: int = 128
    """Side of the crops of the segmentation network."""
    lucid: LucidConfig = field(default_factory=LucidConfig)
    """How samples of the first phase of the segmentation network are drawn."""
    segmentation_steps: int = 4500
    batch_size: int = 24
    learning_rate: float = 2e-3
    fine_lucid: LucidConfig | None = None
    """How samples of the second phase are drawn, fine-tuning by lucid data dreaming (FT of Table 4); none: no phase."""
    fine_steps: int = 0
    fine_learning_rate: float = 1e-3
    graph_steps: int = 2400
    """Frames of videos that the graph is trained on."""
    graph_batch_size: int = 1
    """Clips of a step of the graph's training."""
    graph_learning_rate: float = 1e-3
    graph_frame_size: int = 480
    """Longer side of the frames while the graph is trained, so that flow and pasting cost less."""
    size: str = "small"
    """``small``: for a CPU; ``paper``: ResNet-101/50 and DeepLabv3+."""
    detector_width: int = 24
    """Channels of the first stage of the small detector."""
    detector_size: int = 240
    """Short side of the pictures that the detector is trained on, and of the small detector's frames."""
    detector_steps: int = 2400
    detector_batch_size: int = 4
    detector_learning_rate: float = 1e-3
    recipe: str = "own"
    """How segmentation network and graph are optimised: ``printed`` is as the paper has it, Adam at a constant rate and
    for the graph at one that falls by a tenth every ten epochs, without weight decay, clipping or averaged weights;
    ``own`` is AdamW with warm-up, cosine, clipping and averages."""
    coco_steps: int = 0
    """Length of the first phase on COCO, of the detector and of the segmentation network; 0: that of the second."""
    proposals: str | None = None
    """``detector``: proposals are those of a detector that looks at every frame first, as in the paper; none: the
    segmentation network makes its own."""
    test_alpha: float | None = None
    """alpha of Eq. 3 that a model from elsewhere is run with on this benchmark; None: its own."""
    resolution: str = "480p"
    """Folder of DAVIS' frames and masks, ``480p`` or ``Full-Resolution``."""

    @property
    def online_lucid(self) -> LucidConfig:
        """How samples of online learning are drawn: as those of the last phase, at the size that is segmented at."""
        share = self.config.online.dream_share
        return replace(self.fine_lucid or self.lucid, size=self.crop_size, dream_share=share, views=1)

    @property
    def fine(self) -> Preset | None:
        """The preset of the second phase, if there is one."""
        if self.fine_lucid is None or not self.fine_steps:
            return None
        steps, rate = self.fine_steps, self.fine_learning_rate
        return replace(self, lucid=self.fine_lucid, segmentation_steps=steps, learning_rate=rate)

    def with_recipe(self, name: str) -> Preset:
        """The preset with another recipe, ``own`` with the rates and the loss that go with it."""
        if name == self.recipe:
            return self
        config = self.config.replace({"loss.gamma": 0.02, "loss.reading": "probability"})
        return replace(self, recipe=name, config=config, **OWN_RATES)

    @property
    def test_only(self) -> bool:
        """Whether the benchmark has nothing to train on."""
        return self.train_split == self.val_split


SEGMENTATION_EPOCHS, FINE_EPOCHS, GRAPH_EPOCHS = 100, 10, 20
"""Of paper presets; an epoch is as many samples as the training videos have annotated frames. The paper prints the
first."""
OWN_RATES: dict[str, Any] = {"learning_rate": 2e-4, "fine_learning_rate": 1e-4, "graph_learning_rate": 2e-4}
"""Of the recipe ``own`` with the paper's networks; not measured at full size."""


def _paper(name: str, frames: int, train: str = "train", val: str = "val", alpha: float = 0.7) -> Preset:
    """The paper's networks, constants and training, on so many annotated frames.

    Benchmarks without training videos are tested with the model of DAVIS-2017 and another ``alpha`` of Eq. 3. FT, the
    second phase of the segmentation network, is on the lucid augmented frames of DAVIS.
    """
    tuned = name.startswith("davis")
    return Preset(
        f"{name}-paper",
        name,
        train,
        val,
        config=STGConfig.paper().replace({"spatial.alpha": alpha, "proposals.resegment": True, "online.key_steps": 50}),
        backbone=None,
        recipe="printed",
        proposals="detector",
        test_alpha=alpha if train == val else None,
        size="paper",
        crop_size=512,
        lucid=LucidConfig(size=512, margin=0.15),
        segmentation_steps=SEGMENTATION_EPOCHS * frames // 4,
        batch_size=4,
        learning_rate=1e-5,
        fine_lucid=LucidConfig(size=512, margin=0.15, dream_share=1.0) if tuned else None,
        fine_steps=FINE_EPOCHS * frames // 4 if tuned else 0,
        fine_learning_rate=1e-5,
        graph_steps=GRAPH_EPOCHS * frames,
        graph_learning_rate=0.1,
        graph_frame_size=854,
        detector_size=480,
        detector_steps=10_000,
        detector_batch_size=2,
        detector_learning_rate=2.5e-3,
        coco_steps=90_000,
    )


def _small(name: str, train: str = "train", val: str = "val") -> Preset:
    """A pretrained backbone and a decoder that a CPU trains, and online learning of the decoder."""
    return Preset(
        f"{name}-small",
        name,
        train,
        val,
        config=STGConfig.small().replace(
            {"online.steps": 45, "online.update_every": 8, "online.update_layers": "decoder"}
        ),
        crop_size=192,
        lucid=LucidConfig(size=128, dream_share=0.2, views=2),
        segmentation_steps=4000,
        learning_rate=1e-3,
        graph_steps=900,
    )


def _large(name: str, train: str = "train", val: str = "val") -> Preset:
    """The recipe of :func:`_small` with the paper's networks and larger crops, for a GPU; its lengths and rates are
    those of the small one, scaled, and have not been measured."""
    return Preset(
        f"{name}-large",
        name,
        train,
        val,
        config=STGConfig.small().replace(
            {"online.steps": 300, "online.rate": 2e-4, "online.update_every": 8, "temporal.key_size": 256}
        ),
        backbone=None,
        size="paper",
        crop_size=256,
        lucid=LucidConfig(size=192),
        segmentation_steps=12_000,
        learning_rate=5e-4,
        fine_lucid=LucidConfig(size=256, dream_share=0.3),
        fine_steps=6_000,
        fine_learning_rate=2.5e-4,
        graph_learning_rate=2e-4,
    )


PRESETS = {
    preset.name: preset
    for preset in (
        _paper("davis2016", 2_079),
        _paper("davis2017", 4_209),
        _paper("youtube_vos", 94_400, "fit", "dev"),
        _paper("segtrack_v2", 4_209, "all", "all", alpha=0.1),
        _paper("youtube_objects", 4_209, "all", "all", alpha=0.1),
        Preset(
            "synthetic-small",
            "synthetic",
            "train",
            "test",
            config=STGConfig.small().replace({"temporal.key_size": 64, "scene.size": 192}),
            crop_size=64,
            lucid=LucidConfig(size=64, views=2),
            segmentation_steps=700,
            batch_size=24,
            graph_steps=250,
            graph_frame_size=160,
        ),
        _small("davis2016"),
        _small("davis2017"),
        _small("youtube_vos", "fit", "dev"),
        _small("segtrack_v2", "all", "all"),
        _small("youtube_objects", "all", "all"),
        _small("composed"),
        _large("davis2016"),
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


def benchmark_alpha(dataset: str, size: str) -> float | None:
    """alpha of Eq. 3 that a model of networks of this size is run with on a data set; None: its own."""
    preset = PRESETS.get(f"{dataset}-{size}")
    return None if preset is None else preset.test_alpha


def _open_synthetic(split: str, seed: int) -> list[VideoSequence]:
    counts = {"train": 40, "val": 8, "test": 10}
    if split not in counts:
        raise InputError(f"split {split!r} is unknown for synthetic videos: choose from {', '.join(counts)}")
    return list(SyntheticVideos(split, num_videos=counts[split], seed=seed))


def _open_youtube_vos(preset: Preset, root: Path, split: str, seed: int) -> list[VideoSequence]:
    # Every fifth frame has a mask: clips to train on are made of these, and only the tests see the frames between.
    return list(YouTubeVOS(root, split, all_frames=False if split in ("train", "fit", "dev") else None))


def _open_composed(preset: Preset, root: Path, split: str, seed: int) -> list[VideoSequence]:
    base = list(DAVIS(root, "2016", split, preset.resolution))
    return list(ComposedVideos(base, 12 if split == "train" else 6, seed=seed, split=split))


OPENERS: dict[str, Callable[[Preset, Path, str, int], list[VideoSequence]]] = {
    "davis2016": lambda preset, root, split, seed: list(DAVIS(root, "2016", split, preset.resolution)),
    "davis2017": lambda preset, root, split, seed: list(DAVIS(root, "2017", split, preset.resolution)),
    "youtube_vos": _open_youtube_vos,
    "segtrack_v2": lambda preset, root, split, seed: list(SegTrackV2(root, split)),
    "youtube_objects": lambda preset, root, split, seed: list(YouTubeObjects(root, split)),
    "composed": _open_composed,
}
"""How the videos of a data set with files are opened, given a preset, its folder, a split and a seed."""


def open_split(preset: Preset, split: str, root: Path | None, seed: int = 0) -> list[VideoSequence]:
    """The videos of a split of the preset's data set; ``composed`` ones are made of DAVIS-2016 in ``root``.

    Args:
        split: a name, or several as in ``train+dev``. ``train+dev:0of2`` is fold 0 of 2, every second video from the
            first one on, and ``train+dev:not0of2`` all others, so that what is measured on the one is learned from the
            other.

    Raises:
        InputError: the data set needs files and there is no usable root, or a fold is unknown or empty.
    """
    names, _, fold = split.partition(":")
    videos: list[VideoSequence] = []
    for name in names.split("+"):
        if preset.dataset == "synthetic":
            videos += _open_synthetic(name, seed)
        elif root is None:
            raise InputError(f"preset {preset.name} reads files: give the folder of the data set with --root")
        else:
            videos += OPENERS[preset.dataset](preset, root, name, seed)
    if not fold:
        return videos
    match = re.fullmatch(r"(not)?(\d+)of(\d+)", fold)
    if match is None or int(match[2]) >= int(match[3]):
        raise InputError(f"split {split!r}: a fold is written as in {names}:0of2 or {names}:not0of2, counted from 0")
    if len({video.name for video in videos}) < len(videos):
        raise InputError(f"split {split!r}: {names} share videos; folds need every video once")
    own = [n % int(match[3]) == int(match[2]) for n in range(len(videos))]
    videos = [video for video, inside in zip(videos, own, strict=True) if inside != bool(match[1])]
    if not videos:
        raise InputError(f"split {split!r}: {names} has too few videos for this fold; take fewer folds")
    return videos
