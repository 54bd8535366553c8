"""The trace of a frame as a file of plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stg_pyg.errors import InputError
from stg_pyg.proposals.rle import decode_masks

FORMAT = "stg_pyg-trace-1"
CONSTANTS = ("selection.lambda1", "selection.quality_weight", "spatial.alpha", "selection.thr")
MASKS = {"proposals": "N", "nodes": "N", "refined": "K", "q": "K"}
_LONGEST_SIDE = 2**14

Arrays = dict[str, Any]
"""NumPy arrays by name."""
Part = dict[str, Any]
"""The same, and lists of masks in COCO's compressed RLE by the names of ``MASKS``."""


class Per(NamedTuple):
    """An array with an entry for each of ``what``; its values are places among all ``counts``, if that is named."""

    what: str
    kind: type
    tail: tuple[int, ...] = ()
    """Shape of one entry, of an empty array."""
    counts: str = ""


@dataclass(frozen=True)
class FrameTrace:
    """The trace of one frame of H x W pixels: N nodes over K objects, E edges, M memory frames of all objects."""

    size: tuple[int, int]
    lambda1: float
    quality_weight: float
    """Weight of the gate in the total score, beside both terms of Eq. 6."""
    alpha: float
    thr: float
    proposals: Tensor
    """[N, H, W] bool, masks of the proposals."""
    nodes: Tensor
    """[N, H, W] bool, reconstructed masks."""
    refined: Tensor
    """[K, H, W] bool, masks after Eq. 8, before objects are merged."""
    q: Tensor
    """[K, H, W] bool, the previous mask warped to this frame."""
    obj_ids: Annotated[list[int], Per("K", np.int64)]
    batch: Annotated[NDArray[Any], Per("N", np.int64, counts="K")]
    """[N] object position of each node."""
    selected: Annotated[NDArray[Any], Per("K", np.int64, counts="N")]
    """[K] chosen node, -1 for none."""
    origin: Annotated[list[str], Per("N", np.str_)]
    """N names of the evidence that the proposals came from, empty where unknown."""
    proposal_box: Annotated[NDArray[Any], Per("N", np.float32, (4,))]
    proposal_score: Annotated[NDArray[Any], Per("N", np.float32)]
    """[N] expected quality, or the score of a detector."""
    node_box: Annotated[NDArray[Any], Per("N", np.float32, (4,))]
    """[N, 4] boxes of the reconstructed masks, zeros for an empty one."""
    box_term: Annotated[NDArray[Any], Per("N", np.float32)]
    """[N] IoU(B(M), p) of Eq. 6, without lambda1."""
    mask_term: Annotated[NDArray[Any], Per("N", np.float32)]
    """[N] IoU(M, Q) of Eq. 6, without lambda2."""
    gate: Annotated[NDArray[Any], Per("N", np.float32)]
    total: Annotated[NDArray[Any], Per("N", np.float32)]
    """[N] the score that the node was selected by."""
    p: Annotated[NDArray[Any], Per("K", np.float32, (4,))]
    window: Annotated[NDArray[Any], Per("K", np.float32, (4,))]
    """[K, 4] part of the frame that the keys were computed from."""
    edge_index: Annotated[NDArray[Any], Per("E", np.int64, counts="N")]
    """[2, E] source and target."""
    edge_weight: Annotated[NDArray[Any], Per("E", np.float16)]
    """[E] of Eq. 3, times the gate of the source if there is one."""
    memory_batch: Annotated[NDArray[Any], Per("M", np.int64, counts="K")]
    """[M] object position of each memory frame."""
    memory_frame: Annotated[list[str], Per("M", np.str_)]
    """M names of frames."""
    memory_window: Annotated[NDArray[Any], Per("M", np.float32, (4,))]
    """[M, 4] part of the memory frame that its keys were computed from."""
    attention_cells: Annotated[NDArray[Any], Per("M", np.float16, (0, 0))]
    """[M, g g, G G], see :func:`stg_pyg.video.trace.pooled_attention`."""
    attention_object: Annotated[NDArray[Any], Per("M", np.float16, (0, 0))]
    """[M, S, S]."""


_HINTS = get_type_hints(FrameTrace, include_extras=True)
_FIELDS: dict[str, Per] = {name: get_args(hint)[1] for name, hint in _HINTS.items() if get_origin(hint) is Annotated}


def join_parts(parts: Sequence[Part], size: Sequence[int]) -> Arrays:
    """The arrays of a file, of all objects of a frame of ``size`` (H, W) that the network saw in one or several parts;
    without parts, of a frame whose objects were all given."""
    arrays: Arrays = {}
    for name, form in _FIELDS.items():
        start = dict.fromkeys("KN", 0)
        found = []
        for part in parts:
            values = part[name]
            if form.counts:
                values = np.where(values < 0, values, values + start[form.counts])
            if values.size:
                found.append(values)
            start = {"K": start["K"] + len(part["obj_ids"]), "N": start["N"] + len(part["batch"])}
        empty: NDArray[Any] = np.zeros((2, 0) if name == "edge_index" else (0, *form.tail), form.kind)
        arrays[name] = np.concatenate(found, axis=int(name == "edge_index")) if found else empty
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
    """A file of :class:`stg_pyg.video.trace.Tracer`.

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
    lengths = {"N": "batch", "K": "obj_ids", "M": "memory_batch", "E": "edge_weight"}
    count = {what: len(arrays[name]) for what, name in lengths.items()}
    for name, form in _FIELDS.items():
        found = arrays[name].shape[int(name == "edge_index")]
        if found != count[form.what]:
            raise ValueError(f"{name} has {found} entries, not {count[form.what]}")
    data, ends = arrays["rle"].tobytes(), arrays["rle_lengths"].cumsum()
    counts = [data[end - length : end] for end, length in zip(ends, arrays["rle_lengths"], strict=True)]
    masks = decode_masks(counts, (height, width)).split([count[what] for what in MASKS.values()])
    lists = {name: arrays[name].tolist() for name in ("obj_ids", "origin", "memory_frame")}
    constants = dict(zip((path.partition(".")[2] for path in CONSTANTS), arrays["constants"].tolist(), strict=True))
    values = {name: arrays[name] for name in _FIELDS} | lists | constants | dict(zip(MASKS, masks, strict=True))
    return FrameTrace(size=(height, width), **values)
