"""How every frame came about: its graph, both terms of Eq. 6, the attention of Eq. 7, a file of plain arrays each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stg_pyg.graph.memory import MemoryBank
from stg_pyg.model.selection import selection_scores_batched
from stg_pyg.model.stgnet import FrameInput, FrameOutput, STGNet
from stg_pyg.nn.temporal.memory_attention import MemoryAttention
from stg_pyg.ops.boxes import masks_to_boxes
from stg_pyg.ops.crops import crop_resize, crop_windows
from stg_pyg.proposals.base import Proposals
from stg_pyg.proposals.rle import encode_masks
from stg_pyg.utils.images import write_atomic
from stg_pyg.video.segmenter import StepResult
from stg_pyg.video.trace_files import CONSTANTS, Arrays, Part, join_parts, read_arrays

MAX_MEMORY = 8
"""Memory frames of an object whose attention is kept; of more, the first, the last and some evenly between."""
QUERY_CELLS, KEY_CELLS = 8, 16
"""Most cells a side that the attention of single places is averaged to, of the current frame and of the memory."""


class Tracer:
    """Writes ``<folder>/<frame>.npz`` of the frames of one video, see :class:`stg_pyg.video.trace_files.FrameTrace`.

    A context manager that listens to the model while a segmenter runs it, and changes nothing.

    Args:
        done: names of the frames before the next one, where a run goes on. Their traces stay, all others are deleted.

    Raises:
        InputError: the trace of a frame that is done cannot be read.

    Example:
        >>> with Tracer(model, folder) as tracer:
        >>>     for name, image in frames:
        >>>         tracer.write(name, video.step(image))
    """

    def __init__(self, model: STGNet, folder: Path, done: Iterable[str] = ()) -> None:
        self.model, self.folder = model, folder
        self._position = 0
        self._names: dict[int, str] = {}
        self._windows: dict[tuple[int, int], Tensor] = {}
        self._parts: dict[tuple[int, ...], Part] = {}
        self._restore(list(done))

    def __enter__(self) -> Tracer:
        self._hook = self.model.register_forward_hook(self._listen)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    @torch.no_grad()
    def write(self, name: str, result: StepResult, given: NDArray[Any] | None = None) -> None:
        """The trace of the next frame of the video, in which objects were ``given`` by a label map [H, W].

        Raises:
            InputError: the file cannot be written.
        """
        arrays = join_parts(list(self._parts.values()), result.labels.shape)
        self._parts.clear()
        windows = self._windows_of(result, arrays, given)
        self._keep(self._position, name, result.obj_ids, windows)
        arrays |= {
            "position": np.array(self._position),
            "known_ids": np.array(result.obj_ids, np.int64),
            "known_window": _floats(windows),
        }
        write_atomic(self.folder / f"{name}.npz", lambda file: np.savez_compressed(file, **arrays))
        self._position += 1

    def _windows_of(self, result: StepResult, arrays: Arrays, given: NDArray[Any] | None) -> Tensor:
        """The windows [K, 4] that the keys in the memory are of, of all objects."""
        given_ids = set() if given is None else {int(i) for i in np.unique(given)}
        seen = dict(zip(arrays["obj_ids"].tolist(), arrays["window"], strict=True))
        windows = []
        for obj_id in result.obj_ids:
            if obj_id in seen and obj_id not in given_ids:
                windows.append(torch.from_numpy(seen[obj_id]))
            else:
                box = masks_to_boxes((result.labels == obj_id)[None])
                windows.append(crop_windows(box, self.model.config.proposals.crop_margin)[0])
        return torch.stack(windows)

    def _keep(self, position: int, name: str, obj_ids: Iterable[int], windows: Tensor) -> None:
        self._names[position] = name
        self._windows |= {(int(i), position): window for i, window in zip(obj_ids, windows, strict=True)}

    def _restore(self, done: list[str]) -> None:
        """Takes names and windows from the traces of frames that are done."""
        forget_traces(self.folder, but=done)
        for name in done:
            if (path := self.folder / f"{name}.npz").is_file():
                arrays = read_arrays(path, "position", "known_ids", "known_window")
                position = int(arrays["position"])
                self._keep(position, name, arrays["known_ids"], torch.from_numpy(arrays["known_window"]))
                self._position = max(self._position, position + 1)

    @torch.no_grad()
    def _listen(self, model: STGNet, inputs: tuple[FrameInput], output: FrameOutput) -> None:
        """Looks while the memory is as the network saw it: before this frame is written to it.

        Where the network sees a frame again, as an object was found, the last time counts; objects may come in groups.
        """
        frame = inputs[0]
        with torch.autocast(output.masks.device.type, enabled=False):
            self._parts[tuple(frame.obj_ids)] = trace_part(model, frame, output) | self._attention(frame, output)

    def _attention(self, frame: FrameInput, output: FrameOutput) -> Part:
        config, attention = self.model.config, self.model.memory_attention
        owner, frames, windows, cells, means = [], [], [], [], []
        for k, bank in enumerate(frame.banks):
            # Other layers have no weights of Eq. 7.
            if not len(bank) or not config.temporal.enabled or not isinstance(attention, MemoryAttention):
                continue
            slots = shown_slots(bank)
            inside = crop_resize(output.masks[k][None, None], output.windows[k][None], output.keys.shape[-1])[0, 0]
            seen = pooled_attention(attention, output.keys[k], inside > config.selection.thr, bank.read()[1][slots])
            cells.append(_halves(seen[0]))
            means.append(_halves(seen[1]))
            times = [bank.frames[slot] for slot in slots]
            owner += [k] * len(slots)
            frames += [self._names.get(t, "") for t in times]
            windows += [self._windows.get((frame.obj_ids[k], t), torch.zeros(4)) for t in times]
        return {
            "memory_batch": np.array(owner, np.int64),
            "memory_frame": np.array(frames, dtype=np.str_),
            "memory_window": _floats(torch.stack(windows) if windows else torch.zeros(0, 4)),
            "attention_cells": np.concatenate(cells) if cells else np.zeros((0, 0, 0), np.float16),
            "attention_object": np.concatenate(means) if means else np.zeros((0, 0, 0), np.float16),
        }


def forget_traces(folder: Path, but: Iterable[str] = ()) -> None:
    """Deletes the traces of a video, which an earlier run wrote, but those of some frames."""
    kept = set(but)
    for path in folder.glob("*.npz"):
        if path.stem not in kept:
            path.unlink(missing_ok=True)


def trace_part(model: STGNet, frame: FrameInput, output: FrameOutput) -> Part:
    """What is stored of the objects of one pass of the network, the attention apart: both terms of Eq. 6 without their
    weights among it, IoU(B(M), p) and IoU(M, Q)."""
    config, graphs, nodes = model.config, output.graphs, output.nodes
    assert graphs is not None
    merged = Proposals.cat(frame.proposals)
    boxes = masks_to_boxes(nodes, config.selection.thr)
    sight = (nodes > config.selection.thr).to(nodes.dtype), boxes, frame.p, frame.q, output.batch
    edge_index, weight = graphs.edge_index[:, :0], graphs.edge_attr[:0, 0]
    if config.spatial.enabled:
        edge_index, _, weight = model.weighted_edges(graphs, output.gate)
    return {
        "constants": np.array([config.get(path) for path in CONSTANTS], np.float64),
        "obj_ids": np.array(frame.obj_ids, np.int64),
        "batch": output.batch.cpu().numpy(),
        "selected": output.selected.cpu().numpy(),
        "origin": np.array(merged.origin or [""] * len(merged), dtype=np.str_),
        "proposal_box": _floats(merged.boxes),
        "proposal_score": _floats(merged.scores),
        "node_box": _floats(boxes),
        "box_term": _floats(selection_scores_batched(*sight, lambda1=1.0)),
        "mask_term": _floats(selection_scores_batched(*sight, lambda1=0.0)),
        "gate": _floats(output.gate),
        "total": _floats(output.scores),
        "p": _floats(frame.p),
        "window": _floats(output.windows),
        "edge_index": edge_index.cpu().numpy(),
        "edge_weight": _halves(weight),
        "proposals": encode_masks(merged.masks),
        "nodes": encode_masks(nodes > config.selection.thr),
        "refined": encode_masks(output.masks > config.selection.thr),
        "q": encode_masks(frame.q),
    }


def shown_slots(bank: MemoryBank) -> list[int]:
    """Slots of the memory whose attention is kept, by time."""
    order = sorted(range(len(bank)), key=bank.frames.__getitem__)
    places = np.linspace(0, len(order) - 1, min(len(order), MAX_MEMORY)).round().astype(int)
    return [order[place] for place in places]


def pooled_attention(
    attention: MemoryAttention, keys: Tensor, inside: Tensor, memory_keys: Tensor
) -> tuple[Tensor, Tensor]:
    r"""The weights of Eq. 7, :math:`\exp(\mathbf{K}^t_i \cdot \mathbf{K}^r_j / \tau)` over their sum, of keys [C, S, S]
    of the current frame and [R, C, T, T] of the memory.

    Args:
        attention: the layer, for its normalisation and temperature; of a joint one, what each frame is by itself.
        inside: [S, S] bool, pixels of the object; all count where there is none.

    Returns:
        [R, g g, G G], the mean over the pixels i of each of g x g places and the sum over the pixels j of each of
        G x G, with g and G at most ``QUERY_CELLS`` and ``KEY_CELLS``; and [R, T, T], the mean over the object. Both
        sum to 1 over j.
    """
    side, past_side = keys.shape[-1], memory_keys.shape[-1]
    g, target = min(side, QUERY_CELLS), min(past_side, KEY_CELLS)
    query, key = keys.float().flatten(1).T, memory_keys.float().flatten(2).transpose(1, 2)
    if attention.normalize_keys:
        query, key = F.normalize(query, dim=1), F.normalize(key, dim=2)
    place = torch.arange(side, device=keys.device) * g // side
    cell = (place[:, None] * g + place[None]).flatten()
    share = (inside if bool(inside.any()) else torch.ones_like(inside)).flatten().float()
    share = share / share.sum()
    cells = query.new_zeros(len(key), g * g, target * target)
    mean = query.new_zeros(len(key), past_side**2)
    for rows in torch.arange(side * side, device=keys.device).split(max(1, 2**22 // past_side**2)):
        for r, past in enumerate(key):
            weights = (query[rows] @ past.T / attention.temperature).softmax(dim=1)
            mean[r] += share[rows] @ weights
            pooled = F.adaptive_avg_pool2d(weights.view(-1, 1, past_side, past_side), target).flatten(1)
            cells[r].index_add_(0, cell[rows], pooled)
    cells /= cells.sum(dim=2, keepdim=True).clamp(min=1e-12)
    return cells, mean.view(-1, past_side, past_side)


def _floats(values: Tensor) -> NDArray[np.float32]:
    return values.detach().float().cpu().numpy()


def _halves(values: Tensor) -> NDArray[np.float16]:
    return values.detach().to(torch.float16).cpu().numpy()
