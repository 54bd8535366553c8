"""The trace of a frame as a file: plain arrays, masks run-length encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stg_pyg.encoded import decode_masks
from stg_pyg.errors import InputError

FORMAT = "stg_pyg-trace-1"
CONSTANTS = ("lambda1", "quality_weight", "alpha", "thr")
_LONGEST_SIDE = 2**14

Arrays = dict[str, Any]
"""NumPy arrays by name."""
Part = dict[str, Any]
"""The same, and lists of masks in COCO's compressed RLE by the names of ``MASKS``."""
MASKS = ("proposals", "nodes", "refined", "q")
_TAILS: dict[str, tuple[type, tuple[int, ...]]] = {
    "obj_ids": (np.int64, ()),
    "batch": (np.int64, ()),
    "selected": (np.int64, ()),
    "origin": (np.str_, ()),
    "proposal_box": (np.float32, (4,)),
    "proposal_score": (np.float32, ()),
    "node_box": (np.float32, (4,)),
    "box_term": (np.float32, ()),
    "mask_term": (np.float32, ()),
    "gate": (np.float32, ()),
    "total": (np.float32, ()),
    "p": (np.float32, (4,)),
    "window": (np.float32, (4,)),
    "memory_batch": (np.int64, ()),
    "memory_frame": (np.str_, ()),
    "memory_window": (np.float32, (4,)),
    "edge_weight": (np.float16, ()),
}
"""Type and shape of one entry of the arrays that parts are put on end of."""


@dataclass(frozen=True)
class FrameTrace:
    """The trace of one frame of H x W pixels: N nodes over K objects, E edges, M memory frames of all objects."""

    size: tuple[int, int]
    obj_ids: list[int]
    lambda1: float
    quality_weight: float
    """Weight of the gate in the total score, beside both terms of Eq. 6."""
    alpha: float
    thr: float
    batch: NDArray[Any]
    """[N] object position of each node."""
    selected: NDArray[Any]
    """[K] chosen node, -1 for none."""
    origin: list[str]
    """N names of the evidence that the proposals came from, empty where unknown."""
    proposal_box: NDArray[Any]
    """[N, 4]."""
    proposal_score: NDArray[Any]
    """[N] expected quality, or the score of a detector."""
    node_box: NDArray[Any]
    """[N, 4] boxes of the reconstructed masks, zeros for an empty one."""
    box_term: NDArray[Any]
    """[N] IoU(B(M), p) of Eq. 6, without lambda1."""
    mask_term: NDArray[Any]
    """[N] IoU(M, Q) of Eq. 6, without lambda2."""
    gate: NDArray[Any]
    """[N]."""
    total: NDArray[Any]
    """[N] the score that the node was selected by."""
    p: NDArray[Any]
    """[K, 4]."""
    window: NDArray[Any]
    """[K, 4] part of the frame that the keys were computed from."""
    edge_index: NDArray[Any]
    """[2, E] source and target."""
    edge_attr: NDArray[Any]
    """[E, 2 or 3]."""
    edge_weight: NDArray[Any]
    """[E] of Eq. 3, times the gate of the source if there is one."""
    memory_batch: NDArray[Any]
    """[M] object position of each memory frame."""
    memory_frame: list[str]
    """M names of frames."""
    memory_window: NDArray[Any]
    """[M, 4] part of the memory frame that its keys were computed from."""
    attention_cells: NDArray[Any]
    """[M, g g, G G], see :func:`stg_pyg.trace.pooled_attention`."""
    attention_object: NDArray[Any]
    """[M, S, S]."""
    proposals: Tensor
    """[N, H, W] bool, masks of the proposals."""
    nodes: Tensor
    """[N, H, W] bool, reconstructed masks."""
    refined: Tensor
    """[K, H, W] bool, masks after Eq. 8, before objects are merged."""
    q: Tensor
    """[K, H, W] bool, the previous mask warped to this frame."""


def join_parts(parts: Sequence[Part], size: Sequence[int]) -> Arrays:
    """The arrays of a file, of all objects of a frame of ``size`` (H, W) that the network saw in one or several parts;
    without parts, of a frame whose objects were all given."""
    nodes = np.cumsum([0, *(len(part["batch"]) for part in parts)])
    objects = np.cumsum([0, *(len(part["obj_ids"]) for part in parts)])
    shifted = [
        {
            **part,
            "batch": part["batch"] + k,
            "selected": np.where(part["selected"] < 0, -1, part["selected"] + n),
            "edge_index": part["edge_index"] + n,
            "memory_batch": part["memory_batch"] + k,
        }
        for part, n, k in zip(parts, nodes, objects, strict=False)
    ]
    arrays: Arrays = {
        name: np.concatenate([np.zeros((0, *tail), kind), *(part[name] for part in shifted)])
        for name, (kind, tail) in _TAILS.items()
    }
    arrays["edge_index"] = np.concatenate([np.zeros((2, 0), np.int32), *(p["edge_index"] for p in shifted)], axis=1)
    for name in ("edge_attr", "attention_cells", "attention_object"):
        filled = [part[name] for part in parts if len(part[name])]
        arrays[name] = np.concatenate(filled) if filled else np.zeros((0, 0, 0), np.float16)
    counts = [item for name in MASKS for part in parts for item in part[name]]
    return arrays | {
        "format": np.array(FORMAT),
        "size": np.array(size, np.int64),
        "constants": parts[0]["constants"] if parts else np.zeros(len(CONSTANTS)),
        "rle": np.frombuffer(b"".join(counts), np.uint8),
        "rle_lengths": np.array([len(item) for item in counts], np.int64),
    }


def read_arrays(path: Path, *names: str) -> Arrays:
    """Some arrays of a file, or all of them.

    Raises:
        InputError: it is missing, broken, or no trace.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["format"]) != FORMAT:
                raise ValueError(f"its format is {file['format']}")
            return {name: file[name] for name in names or file.files}
    except Exception as error:  # broken archives and headers raise errors of all kinds
        raise _no_trace(path, error) from error


def read_trace(path: Path) -> FrameTrace:
    """A file of :class:`stg_pyg.trace.Tracer`.

    Raises:
        InputError: it is missing, broken, or no trace.
    """
    arrays = read_arrays(path)
    try:
        return _parse(arrays)
    except Exception as error:
        raise _no_trace(path, error) from error


def _no_trace(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: is no trace that can be read ({error}); delete it, or run again with --trace")


def _parse(arrays: Arrays) -> FrameTrace:
    height, width = (int(side) for side in arrays["size"])
    if not 0 < min(height, width) <= max(height, width) <= _LONGEST_SIDE:
        raise ValueError(f"size {height} x {width}")
    n, k, m = len(arrays["batch"]), len(arrays["obj_ids"]), len(arrays["memory_batch"])
    wanted = dict.fromkeys(("origin", "proposal_box", "proposal_score", "node_box", "gate", "total"), n)
    wanted |= dict.fromkeys(("box_term", "mask_term"), n) | dict.fromkeys(("selected", "p", "window"), k)
    wanted |= dict.fromkeys(("memory_frame", "memory_window", "attention_cells", "attention_object"), m)
    for name, count in wanted.items():
        if len(arrays[name]) != count:
            raise ValueError(f"{name} has {len(arrays[name])} entries, not {count}")
    ends = arrays["rle_lengths"].cumsum()
    data = arrays["rle"].tobytes()
    counts = [data[end - length : end] for end, length in zip(ends, arrays["rle_lengths"], strict=True)]
    proposals, nodes, refined, q = decode_masks(counts, (height, width)).split([n, n, k, k])
    values: Arrays = {f.name: arrays[f.name] for f in fields(FrameTrace) if f.name in arrays}
    values |= {name: float(v) for name, v in zip(CONSTANTS, arrays["constants"], strict=True)}
    values |= {name: [str(v) for v in arrays[name]] for name in ("origin", "memory_frame")}
    values |= {"size": (height, width), "obj_ids": [int(i) for i in arrays["obj_ids"]]}
    return FrameTrace(**values, proposals=proposals, nodes=nodes, refined=refined, q=q)
