"""Every constant that a paper preset can be given changes what it does: masks, the loss, or what is learned online."""

import dataclasses
import functools
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.common.presets import PRESETS
from stg_pyg import Proposals, STGNet, VideoSegmenter
from stg_pyg.config import STGConfig, paths
from stg_pyg.model.losses import stg_loss_batched
from stg_pyg.nn.backbones.deeplab import DeepLabV3Plus
from stg_pyg.nn.backbones.encoders import KeyEncoder, ProposalEncoder, ResNetBackbone
from stg_pyg.nn.backbones.segmentation import SegmentationOutput
from stg_pyg.proposals.rle import EncodedProposals

PAPER = PRESETS["davis2017-paper"].config.replace("temporal.key_size", 32)
GATED = {"spatial.node_gate": True}
OWN = {"proposals.own_evidence": True}
CHANGED: dict[str, tuple[Any, dict[str, Any]]] = {
    "motion.enabled": (False, {}),
    "motion.steps": (1, {}),
    "warping.gaps": ((1, 2), OWN),
    "warping.consistency": (True, {}),
    "proposals.crop_margin": (0.5, {}),
    "proposals.evidence": (("p",), OWN),
    "proposals.recall": (True, OWN),
    "proposals.own_evidence": (True, {}),
    "proposals.resegment": (False, {}),
    "assignment.min_box_iou": (0.3, {}),
    "assignment.min_mask_iou": (0.3, {}),
    "assignment.max_nodes": (2, {}),
    "assignment.assemble": (0.3, {}),
    "spatial.enabled": (False, {}),
    "spatial.conv": ("mean", {}),
    "spatial.num_steps": (1, {}),
    "spatial.alpha": (0.1, {}),
    "spatial.edge_iou": ("mask", {}),
    "spatial.min_edge_iou": (0.9, {"spatial.edge_iou": "mask"}),
    "spatial.node_gate": (True, {}),
    "selection.lambda1": (1.0, {}),
    "selection.quality_weight": (9.0, GATED),
    "selection.thr": (0.5, {}),
    "selection.q_weight": (5.0, {}),
    "temporal.enabled": (False, {}),
    "temporal.conv": ("joint", {}),
    "temporal.update": ("gated", {}),
    "temporal.key_size": (48, {}),
    "temporal.grid": (32, {}),
    "temporal.binary": (True, {}),
    "temporal.normalize_keys": (True, {}),
    "temporal.temperature": (0.01, {"temporal.normalize_keys": True}),
    "memory.frames": (1, {}),
    "memory.cell": (2, {}),
}
"""Another value of a constant, and what else it needs."""
ELSEWHERE = {
    "proposals.compete": "X of GuidedUNet",
    "assignment.familiar_": "of assignment.min_mask_iou, tests/video/test_stream_proposals.py",
    "spatial.features": "X that comes with proposals, which their boxes segmented anew do not have",
    "memory.dtype": "rounding, tests/graph/test_memory.py",
    "scene.": "keys of GuidedUNet",
    "recovery.": "tests/video/test_redetect.py, test_completion.py",
    "loss.": "below",
    "online.": "of learning, tests/learning",
}


@functools.cache
def clip() -> tuple[list[np.ndarray], list[np.ndarray], list[EncodedProposals]]:
    """Two coloured objects that meet on noise: frames, object ids, and proposals that are off by some pixels."""
    rng = np.random.default_rng(0)
    noise = cv2.resize(rng.integers(60, 160, (24, 32), dtype=np.uint8), (64, 48))
    frames, labels = [], []
    for t in range(7):
        ids = np.zeros((48, 64), np.uint8)
        ids[8:26, 4 + 4 * t : 18 + 4 * t] = 1
        ids[18:40, 44 - 4 * t : 60 - 4 * t] = 2
        colours = np.array([[0, 0, 0], [200, 40, 40], [40, 60, 210]], np.uint8)[ids]
        frames.append(np.where(ids[..., None] > 0, colours, noise[..., None]))
        labels.append(ids)
    return frames, labels, [proposals_of(found, rng) for found in labels]


def proposals_of(labels: np.ndarray, rng: np.random.Generator) -> EncodedProposals:
    masks = [np.roll(labels == 1 + n % 2, rng.integers(-6, 7, 2), (0, 1)) for n in range(10)]
    return EncodedProposals.from_proposals(Proposals.from_masks(torch.from_numpy(np.stack(masks))))


class SeesColours(DeepLabV3Plus):
    """The network with random weights, which make noise, and a preference for Q and for what is coloured."""

    def forward(self, images: Tensor, q: Tensor) -> SegmentationOutput:
        made = super().forward(images, q)
        coloured = images.amax(dim=1) - images.amin(dim=1)
        return SegmentationOutput(8 * made.logits + 3 * coloured + 3 * q - 4, made.quality)


def run(changes: dict[str, Any]) -> list[Tensor]:
    """The soft masks and the labels of every frame, by small networks of the paper's kinds with random weights."""
    config = PAPER.replace(changes)
    torch.manual_seed(0)
    features = ProposalEncoder(ResNetBackbone("resnet18", 5), mode="roi", pool="avg", size=16)
    keys = KeyEncoder(ResNetBackbone("resnet18", 4), grid=config.temporal.key_grid)
    torch.manual_seed(0)
    stream = VideoSegmenter(STGNet(config, features, keys, SeesColours.small(8)).eval(), crop_size=32)
    frames, labels, proposals = clip()
    found: list[Tensor] = []
    for t, (frame, given) in enumerate(zip(frames, proposals, strict=True)):
        with torch.no_grad():
            result = stream.step(frame, given, labels[0] if t == 0 else None)
        found += [result.masks, result.labels]
    return found


@functools.cache
def known(needed: tuple[tuple[str, Any], ...]) -> list[Tensor]:
    return run(dict(needed))


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("path", CHANGED)
def test_another_value_makes_other_masks(path):
    value, needed = CHANGED[path]
    assert not equal(run({**needed, path: value}), known(tuple(needed.items())))


def test_no_constant_is_forgotten():
    assert equal(run({}), known(())), "the same again"
    elsewhere = {path for path in paths() if path.startswith(tuple(ELSEWHERE))}
    assert set(paths()) == elsewhere | CHANGED.keys() and not elsewhere & CHANGED.keys()


@pytest.mark.parametrize(
    ("path", "value"), [("loss.gamma", 1.0), ("loss.reading", "probability"), ("loss.reduction", "sum")]
)
def test_another_loss(path, value):
    """The terms of Eq. 9 as the graph's training adds them up."""

    def loss(config: STGConfig) -> float:
        h, truth = torch.linspace(0, 1, 64).reshape(1, 8, 8), torch.zeros(1, 8, 8)
        truth[:, 2:6, 2:6] = 1
        box = torch.tensor([[2.0, 2, 6, 6]])
        parts = dataclasses.asdict(config.loss)
        return float(stg_loss_batched(h, h, truth, box, h.round(), torch.zeros(1, dtype=torch.long), **parts).total)

    assert loss(PAPER.replace(path, value)) != loss(PAPER)
