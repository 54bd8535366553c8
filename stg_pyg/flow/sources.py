"""Sources of optical flow by name: DIS (no weights), RAFT (a network), and a folder of .flo files."""

from __future__ import annotations

import os

import torch

from stg_pyg.errors import InputError
from stg_pyg.flow.dis import DISFlow
from stg_pyg.flow.flo_files import FloFiles
from stg_pyg.flow.interface import FlowEstimator

DIS_SPECS = {"dis": "medium", "dis:fast": "fast", "dis:ultrafast": "ultrafast"}
RAFT_SPECS = {"raft": "raft_large", "raft:small": "raft_small"}


def resolve_flow(
    spec: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] = "auto",
    device: torch.device | str = "cpu",
    max_size: int | None = 480,
) -> FlowEstimator:
    """The source of flow ``dis``, ``dis:fast``, ``dis:ultrafast``, ``raft``, ``raft:small``, or a folder of .flo files.

    Args:
        spec: its name.
        weights, device: of RAFT, see :class:`~stg_pyg.flow.raft.RAFTFlow`.
        max_size: longest side of the frames that DIS and RAFT see; None for full size.

    Raises:
        InputError: for another spec, or weights that cannot be loaded.
    """
    name = os.fspath(spec)
    if name in DIS_SPECS:
        return DISFlow(DIS_SPECS[name], max_size)  # type: ignore[arg-type]
    if name in RAFT_SPECS:
        from stg_pyg.flow.raft import RAFTFlow  # the network only where it is asked for

        return RAFTFlow(RAFT_SPECS[name], weights, device, max_size)  # type: ignore[arg-type]
    if os.path.isdir(name):
        return FloFiles(name, DISFlow("medium", max_size))
    raise InputError(
        f"{name}: neither a folder of .flo files nor a source of flow: give one of "
        f"{', '.join([*DIS_SPECS, *RAFT_SPECS])}, or a folder with <sequence>/<frame stem>.flo"
    )
