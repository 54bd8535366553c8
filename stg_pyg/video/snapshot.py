"""The history of a video as tensors and plain values, so that another process goes on with it."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stg_pyg.errors import InputError
from stg_pyg.graph.memory import MemoryBank
from stg_pyg.graph.scene import SceneMemory
from stg_pyg.proposals.appearance import ColourModel
from stg_pyg.video.objects import ObjectState
from stg_pyg.video.segmenter import VideoSegmenter

FORMAT = "stg_pyg-stream-4"
_CLASSES = {cls.__name__: cls for cls in (ColourModel, MemoryBank, ObjectState, SceneMemory)}
_GIVEN_AT_CONSTRUCTION = {"model", "config", "flow", "proposer", "updates"}


def stream_state(segmenter: VideoSegmenter) -> dict[str, Any]:
    """Everything that a segmenter remembers between two steps, with what its updates have learned; the network that it
    began with and its flow are not part of it.

    Only tensors, their dtypes, numbers, text, lists and dictionaries, so that ``torch.save`` and
    ``torch.load(weights_only=True)`` keep it. The tensors share memory with the segmenter: write them before its next
    step. Masks of 0 and 1 are packed into bits.

    Raises:
        TypeError: the segmenter holds something that has no plain form.
    """
    kept = {name: value for name, value in vars(segmenter).items() if name not in _GIVEN_AT_CONSTRUCTION}
    state = {"format": FORMAT, "segmenter": {name: _pack(value, name) for name, value in kept.items()}}
    return state | ({} if segmenter.updates is None else {"updates": segmenter.updates.state()})


def restore_stream(segmenter: VideoSegmenter, state: dict[str, Any]) -> None:
    """Lets a segmenter of the same network and options go on where :func:`stream_state` was taken, to the last bit.

    Raises:
        InputError: the state is of another version of the library or of another kind of segmenter.
    """
    fields = state.get("segmenter")
    known = set(vars(segmenter)) - _GIVEN_AT_CONSTRUCTION
    updates = segmenter.updates
    same_kind = ("updates" in state) == (updates is not None)
    if state.get("format") != FORMAT or fields is None or set(fields) != known or not same_kind:
        raise InputError(f"the state of the stream is not of this version ({FORMAT}); begin the video anew")
    device = segmenter.device
    vars(segmenter).update({name: _unpack(value, device) for name, value in fields.items()})
    if updates is not None:
        updates.restore(state["updates"])


def _pack(value: Any, what: str) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return value
    if isinstance(value, Tensor):
        return _pack_tensor(value.detach())
    if isinstance(value, np.ndarray):
        return {"array": torch.from_numpy(value)}
    if isinstance(value, deque):
        return {"deque": [_pack(item, what) for item in value], "maxlen": value.maxlen}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_pack(item, what) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_pack(key, what), _pack(item, what)] for key, item in value.items()]}
    if type(value) in _CLASSES.values():
        name = type(value).__name__
        return {"class": name, "fields": {key: _pack(item, f"{name}.{key}") for key, item in vars(value).items()}}
    raise TypeError(f"{what}: a {type(value).__name__} has no plain form that the state of a stream can hold")


def _unpack(value: Any, device: torch.device) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value or "bits" in value:
        return _unpack_tensor(value).to(device)
    if "array" in value:
        return value["array"].cpu().numpy()
    if "deque" in value:
        return deque((_unpack(item, device) for item in value["deque"]), maxlen=value["maxlen"])
    if "dict" in value:
        return {_unpack(key, device): _unpack(item, device) for key, item in value["dict"]}
    if "class" in value:
        cls = _CLASSES[value["class"]]
        restored = cls.__new__(cls)
        vars(restored).update({key: _unpack(item, device) for key, item in value["fields"].items()})
        return restored
    (kind,) = value
    items = [_unpack(item, device) for item in value[kind]]
    return tuple(items) if kind == "tuple" else items


def _pack_tensor(value: Tensor) -> dict[str, Any]:
    binary = value.is_floating_point() and value.ndim >= 2 and value.is_contiguous()
    if binary and bool(((value == 0) | (value == 1)).all()):
        bits = np.packbits(value.bool().cpu().numpy())
        return {"bits": torch.from_numpy(bits), "shape": list(value.shape), "dtype": value.dtype}
    # A view would take all of what it is a view of to the file.
    owns_memory = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return {"tensor": value if owns_memory else value.clone()}


def _unpack_tensor(value: dict[str, Any]) -> Tensor:
    if "tensor" in value:
        stored: Tensor = value["tensor"]
        return stored
    shape = value["shape"]
    bits = np.unpackbits(value["bits"].cpu().numpy(), count=int(np.prod(shape)))
    return torch.from_numpy(bits).to(value["dtype"]).reshape(shape)
