"""Every constant of the method, with the paper's values and ours as presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from stg_pyg.errors import InputError

ALWAYS_THERE = ("p", "colour", "moved", "first", "blank")
"""Evidence of own proposals that every frame has; that of a past mask is missing where the mask is empty."""


@dataclass(frozen=True)
class STGConfig:
    """Constants of STG-Net. The defaults are the paper's; :meth:`small` holds what measured better without
    pretraining."""

    motion_steps: int = 10
    """n of Eq. 2."""
    use_motion: bool = True
    """Predict p by Eq. 2; off: p is the previous box (baseline of Table 4)."""
    use_spatial: bool = True
    """Spatial graph, Eqs. 3-5; off: the masks of the proposals stay as they are."""
    use_temporal: bool = True
    """Temporal graph, Eqs. 7-8."""
    min_box_iou: float = 0.0
    """A proposal from outside with IoU(b, p) below this belongs to no object; 0 admits every overlap."""
    min_mask_iou: float = 0.0
    """A proposal from outside whose mask has less than this IoU with Q belongs to no object; 0 admits all."""
    max_nodes: int = 100
    """Most proposals from outside that one object takes, those with the highest IoU(b, p)."""
    assemble: float = 1.0
    """Adds the union of an object's outside proposals that have more than this share of their area inside Q, as an
    object may come in disjoint pieces; 1 adds nothing."""
    resegment: bool = False
    """Segment the boxes of proposals from outside again, guided by Q, as the paper does; off: a mask that came with a
    box is kept, and only a box without one is segmented."""
    own_evidence: bool = False
    """Where proposals come from outside, let the segmentation network add its own, as it does where none come."""
    features: str = "encoder"
    """X of Eq. 3 for proposals from outside: of the model's encoder (``encoder``), or those that came with them
    (``given``, ``Proposals.feats``)."""
    alpha: float = 0.7
    """Weight of the cosine in Eq. 3; beta = 1 - alpha."""
    edge_iou: str = "box"
    """IoU of Eq. 3: of the boxes, as printed (``box``), or of the masks (``mask``)."""
    min_edge_iou: float = 0.0
    """Edges between nodes whose masks have less IoU than this are left out, so that disjoint proposals do not vote on
    each other; 0 keeps the graph fully connected. Needs ``edge_iou="mask"``."""
    node_gate: bool = False
    """Multiply W_vu by a learned gate of the sending node, so that bad proposals send little."""
    num_steps: int = 2
    """l, iterations of Eqs. 4-5, of every own spatial layer that has steps."""
    spatial_conv: str = "stg"
    """Message-passing layer of the spatial graph, a name for :func:`stg_pyg.nn.resolve_spatial_conv`."""
    lambda1: float = 0.4
    """Weight of the box term of Eq. 6; lambda2 = 1 - lambda1."""
    quality_weight: float = 0.0
    """Weight of a proposal's gate, which does not come from Q, added to Eq. 6."""
    thr: float = 0.2
    """Threshold on h for the output, and for Eq. 6 when not training."""
    key_size: int = 128
    """Side in pixels of the crop I^r that the memory keys are computed from."""
    memory_frames: int | None = None
    """Frames in the memory, the first one among them; none: all, as printed."""
    normalize_keys: bool = False
    """Cosine instead of dot product in Eq. 7."""
    temperature: float = 1.0
    """Divides the logits of Eq. 7."""
    temporal_conv: str = "memory_attention"
    """Layer of the temporal graph, a name for :func:`stg_pyg.nn.resolve_temporal_conv`."""
    memory_dtype: str = "float32"
    """The keys of the memory are stored in it: ``float32``, ``float16`` or ``bfloat16``."""
    memory_cell: int = 1
    """The memory holds means of so many x so many pixels of the grid of the keys; 1 as printed."""
    temporal_update: str = "paper"
    """Eq. 8 as printed (``paper``) or a learned gate between h and the mean message (``gated``)."""
    gamma: float = 100.0
    """Balance of the two terms of Eq. 9."""
    loss_reading: str = "logits"
    """sigma(M) of Eq. 9 as printed (``logits``) or h read as a probability (``probability``)."""
    crop_margin: float = 0.15
    """Margin of the crops of the segmentation network, share of the box."""
    gaps: tuple[int, ...] = (1,)
    """Past frames t - k whose masks are warped to t as evidence for proposals; the first is Q of Eq. 6."""
    evidence: tuple[str, ...] = ()
    """Names of the evidence of :meth:`stg_pyg.proposals.guided.GuidedProposer.look` that own proposals come from, one
    that is always there among them; none: all of it."""
    flow_consistency: bool = False
    """Leave out of Q what the forward flow does not bring back, the occlusion test of Sundaram et al., ECCV 2010."""
    redetect: bool = False
    """Look for a lost object among all proposals of the frame that come from outside, or else on a grid of boxes."""
    complete: bool = False
    """Where a result is much smaller than the object usually is, look around it for the rest of the object."""
    online_steps: int = 0
    """Steps of online learning on the first frame (OL of Table 4)."""
    online_key_steps: int = 0
    """Steps of online learning of the memory keys, where there is any online learning."""
    update_every: int = 0
    """Frames between two updates of the segmentation network while the video runs; 0: none."""
    update_steps: int = 4
    """Steps of each update."""
    update_rate: float = 1.5e-4
    """Learning rate of the updates."""

    def __post_init__(self) -> None:
        choices = {
            "features": ("encoder", "given"),
            "edge_iou": ("box", "mask"),
            "temporal_update": ("paper", "gated"),
            "memory_dtype": ("float32", "float16", "bfloat16"),
            "loss_reading": ("logits", "probability"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if self.features == "given" and (self.own_evidence or self.resegment):
            raise InputError('features="given" excludes own_evidence and resegment, whose proposals have none')
        if self.memory_cell < 1:
            raise InputError(f"memory_cell must be at least 1, not {self.memory_cell}")
        if self.min_edge_iou > 0 and self.edge_iou != "mask":
            raise InputError('min_edge_iou compares masks: it needs edge_iou="mask"')
        if not self.gaps or self.gaps[0] != 1 or min(self.gaps) < 1:
            raise InputError(f"gaps must begin with 1, the frame that Q of Eq. 6 comes from, not {self.gaps}")
        known = (*ALWAYS_THERE, *(f"q{gap}" for gap in self.gaps))
        if unknown := [name for name in self.evidence if name not in known]:
            raise InputError(f"evidence must be some of {', '.join(known)}, not {unknown[0]}")
        if self.evidence and not set(self.evidence) & set(ALWAYS_THERE):
            raise InputError(f"evidence must hold one that is always there: {', '.join(ALWAYS_THERE)}")

    @classmethod
    def paper(cls) -> STGConfig:
        """The constants as printed."""
        return cls()

    @classmethod
    def small(cls) -> STGConfig:
        """What ``dev`` of DAVIS-2016 says for the small networks trained from random initialisation."""
        return cls(
            alpha=0.1,
            num_steps=1,
            edge_iou="mask",
            node_gate=True,
            quality_weight=0.5,
            thr=0.5,
            memory_frames=8,
            memory_cell=2,
            normalize_keys=True,
            temperature=0.07,
            temporal_update="gated",
            gamma=0.02,
            loss_reading="probability",
            crop_margin=0.25,
            gaps=(1, 2, 4, 8),
            redetect=True,
            complete=True,
            min_mask_iou=0.6,
            assemble=0.8,
            min_edge_iou=0.3,
        )

    @classmethod
    def untrained(cls) -> STGConfig:
        """:meth:`small` without the parts that are nothing before they are trained, for proposals from outside."""
        return cls.small().without_learned_parts().with_options(gaps=(1,))

    def without_learned_parts(self) -> STGConfig:
        """A copy without what is nothing before it is trained: the gate of the nodes, its voice in Eq. 6, and the
        temporal graph."""
        return self.with_options(node_gate=False, quality_weight=0.0, use_temporal=False)

    def with_options(self, **changes: Any) -> STGConfig:
        """A copy with some constants changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> STGConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            InputError: if a name is unknown, as in the file of another version.
        """
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise InputError(
                f"unknown configuration {', '.join(unknown)}: the checkpoint is of another version of stg_pyg"
            )
        wrong = [f.name for f in fields(cls) if f.name in values and not _is_of(f.type, values[f.name])]
        if wrong:
            raise InputError(f"{wrong[0]} = {values[wrong[0]]!r} is no value that this version of stg_pyg takes")
        sequences = {"gaps": tuple(values.get("gaps", (1,))), "evidence": tuple(values.get("evidence", ()))}
        return cls(**{**values, **sequences})


def _is_of(annotation: Any, value: Any) -> bool:
    """Whether a value is of the type that a field is annotated with."""
    kinds: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,)}
    for part in str(annotation).split(" | "):
        if part == "None" and value is None:
            return True
        if part.startswith("tuple") and isinstance(value, list | tuple):
            return all(_is_of(part.removeprefix("tuple[").partition(",")[0], item) for item in value)
        if type(value) in kinds.get(part, ()):
            return True
    return False
