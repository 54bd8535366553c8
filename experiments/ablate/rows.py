"""The configurations of the ablation: Table 4 of the paper, our model with parts taken away, and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.common.presets import Preset
from experiments.runs.rows import table_rows
from stg_pyg.config import STGConfig

Value = float | int | str
"""Of a constant; a memory without bound is ``all``."""


class Source(NamedTuple):
    """Trained weights and the configuration that rows with them start from."""

    path: Path
    preset: Preset
    config: STGConfig


class Case(NamedTuple):
    """One configuration to be scored."""

    name: str
    label: str
    config: STGConfig | None
    """None: the previous mask warped by optical flow, and nothing else."""
    weights: str = "own"
    """Which :class:`Source`: ``own``, ``base`` (trained without lucid augmentation) or ``ytb``."""
    online: bool = True
    """Whether it learns on the first frame of each video."""


class PaperRow(NamedTuple):
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

    def apply(self, config: STGConfig) -> STGConfig:
        """The configuration with the settings of this row; the rest stays as it is."""
        changes: dict[str, Any] = {"motion.enabled": self.mo, "spatial.enabled": self.sg, "temporal.enabled": self.tg}
        changes |= {"spatial.alpha": self.alpha, "spatial.num_steps": self.l, "selection.lambda1": self.lambda1}
        return config.replace({path: value for path, value in changes.items() if value is not None})


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


class Curve(NamedTuple):
    """G over one constant, all others as in the full model."""

    path: str
    values: tuple[float | int | None, ...]
    title: str
    evenly: bool = False
    """Draw the values at equal distances."""

    def own_value(self, full: STGConfig) -> Value:
        """Where the full model is."""
        return _shown(full.get(self.path))


CURVES = {
    "alpha": Curve("spatial.alpha", (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0), "alpha of Eq. 3"),
    "l": Curve("spatial.num_steps", (1, 2, 3, 4), "l, steps of Eqs. 4-5"),
    "lambda1": Curve("selection.lambda1", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "lambda1 of Eq. 6"),
    "n": Curve("motion.steps", (1, 2, 5, 10, 20), "n of Eq. 2", evenly=True),
    "thr": Curve("selection.thr", (0.2, 0.3, 0.4, 0.5, 0.6), "thr, threshold on h"),
    "memory": Curve("memory.frames", (1, 2, 4, 8, 16, None), "frames in the memory", evenly=True),
}
_WITHOUT: dict[str, dict[str, Any]] = {
    "no motion model": {"motion.enabled": False},
    "no spatial graph": {"spatial.enabled": False},
    "no temporal graph": {"temporal.enabled": False},
    "no memory of whole frames": {"scene.enabled": False},
    "no gate of the nodes": {"spatial.node_gate": False},
    "no quality term in Eq. 6": {"selection.quality_weight": 0.0},
    "no re-detection": {"recovery.redetect": False},
    "no completion of parts": {"recovery.complete": False},
    "no updates while the video runs": {"online.update_every": 0},
}
_UNLEARNED = "no learned part of the graphs"
_ONE_BOX = {
    "proposals.evidence": ("p",),
    "spatial.enabled": False,
    "recovery.redetect": False,
    "recovery.complete": False,
}


def _name(label: str) -> str:
    return label.lower().replace(" ", "-").replace(".", "")


OWN_NAMES = ("full", *map(_name, [*_WITHOUT, _UNLEARNED]), "mean", "greedy", "one-box", "flow")
OWN_NAMES += ("no-online-learning", "no-fine-tuning", "neither")
"""All that :func:`own_cases` can return."""


def printed(config: STGConfig) -> STGConfig:
    """The paper's constants, with what the proposals need of a configuration."""
    found = next(row.config for row in table_rows(config) if row.name == "printed")
    assert found is not None
    return found


def paper_cases(rows: Sequence[PaperRow], sources: Mapping[str, Source]) -> dict[int, Case]:
    """Rows of Table 4, by number, as far as there are weights for them.

    Those without FT take the ``base`` weights, or where there are none the ``own`` ones.
    """
    cases = {}
    for row in rows:
        weights = "ytb" if row.ytb else "own" if row.ft or "base" not in sources else "base"
        if weights in sources:
            config = row.apply(sources[weights].config)
            cases[row.number] = Case(f"row-{row.number}", row.step, config, weights, online=row.ol)
    return cases


def own_cases(sources: Mapping[str, Source], online: bool = True) -> list[Case]:
    """The full model as its checkpoint has it, and what becomes of it without each part; the full model comes first.

    A part that the checkpoint does not have cannot be taken away and is left out, as is online learning with
    ``online`` off.
    """
    full = sources["own"].config
    rows = {row.name: row.config for row in table_rows(full)}
    without = {label: full.replace(changes) for label, changes in _WITHOUT.items()}
    without[_UNLEARNED] = full.without_learned_parts()
    cases = [Case("full", "full model", full)]
    cases += [Case(_name(label), label, config) for label, config in without.items() if config != full]
    cases += [
        Case("mean", "plain mean of the proposals", rows["mean"]),
        Case("greedy", "best proposal by Eq. 6", rows["greedy"]),
        Case("one-box", "one box, the predicted one, and no graph", without[_UNLEARNED].replace(_ONE_BOX)),
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


def curve_cases(name: str, full: STGConfig) -> dict[Value, Case]:
    """The points of a curve by value, ascending; that of the full model is among them."""
    curve = CURVES[name]
    values = sorted({*curve.values, full.get(curve.path)}, key=lambda value: (value is None, value))
    return {
        _shown(value): Case(f"{name}-{_shown(value)}", str(_shown(value)), full.replace({curve.path: value}))
        for value in values
    }


def _shown(value: float | int | None) -> Value:
    return "all" if value is None else value
