"""Spatial graphs of videos with their targets, as stored by ``experiments.graphs``: an ordinary dataset of PyG."""

from __future__ import annotations

import bisect
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Dataset

from stg_pyg.errors import InputError
from stg_pyg.graph.spatial import SpatialGraph

INDEX = "graphs.json"
_OPEN_FILES = 8
_MASKS = ("x", "q", "target", "chosen", "pixel")
"""Stored as uint8, 255 for 1."""


class ProposalGraph(SpatialGraph):
    """The proposals of one object in one frame, as the model met them, seen in a window and resampled to S x S pixels,
    so that graphs of all videos have one size.

    Attributes:
        x: [N, 1, S, S] masks of the proposals.
        q: [S, S] the mask of the frame before, warped.
        target: [S, S] the true mask.
        chosen: [S, S] the mask that the model chose.
        outside: [1] area of the true mask outside of the window, in pixels of S x S.
        pixel: [C, s, s] evidence at every pixel, see :data:`stg_pyg.model.evidence.PIXEL_EVIDENCE`.
        anchor: [N] likeness of X to the first frame's.
        iou: [N] IoU of each proposal with the true mask, in the frame.
        box, p: in pixels of S x S.
        view: [1, 4] the window in pixels of the frame; ``window`` is all of S x S.
        fold: [1] the fold that the video is in, whose graphs come from a network that has not seen it.
        sequence: [1] number of the video in :attr:`ProposalGraphs.sequences`.
        feat, score, edge_index, edge_attr, obj_id, frame_idx: of :class:`~stg_pyg.graph.spatial.SpatialGraph`.
    """

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return None if key in ("target", "chosen", "pixel") else super().__cat_dim__(key, value, *args, **kwargs)


class ProposalGraphs(Dataset):
    """Stored graphs of the proposals of real videos.

    Only the graphs that are asked for are read, so a few GB of them need little memory; workers of a ``DataLoader`` may
    read side by side.

    Args:
        root: the folder that ``experiments.graphs --out`` wrote.
        folds: of these folds only; None: of all.
        states: of these runs only, ``offline`` or ``online``, without and with online learning; None: of all.
        transform, pre_filter: of PyG; ``pre_filter`` sees each graph once, when the dataset is opened.

    Example:
        >>> from torch_geometric.loader import DataLoader
        >>> graphs = ProposalGraphs("runs/graphs", folds=[0])
        >>> for batch in DataLoader(graphs, batch_size=16, shuffle=True):
        ...     batch.x, batch.edge_index, batch.target

    Raises:
        InputError: the folder has no such graphs, or a file of them is missing or damaged.
    """

    def __init__(
        self,
        root: str | Path,
        folds: Collection[int] | None = None,
        states: Collection[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        pre_filter: Callable[[Any], bool] | None = None,
    ):
        self.folder = Path(root)
        self.about = _read_index(self.folder)
        self.sequences: list[str] = [entry["name"] for entry in self.about["sequences"]]
        """Names of the videos."""
        self.entries = [
            (number, entry)
            for number, entry in enumerate(self.about["sequences"])
            if (folds is None or entry["fold"] in folds) and (states is None or entry["state"] in states)
        ]
        """Number and entry of the index of each video that graphs are taken from, in their order."""
        self._ends = list(itertools.accumulate(entry["graphs"] for _, entry in self.entries))
        self._files: OrderedDict[int, list[dict[str, Tensor]]] = OrderedDict()
        super().__init__(None, transform)
        if not len(self):
            raise InputError(f"{self.folder}: has no graphs of folds {folds} and states {states}; {INDEX} lists them")
        if pre_filter is not None:
            self._indices = [i for i in range(self.len()) if pre_filter(self.get(i))]

    def len(self) -> int:
        return self._ends[-1] if self._ends else 0

    def get(self, idx: int) -> ProposalGraph:
        position = bisect.bisect_right(self._ends, idx)
        number, entry = self.entries[position]
        first = self._ends[position] - entry["graphs"]
        stored = self._opened(position)[idx - first]
        values = {key: value.float() / 255 if key in _MASKS else value.clone() for key, value in stored.items()}
        values |= {"fold": torch.tensor([entry["fold"]]), "sequence": torch.tensor([number])}
        return ProposalGraph(**values)

    def _opened(self, position: int) -> list[dict[str, Tensor]]:
        if position not in self._files:
            self._files[position] = _read_graphs(self.folder, self.entries[position][1])
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(position)
        return self._files[position]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}


def pack(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The fields of a graph as they are stored."""
    return {k: (v * 255).round().to(torch.uint8) if k in _MASKS else v.clone() for k, v in values.items()}


def _read_graphs(folder: Path, entry: dict[str, Any]) -> list[dict[str, Tensor]]:
    """The graphs of a video, whose tensors are read when they are used."""
    path, remedy = folder / entry["file"], "make the graphs again with experiments.graphs"
    try:
        graphs = torch.load(path, mmap=True, weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {remedy}") from error
    except Exception as error:
        raise InputError(f"{path}: cannot be read as stored graphs; {remedy}") from error
    if not isinstance(graphs, list) or len(graphs) != entry["graphs"]:
        raise InputError(f"{path}: does not hold the {entry['graphs']} graphs that {INDEX} says; {remedy}")
    return graphs


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        about = json.loads(path.read_text())
        for entry in about["sequences"]:
            str(entry["name"]), str(entry["file"]), str(entry["state"]), int(entry["fold"]), int(entry["graphs"])
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give a folder that experiments.graphs has written") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is no list of stored graphs; make them again with experiments.graphs") from error
    return about
