"""The configurations of the ablation: Table 4 of the paper, our model with parts taken away, and curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.common.presets import Preset
from experiments.runs.rows import table_rows
from stg_pyg.config import STGConfig


@dataclass(frozen=True)
class Source:
    """Trained weights and the configuration that rows with them start from."""

    path: Path
    preset: Preset
    config: STGConfig


@dataclass(frozen=True)
class Case:
    """One configuration to be scored."""

    name: str
    label: str
    config: STGConfig | None
    """None: the previous mask warped by optical flow, and nothing else."""
    weights: str = "own"
    """Which :class:`Source`: ``own``, ``base`` (trained without lucid augmentation) or ``ytb``."""
    online: bool = True
    """Whether it learns on the first frame of each video."""


@dataclass(frozen=True)
class PaperRow:
    """A row of Table 4 of the paper (Liu et al., AAAI 2021), measured there on ``test-dev`` of DAVIS-2017."""

    number: int
    step: str
    """What is new in it."""
    mo: bool
    sg: bool
    alpha: float | None
    l: int | None  # noqa: E741
    lambda1: float
    tg: bool
    ol: bool
    ft: bool
    ytb: bool
    paper_G: float
    compared_to: int | None
    """The row that differs from it in this step alone."""

    def settings(self) -> dict[str, Any]:
        """The columns of the table."""
        columns = ("mo", "sg", "alpha", "l", "lambda1", "tg", "ol", "ft", "ytb")
        return {name: getattr(self, name) for name in columns}

    def apply(self, config: STGConfig) -> STGConfig:
        """The configuration with the settings of this row; the rest stays as it is."""
        edges = (
            {} if self.alpha is None or self.l is None else {"spatial.alpha": self.alpha, "spatial.num_steps": self.l}
        )
        return config.replace(
            {
                "motion.enabled": self.mo,
                "spatial.enabled": self.sg,
                "temporal.enabled": self.tg,
                "selection.lambda1": self.lambda1,
                **edges,
            }
        )


_ON, _OFF = True, False
TABLE_4 = (
    PaperRow(1, "baseline", _OFF, _OFF, None, None, 0.5, _OFF, _OFF, _OFF, _OFF, 53.2, None),
    PaperRow(2, "+ Mo", _ON, _OFF, None, None, 0.5, _OFF, _OFF, _OFF, _OFF, 54.1, 1),
    PaperRow(3, "+ SG", _ON, _ON, 0.5, 1, 0.5, _OFF, _OFF, _OFF, _OFF, 58.4, 2),
    PaperRow(4, "alpha 0.7", _ON, _ON, 0.7, 1, 0.5, _OFF, _OFF, _OFF, _OFF, 59.2, 3),
    PaperRow(5, "lambda1 0.4", _ON, _ON, 0.7, 1, 0.4, _OFF, _OFF, _OFF, _OFF, 59.8, 4),
    PaperRow(6, "+ TG", _ON, _ON, 0.7, 1, 0.4, _ON, _OFF, _OFF, _OFF, 61.9, 5),
    PaperRow(7, "l 2", _ON, _ON, 0.7, 2, 0.4, _ON, _OFF, _OFF, _OFF, 63.1, 6),
    PaperRow(8, "l 3", _ON, _ON, 0.7, 3, 0.4, _ON, _OFF, _OFF, _OFF, 62.3, 7),
    PaperRow(9, "+ OL", _ON, _ON, 0.7, 2, 0.4, _ON, _ON, _OFF, _OFF, 64.3, 7),
    PaperRow(10, "+ FT", _ON, _ON, 0.7, 2, 0.4, _ON, _ON, _ON, _OFF, 66.5, 9),
    PaperRow(11, "+ ytb", _ON, _ON, 0.7, 2, 0.4, _ON, _ON, _ON, _ON, 69.4, 10),
)


@dataclass(frozen=True)
class Curve:
    """G over one constant, all others as in the full model."""

    name: str
    path: str
    values: tuple[float | int | None, ...]
    title: str
    evenly: bool = False
    """Draw the values at equal distances."""


CURVES = {
    curve.name: curve
    for curve in (
        Curve("alpha", "spatial.alpha", (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0), "alpha of Eq. 3"),
        Curve("l", "spatial.num_steps", (1, 2, 3, 4), "l, steps of Eqs. 4-5"),
        Curve("lambda1", "selection.lambda1", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "lambda1 of Eq. 6"),
        Curve("n", "motion.steps", (1, 2, 5, 10, 20), "n of Eq. 2", evenly=True),
        Curve("thr", "selection.thr", (0.2, 0.3, 0.4, 0.5, 0.6), "thr, threshold on h"),
        Curve("memory", "memory.frames", (1, 2, 4, 8, 16, None), "frames in the memory", evenly=True),
    )
}

ONE_BOX: dict[str, Any] = {
    "proposals.evidence": ("p",),
    "spatial.enabled": False,
    "recovery.redetect": False,
    "recovery.complete": False,
}
OWN_NAMES = (
    "full",
    "no-motion-model",
    "no-spatial-graph",
    "no-temporal-graph",
    "no-memory-of-whole-frames",
    "no-gate-of-the-nodes",
    "no-quality-term-in-eq-6",
    "no-re-detection",
    "no-completion-of-parts",
    "no-updates-while-the-video-runs",
    "no-learned-part-of-the-graphs",
    "mean",
    "greedy",
    "one-box",
    "flow",
    "no-online-learning",
    "no-fine-tuning",
    "neither",
)
"""All that :func:`own_cases` can return."""


def printed(config: STGConfig) -> STGConfig:
    """The paper's constants, with what the proposals need of a configuration."""
    found = next(row.config for row in table_rows(config) if row.name == "printed")
    assert found is not None
    return found


def paper_cases(rows: Mapping[int, PaperRow], sources: Mapping[str, Source]) -> dict[int, Case]:
    """Rows of Table 4, by number, as far as there are weights for them.

    Those without FT take the ``base`` weights, or where there are none the ``own`` ones.
    """
    cases = {}
    for number, row in rows.items():
        weights = "ytb" if row.ytb else "own" if row.ft or "base" not in sources else "base"
        if weights in sources:
            config = row.apply(sources[weights].config)
            cases[number] = Case(f"row-{number}", row.step, config, weights, online=row.ol)
    return cases


def own_cases(sources: Mapping[str, Source], online: bool = True) -> list[Case]:
    """The full model as its checkpoint has it, and what becomes of it without each part; the full model comes first.

    A part that the checkpoint does not have cannot be taken away and is left out, as is online learning with
    ``online`` off.
    """
    full = sources["own"].config
    rows = {row.name: row.config for row in table_rows(full)}
    without: list[tuple[str, STGConfig]] = [
        ("no motion model", full.replace("motion.enabled", False)),
        ("no spatial graph", full.replace("spatial.enabled", False)),
        ("no temporal graph", full.replace("temporal.enabled", False)),
        ("no memory of whole frames", full.replace("scene.enabled", False)),
        ("no gate of the nodes", full.replace("spatial.node_gate", False)),
        ("no quality term in Eq. 6", full.replace("selection.quality_weight", 0.0)),
        ("no re-detection", full.replace("recovery.redetect", False)),
        ("no completion of parts", full.replace("recovery.complete", False)),
        ("no updates while the video runs", full.replace("online.update_every", 0)),
        ("no learned part of the graphs", full.without_learned_parts()),
    ]
    one_box = full.without_learned_parts().replace(ONE_BOX)
    cases = [Case("full", "full model", full)]
    cases += [Case(_name(label), label, config) for label, config in without if config != full]
    cases += [
        Case("mean", "plain mean of the proposals", rows["mean"]),
        Case("greedy", "best proposal by Eq. 6", rows["greedy"]),
        Case("one-box", "one box, the predicted one, and no graph", one_box),
        Case("flow", "flow only", None, online=False),
    ]
    if online:
        cases.append(Case("no-online-learning", "no online learning", full, online=False))
    if "base" in sources:
        base = sources["base"].config
        cases.append(Case("no-fine-tuning", "no fine-tuning", base, "base"))
        if online:
            cases.append(Case("neither", "neither online learning nor fine-tuning", base, "base", online=False))
    return cases


def curve_cases(curve: Curve, full: STGConfig) -> list[tuple[float | int | str, Case]]:
    """The points of a curve; the value of the full model is among them.

    Returns:
        (value, case), ascending; the value is ``"all"`` where it is None, a memory without bound.
    """
    values = sorted({*curve.values, full.get(curve.path)}, key=lambda value: (value is None, value))
    points: list[tuple[float | int | str, Case]] = []
    for value in values:
        shown = "all" if value is None else value
        points.append((shown, Case(f"{curve.name}-{shown}", str(shown), full.replace({curve.path: value}))))
    return points


def own_value(curve: Curve, full: STGConfig) -> float | int | str:
    """Where the full model is on a curve."""
    value = full.get(curve.path)
    return "all" if value is None else value


def _name(label: str) -> str:
    return label.lower().replace(" ", "-").replace(".", "")
