"""The rows of Tables 1 to 3 of the paper (Liu et al., AAAI 2021, arXiv:2012.05499), as printed."""

from __future__ import annotations

from dataclasses import dataclass, field

OURS_IN_PAPER = "STG-Net (paper)"
"""The paper's own rows, which it calls "Ours"."""


@dataclass(frozen=True)
class Target:
    """One benchmark of a table."""

    table: int
    dataset: str
    """As presets name it."""
    split: str
    title: str
    columns: tuple[str, ...] = ("J", "F", "G")
    main: str = "G"
    """The score that methods are ranked by."""

    @property
    def key(self) -> str:
        return f"{self.dataset}-{self.split}"


@dataclass(frozen=True)
class Result:
    """A row of a table for one benchmark; scores in percent, None where there is none."""

    target: str
    """:attr:`Target.key`."""
    method: str
    online: bool
    """Whether it learns on the first frame of each video."""
    scores: dict[str, float | None] = field(default_factory=dict)
    spread: float | None = None
    """Standard deviation of the main score over seeds."""
    fps: float | None = None
    """Frames a second with the time of online learning, printed or measured."""
    fps_steps: float | None = None
    """Those without it, not printed in the paper."""
    ours: bool = False
    """Whether it was measured here, not printed in the paper."""
    note: str = ""


YOUTUBE_VOS = ("J_seen", "J_unseen", "F_seen", "F_unseen", "G")
TARGETS = (
    Target(1, "davis2017", "test-dev", "DAVIS-2017 test-dev"),
    Target(1, "davis2017", "val", "DAVIS-2017 val"),
    Target(1, "davis2016", "val", "DAVIS-2016 val"),
    Target(2, "youtube_vos", "valid", "YouTube-VOS valid", YOUTUBE_VOS),
    Target(3, "segtrack_v2", "all", "SegTrack-v2", main="J"),
    Target(3, "youtube_objects", "all", "YouTube-Objects", main="J"),
)

_N = None
_TABLE_1: tuple[tuple[str, tuple[float | None, ...]], ...] = (
    # J, F, G of DAVIS-2017 test-dev, of DAVIS-2017 val and of DAVIS-2016 val; * pre-trained on YouTube-VOS
    ("OSMN (Yang et al. 2018)", (37.7, 44.9, 41.3, 52.5, 57.1, 54.8, 74.0, 72.9, 73.5)),
    ("SiamMask (Wang et al. 2019a)", (40.6, 45.8, 43.2, 54.3, 58.5, 56.4, 71.7, 67.8, 69.8)),
    ("FAVOS (Cheng et al. 2018)", (42.9, 44.2, 43.6, 54.6, 61.8, 58.2, 82.4, 79.5, 81.0)),
    ("RVOS (Ventura et al. 2019)", (47.9, 52.6, 50.3, 57.5, 63.6, 60.6, _N, _N, _N)),
    ("AGAME (Johnander et al. 2019)", (49.2, 55.3, 52.3, 68.5, 73.6, 71.0, 81.5, 82.2, 81.9)),
    ("RGMP (Wug Oh et al. 2018)", (51.3, 54.4, 52.8, 64.8, 68.6, 66.7, 81.5, 82.0, 81.8)),
    ("AGSS (Lin, Qi, and Jia 2019)", (51.5, 57.1, 54.3, 63.4, 69.8, 66.6, _N, _N, _N)),
    ("FEEL (Voigtlaender et al. 2019)", (51.2, 57.5, 54.4, 65.9, 72.3, 69.1, 80.3, 83.1, 81.7)),
    ("RANet (Wang et al. 2019c)", (53.4, 57.2, 55.3, 63.2, 68.2, 65.7, 85.5, 85.4, 85.5)),
    ("AGSS* (Lin, Qi, and Jia 2019)", (54.8, 59.7, 57.2, 64.9, 69.9, 67.4, _N, _N, _N)),
    ("FEEL* (Voigtlaender et al. 2019)", (55.1, 60.4, 57.8, 69.1, 74.0, 71.5, 81.1, 82.2, 81.7)),
    (OURS_IN_PAPER, (59.7, 66.5, 63.1, 71.5, 77.9, 74.7, 85.4, 86.0, 85.7)),
)
_TABLE_2: tuple[tuple[str, bool, tuple[float | None, ...], float | None], ...] = (
    # J of seen and of unseen categories, F of both, G; frames a second
    ("OSMN", False, (60.0, 40.6, 60.1, 44.0, 51.2), 8.0),
    ("DMM", False, (58.3, 41.6, 60.7, 46.3, 51.7), 12.0),
    ("SiamMask", False, (60.2, 45.1, 58.2, 47.7, 52.8), 55.0),
    ("RGMP", False, (59.5, _N, 45.2, _N, 53.8), 7.0),
    ("OnAVOS", True, (60.1, 46.6, 62.7, 51.4, 55.2), 0.1),
    ("RVOS", False, (63.6, 45.5, 67.2, 51.0, 56.8), 24.0),
    ("S2S", False, (66.7, 48.2, 65.5, 50.3, 57.7), 6.0),
    ("DMM", True, (60.3, 50.6, 63.5, 57.4, 58.0), _N),
    ("OSVOS", True, (59.8, 54.2, 60.5, 60.7, 58.8), 0.1),
    ("S2S", True, (71.0, 55.5, 70.0, 61.2, 64.4), 0.1),
    ("AGAME", False, (66.9, 61.2, _N, _N, 66.0), _N),
    ("AGSS", False, (71.3, 65.5, 75.2, 73.1, 71.3), 12.0),
    (OURS_IN_PAPER, False, (72.7, 69.1, 75.2, 74.9, 73.0), 6.0),
)
_TABLE_3: tuple[tuple[str, str, bool, float], ...] = (
    # J
    ("segtrack_v2-all", "OSVOS", True, 65.4),
    ("segtrack_v2-all", "RGMP", False, 71.1),
    ("segtrack_v2-all", "DMM", False, 76.7),
    ("segtrack_v2-all", OURS_IN_PAPER, False, 79.5),
    ("youtube_objects-all", "OSMN", False, 69.0),
    ("youtube_objects-all", "FEEL", False, 78.9),
    ("youtube_objects-all", "OnAVOS", True, 80.5),
    ("youtube_objects-all", OURS_IN_PAPER, False, 84.1),
)


def paper_rows() -> list[Result]:
    """All rows of the three tables, by benchmark, in the paper's order; a method that lacks one is left out there."""
    rows: list[Result] = []
    for number, target in enumerate(target for target in TARGETS if target.table == 1):
        for method, values in _TABLE_1:
            scores = dict(zip(target.columns, values[3 * number : 3 * number + 3], strict=True))
            if scores["G"] is not None:
                rows.append(Result(target.key, method, False, scores))
    for method, online, values, fps in _TABLE_2:
        rows.append(Result("youtube_vos-valid", method, online, dict(zip(YOUTUBE_VOS, values, strict=True)), fps=fps))
    rows += [Result(target, method, online, {"J": j}) for target, method, online, j in _TABLE_3]
    return rows
