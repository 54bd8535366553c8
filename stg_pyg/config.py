"""Every constant of the method, part by part, with the paper's values and ours as presets."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args, get_origin, get_type_hints

from stg_pyg.errors import InputError

ALWAYS_THERE = ("p", "colour", "moved", "first", "blank")
"""Evidence of own proposals that every frame has; that of a past mask is missing where the mask is empty."""


def _one_of(path: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise InputError(f"{path} must be one of {', '.join(allowed)}, not {value!r}")


@dataclass(frozen=True)
class MotionConfig:
    """The motion model, Eq. 2."""

    enabled: bool = True
    """Predict p by Eq. 2; off: p is the previous box (baseline of Table 4)."""
    steps: int = 10
    """n."""


@dataclass(frozen=True)
class WarpingConfig:
    """Past masks brought to the current frame by optical flow."""

    gaps: tuple[int, ...] = (1,)
    """Past frames t - k whose masks are warped to t as evidence for proposals; the first is Q of Eq. 6."""
    consistency: bool = False
    """Leave out of Q what the forward flow does not bring back, the occlusion test of Sundaram et al., ECCV 2010."""

    def __post_init__(self) -> None:
        if not self.gaps or self.gaps[0] != 1 or min(self.gaps) < 1:
            raise InputError(f"warping.gaps must begin with 1, the frame that Q of Eq. 6 comes from, not {self.gaps}")


@dataclass(frozen=True)
class ProposalConfig:
    """The proposals that the segmentation network makes."""

    crop_margin: float = 0.15
    """Margin of the crops of the network, share of the box."""
    evidence: tuple[str, ...] = ()
    """Names of the evidence of :meth:`stg_pyg.proposals.guided.GuidedProposer.look` that they come from, one that is
    always there among them; none: all of it."""
    recall: bool = False
    """Look where p is with what Eq. 7 retrieves there from the memory as a rough mask, too: evidence ``memory``, which
    does not come from Q."""
    compete: bool = False
    """The score of an own proposal falls as far as its X resembles another object of the video more than its own."""
    own_evidence: bool = False
    """Where proposals come from outside, let the network add its own, as it does where none come."""
    resegment: bool = False
    """Segment the boxes of proposals from outside again, guided by Q, as the paper does; off: a mask that came with a
    box is kept, and only a box without one is segmented."""


@dataclass(frozen=True)
class AssignmentConfig:
    """Which proposals from outside belong to an object."""

    min_box_iou: float = 0.0
    """One with IoU(b, p) below this belongs to no object; 0 admits every overlap."""
    min_mask_iou: float = 0.0
    """One whose mask has less than this IoU with Q belongs to no object; 0 admits all."""
    max_nodes: int = 100
    """Most that one object takes, those with the highest IoU(b, p)."""
    assemble: float = 1.0
    """Adds the union of an object's proposals that have more than this share of their area inside Q, as an object may
    come in disjoint pieces; 1 adds nothing."""
    familiar_size: tuple[float, ...] = (0.6, 1.3)
    """One passes ``min_mask_iou`` whose area is between these shares of the object's last one,"""
    familiar_likeness: float = 0.85
    """and whose colours are as much like the object's as this share of what they were in the first frame."""


@dataclass(frozen=True)
class SpatialConfig:
    """The spatial graph, Eqs. 3-5."""

    enabled: bool = True
    """Off: the masks of the proposals stay as they are."""
    conv: str = "stg"
    """Message-passing layer, a name for :func:`stg_pyg.nn.resolve_spatial_conv`."""
    num_steps: int = 2
    """l, iterations of Eqs. 4-5, of every own layer that has steps."""
    alpha: float = 0.7
    """Weight of the cosine in Eq. 3; beta = 1 - alpha."""
    features: str = "encoder"
    """X of Eq. 3 for proposals from outside: of the model's encoder (``encoder``), or those that came with them
    (``given``, ``Proposals.feats``)."""
    edge_iou: str = "box"
    """IoU of Eq. 3: of the boxes, as printed (``box``), or of the masks (``mask``)."""
    min_edge_iou: float = 0.0
    """Edges between nodes whose masks have less IoU than this are left out, so that disjoint proposals do not vote on
    each other; 0 keeps the graph fully connected. Needs ``edge_iou="mask"``."""
    node_gate: bool = False
    """Multiply W_vu by a learned gate of the sending node, so that bad proposals send little."""

    def __post_init__(self) -> None:
        _one_of("spatial.features", self.features, "encoder", "given")
        _one_of("spatial.edge_iou", self.edge_iou, "box", "mask")
        if self.min_edge_iou > 0 and self.edge_iou != "mask":
            raise InputError('spatial.min_edge_iou compares masks: it needs spatial.edge_iou="mask"')


@dataclass(frozen=True)
class SelectionConfig:
    """Selection, Eq. 6, and the threshold of the result."""

    lambda1: float = 0.4
    """Weight of the box term; lambda2 = 1 - lambda1."""
    quality_weight: float = 0.0
    """Weight of a proposal's gate, which does not come from Q, added to Eq. 6."""
    thr: float = 0.2
    """Threshold on h for the output, and for Eq. 6 when not training."""
    q_weight: float = 0.0
    """Weight of the log-odds of Q, beside those of h, where several objects claim a pixel; 0: the highest h has it."""

    def __post_init__(self) -> None:
        if self.q_weight < 0:
            raise InputError(f"selection.q_weight must not be negative, but it is {self.q_weight}")


@dataclass(frozen=True)
class TemporalConfig:
    """The temporal graph, Eqs. 7-8."""

    enabled: bool = True
    conv: str = "memory_attention"
    """Layer, a name for :func:`stg_pyg.nn.resolve_temporal_conv`."""
    update: str = "paper"
    """Eq. 8 as printed (``paper``) or a learned gate between h and the mean message (``gated``)."""
    key_size: int = 128
    """Side in pixels of the crop I^r that the keys are computed from."""
    grid: int = 0
    """Side of the grid on which keys and masks meet; ``key_size``: one key a pixel, as H1 x W1 of the paper says; 0: a
    quarter of it."""
    binary: bool = False
    """The chosen mask is h > thr, as printed, when it enters Eqs. 7-8; off: h itself. Its gradient is that of h."""
    normalize_keys: bool = False
    """Cosine instead of dot product in Eq. 7."""
    temperature: float = 1.0
    """Divides the logits of Eq. 7."""

    def __post_init__(self) -> None:
        _one_of("temporal.update", self.update, "paper", "gated")
        if self.grid < 0:
            raise InputError(f"temporal.grid must not be negative, but it is {self.grid}")

    @property
    def key_grid(self) -> int:
        """Side of the grid of the keys."""
        return self.grid or self.key_size // 4


@dataclass(frozen=True)
class MemoryConfig:
    """What the temporal graph remembers."""

    frames: int | None = None
    """Frames held, the first one among them; none: all, as printed."""
    dtype: str = "float32"
    """The keys are stored in it: ``float32``, ``float16`` or ``bfloat16``."""
    cell: int = 1
    """Means of so many x so many pixels of the grid of the keys are held; 1 as printed."""

    def __post_init__(self) -> None:
        _one_of("memory.dtype", self.dtype, "float32", "float16", "bfloat16")
        if self.cell < 1:
            raise InputError(f"memory.cell must be at least 1, not {self.cell}")


@dataclass(frozen=True)
class SceneConfig:
    """The memory of whole frames, in which objects and background compete for every cell; a part of the temporal graph,
    off with it."""

    enabled: bool = False
    """Remember whole frames, where the segmentation network makes keys (:meth:`stg_pyg.STGNet.pretrained`)."""
    size: int = 320
    """Shorter side in pixels of the frames that it sees; a cell is 8 x 8 of them."""
    detail: int = 4
    """Parts of a cell, along and across, whose shares it keeps apart and carries together."""
    gaps: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Recent frames t - k that it reads beside the given ones,"""
    radius: int = 12
    """near a cell only, so many cells along and across."""
    top_k: int = 10
    """Most similar cells that a cell reads,"""
    temperature: float = 0.07
    """and the divisor of their cosines in the softmax."""
    propose: bool = True
    """Look where it sees the object, with what it sees as a rough mask: evidence ``scene``."""
    weight: float = 2.0
    """w of its log-odds in the result, see :func:`stg_pyg.model.scene.weigh`; 0 leaves them out."""
    blind: int = 1
    """It says nothing nearer than so many of these parts to where it changes its mind."""

    def __post_init__(self) -> None:
        if not self.gaps or min(self.gaps) < 1 or self.top_k < 1 or self.temperature <= 0 or self.size < 32:
            raise InputError("scene.gaps, scene.top_k and scene.temperature must be positive, scene.size at least 32")
        if self.detail < 1:
            raise InputError(f"scene.detail must be at least 1, not {self.detail}")
        if min(self.radius, self.weight, self.blind) < 0:
            raise InputError("scene.radius, scene.weight and scene.blind must not be negative")


@dataclass(frozen=True)
class RecoveryConfig:
    """A second look at a frame for objects that are lost, or there in part only."""

    redetect: bool = False
    """Look for a lost object among all proposals of the frame that come from outside, or else on a grid of boxes."""
    complete: bool = False
    """Where a result is much smaller than the object usually is, look around it for the rest of the object."""
    identity: bool = False
    """What is found must resemble the object of the first frame in X, too, where the segmentation network makes X."""
    min_share: float = 0.3
    """Where whole frames are remembered, only windows are searched that have a part of a cell with this share of the
    object."""
    min_same: float = 0.3
    """With ``identity``, what is found is expected by X to have this IoU with the object of the first frame."""
    pause: int = 3
    """Frames between two searches for an object that was not found."""
    lost_area: float = 0.3
    """A result is lost when its area is below this share of the median of the object's history,"""
    lost_likeness: float = 0.5
    """or when its colours are less like the object's than this share of what they were in the first frame."""
    min_likeness: float = 0.7
    """What is found is as much like the object's colours as this share of what they were in the first frame,"""
    min_quality: float = 0.5
    """and the network expects this IoU with the true mask of it."""
    part_area: float = 0.75
    """A result is a part when its area is below this share of the median of the object's history."""
    rest_gain: float = 1.2
    """The whole has at least so many times the area of the part,"""
    rest_area: float = 2.0
    """and at most so many times the usual area;"""
    rest_kept: float = 0.7
    """it has this share of the part in it,"""
    rest_likeness: float = 0.5
    """what it adds is as much like the object's colours as this share of what they were in the first frame,"""
    rest_quality: float = 0.6
    """and the network expects this IoU with the true mask of it."""


@dataclass(frozen=True)
class LossConfig:
    """The training loss, Eq. 9."""

    gamma: float = 100.0
    """Balance of the two terms."""
    reading: str = "logits"
    """sigma(M) as printed (``logits``) or h read as a probability (``probability``)."""
    reduction: str = "mean"
    """Of the cross-entropy over pixels, ``mean`` or ``sum``."""

    def __post_init__(self) -> None:
        _one_of("loss.reading", self.reading, "logits", "probability")
        _one_of("loss.reduction", self.reduction, "mean", "sum")


@dataclass(frozen=True)
class OnlineConfig:
    """Learning from the frames of the video at hand."""

    steps: int = 0
    """Steps of online learning on the first frame (OL of Table 4),"""
    batch: int = 12
    """their samples,"""
    rate: float = 5e-4
    """and their highest learning rate."""
    layers: str = "all"
    """What learns on the first frame: ``all``, or ``decoder``, all but a pretrained backbone."""
    enough: float = 0.0
    """Learning on the first frame ends when the soft IoU with the masks of ten steps in a row is so much; 0: never."""
    key_steps: int = 0
    """Steps of online learning of the memory keys, where there is any online learning."""
    update_every: int = 0
    """Frames between two updates of the segmentation network while the video runs; 0: none."""
    update_steps: int = 4
    """Steps of each update,"""
    update_rate: float = 1.5e-4
    """their learning rate,"""
    update_layers: str = "all"
    """what learns in them, as ``layers``; with ``decoder`` X and K stay comparable with those of earlier frames,"""
    update_batch: int = 8
    """and their samples."""
    trusted_quality: float = 0.75
    """A result is learned from when the network expects its best proposals to have this IoU with the true mask,"""
    trusted_agreement: float = 0.8
    """and when it has this IoU with Q, the mask of the frame before warped by flow."""
    late_frames: int = 4
    """Trusted frames that are learned from, the latest ones,"""
    late_every: int = 2
    """of which every so many-th is kept."""
    given_frames: int = 4
    """Given frames that are learned from: the first one and the latest others."""
    dream_share: float = 0.3
    """Share of the samples of given frames that are lucid dreams."""

    def __post_init__(self) -> None:
        _one_of("online.layers", self.layers, "all", "decoder")
        _one_of("online.update_layers", self.update_layers, "all", "decoder")


@dataclass(frozen=True)
class STGConfig:
    """Constants of STG-Net by part. The defaults are the paper's; :meth:`small` holds what measured better without
    pretraining."""

    motion: MotionConfig = field(default_factory=MotionConfig)
    warping: WarpingConfig = field(default_factory=WarpingConfig)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    assignment: AssignmentConfig = field(default_factory=AssignmentConfig)
    spatial: SpatialConfig = field(default_factory=SpatialConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)

    def __post_init__(self) -> None:
        if self.spatial.features == "given" and (self.proposals.own_evidence or self.proposals.resegment):
            raise InputError(
                'spatial.features="given" excludes proposals.own_evidence and proposals.resegment, whose proposals '
                "have none"
            )
        known = (*ALWAYS_THERE, "memory", "scene", *(f"q{gap}" for gap in self.warping.gaps))
        if unknown := [name for name in self.proposals.evidence if name not in known]:
            raise InputError(f"proposals.evidence must be some of {', '.join(known)}, not {unknown[0]}")
        if self.proposals.evidence and not set(self.proposals.evidence) & set(ALWAYS_THERE):
            raise InputError(f"proposals.evidence must hold one that is always there: {', '.join(ALWAYS_THERE)}")

    @classmethod
    def paper(cls) -> STGConfig:
        """The constants as printed."""
        return cls()

    @classmethod
    def small(cls) -> STGConfig:
        """What ``dev`` of DAVIS-2016 says for the small networks trained from random initialisation."""
        return cls(
            warping=WarpingConfig(gaps=(1, 2, 4, 8)),
            proposals=ProposalConfig(crop_margin=0.25),
            assignment=AssignmentConfig(min_mask_iou=0.6, assemble=0.8),
            spatial=SpatialConfig(alpha=0.1, num_steps=1, edge_iou="mask", min_edge_iou=0.3, node_gate=True),
            selection=SelectionConfig(quality_weight=0.5, thr=0.5, q_weight=1.0),
            temporal=TemporalConfig(update="gated", normalize_keys=True, temperature=0.07),
            memory=MemoryConfig(frames=8, cell=2),
            scene=SceneConfig(enabled=True),
            recovery=RecoveryConfig(redetect=True, complete=True),
            loss=LossConfig(gamma=0.02, reading="probability"),
        )

    @classmethod
    def untrained(cls) -> STGConfig:
        """:meth:`small` without the parts that are nothing before they are trained, for proposals from outside."""
        return cls.small().without_learned_parts().replace({"warping.gaps": (1,)})

    def without_learned_parts(self) -> STGConfig:
        """A copy without what is nothing before it is trained: the gate of the nodes, its voice in Eq. 6, and the
        temporal graph."""
        return self.replace({"spatial.node_gate": False, "selection.quality_weight": 0.0, "temporal.enabled": False})

    def replace(self, changes: Mapping[str, Any] | str, value: Any = None) -> STGConfig:
        """A copy with some constants changed: ``replace("spatial.alpha", 0.1)``, or a mapping of such paths.

        All changes are made before any is checked against another.

        Raises:
            InputError: a path is unknown, a value of the wrong type, or the constants do not fit together.
        """
        changes = {changes: value} if isinstance(changes, str) else changes
        parts: dict[str, dict[str, Any]] = {}
        for path, new in changes.items():
            part, _, name = path.partition(".")
            parts.setdefault(part, {})[name] = _checked(path, new)
        return dataclasses.replace(
            self, **{part: dataclasses.replace(getattr(self, part), **values) for part, values in parts.items()}
        )

    def get(self, path: str) -> Any:
        """The constant of a path, as ``spatial.alpha``.

        Raises:
            InputError: there is none.
        """
        _type_of(path)
        part, _, name = path.partition(".")
        return getattr(getattr(self, part), name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> STGConfig:
        """The inverse of :meth:`to_dict`; constants that are not there have their defaults.

        Raises:
            InputError: a name is unknown, as in the file of another version, or a value is none that it takes.
        """
        if not all(isinstance(part, Mapping) for part in values.values()):
            raise InputError("the configuration is of another version of stg_pyg")
        return cls().replace(
            {f"{part}.{name}": value for part, named in values.items() for name, value in named.items()}
        )


def paths() -> list[str]:
    """The paths of all constants, in order."""
    return list(_types())


@functools.cache
def _types() -> dict[str, Any]:
    """The type of every constant, by its path."""
    parts = get_type_hints(STGConfig).items()
    return {f"{part}.{name}": kind for part, cls in parts for name, kind in get_type_hints(cls).items()}


def _type_of(path: str) -> Any:
    if path in _types():
        return _types()[path]
    near = difflib.get_close_matches(path, paths(), n=3, cutoff=0.4)
    remedy = (
        f"did you mean {', '.join(near)}?" if near else f"the parts are {', '.join(f.name for f in fields(STGConfig))}"
    )
    raise InputError(f"there is no constant {path}; {remedy}")


def _checked(path: str, value: Any) -> Any:
    kind = _type_of(path)
    if get_origin(kind) is tuple:
        fits = isinstance(value, list | tuple) and all(_fits(get_args(kind)[0], item) for item in value)
        value = tuple(value) if fits else value
    else:
        fits = any(_fits(option, value) for option in get_args(kind) or (kind,))
    if not fits:
        raise InputError(f"{path} = {value!r} is no value that it takes ({getattr(kind, '__name__', kind)})")
    return value


def _fits(kind: Any, value: Any) -> bool:
    return type(value) in ((int, float) if kind is float else (kind,))
