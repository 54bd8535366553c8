"""What a source of optical flow, as options name it, stands for."""

from __future__ import annotations

from pathlib import Path

from experiments.runs.settings import path_state
from stg_pyg.flow.sources import DIS_SPECS, RAFT_SPECS
from stg_pyg.utils.pretrained import weights_file


def flow_state(spec: str, sequence: str = "") -> str | None:
    """A name as it is, and the state of a folder of .flo files, or of its folder of one sequence."""
    return spec if spec in DIS_SPECS or spec in RAFT_SPECS else path_state(Path(spec) / sequence)


def raft_state(spec: str, weights: str) -> str | None:
    """The content of the file of RAFT's weights; of a source without weights nothing."""
    if spec not in RAFT_SPECS:
        return None
    return path_state(weights_file(RAFT_SPECS[spec], weights))
