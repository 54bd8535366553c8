"""What every data set of videos looks like, whatever its files: a sequence of :class:`VideoSequence`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]


class VideoSequence(ABC):
    """One video whose frames and annotations are read when asked for.

    Attributes:
        name: unique in its data set, and the name of its folder of results.
        frame_names: stems of the frames' files, in order; the results carry them.
    """

    name: str
    frame_names: list[str]

    @abstractmethod
    def image(self, t: int) -> UInt8Array:
        """Frame ``t`` as uint8 [H, W, 3] RGB."""

    @abstractmethod
    def labels(self, t: int) -> UInt8Array | None:
        """Object ids of frame ``t`` as uint8 [H, W], 0 is background; None when the frame is not annotated."""

    def annotated(self, t: int) -> bool:
        """Whether frame ``t`` is annotated. Readers of files answer without decoding any."""
        return self.labels(t) is not None

    @cached_property
    def categories(self) -> dict[int, str]:
        """Name of the category of each object by id; empty when the data set has none."""
        return {}

    @cached_property
    def requested_frames(self) -> list[int]:
        """Indices of the frames whose results the benchmark takes, ascending; the others are there to be seen only."""
        return list(range(self.num_frames))

    @property
    def files(self) -> list[Path]:
        """All files that the video is read from; empty where there are none."""
        return []

    @property
    def num_frames(self) -> int:
        return len(self.frame_names)

    def __len__(self) -> int:
        return self.num_frames

    @cached_property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frames in pixels."""
        height, width = self.image(0).shape[:2]
        return height, width

    @cached_property
    def first_frame_of(self) -> dict[int, int]:
        """Index of the first annotated frame that shows each object, by id in ascending order."""
        first: dict[int, int] = {}
        for t in range(self.num_frames):
            labels = self.labels(t) if self.annotated(t) else None
            if labels is not None:
                for obj_id in np.flatnonzero(np.bincount(labels.ravel())):
                    first.setdefault(int(obj_id), t)
        first.pop(0, None)
        return dict(sorted(first.items()))

    @property
    def object_ids(self) -> list[int]:
        """Ids of the objects as the data set numbers them, ascending."""
        return list(self.first_frame_of)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, num_frames={self.num_frames})"


class VideoDataset(Sequence[VideoSequence]):
    """A list of videos with a ``name`` and a ``split``."""

    def __init__(self, name: str, split: str, sequences: Sequence[VideoSequence] = ()) -> None:
        self.name, self.split, self._sequences = name, split, sequences

    @property
    def sequence_names(self) -> list[str]:
        """Names of the videos, in order."""
        return [sequence.name for sequence in self._sequences]

    def _sequence(self, index: int) -> VideoSequence:
        """Video ``index``, 0 <= index < len(self)."""
        return self._sequences[index]

    def __len__(self) -> int:
        return len(self._sequences)

    @overload
    def __getitem__(self, index: int) -> VideoSequence: ...
    @overload
    def __getitem__(self, index: slice) -> list[VideoSequence]: ...
    def __getitem__(self, index: int | slice) -> VideoSequence | list[VideoSequence]:
        if isinstance(index, slice):
            return [self._sequence(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"video {index} of {len(self)}")
        return self._sequence(index % len(self))

    def __iter__(self) -> Iterator[VideoSequence]:
        return (self._sequence(i) for i in range(len(self)))

    def by_name(self, name: str) -> VideoSequence:
        """The video of that name.

        Raises:
            KeyError: there is none.
        """
        if name not in self.sequence_names:
            raise KeyError(f"no sequence {name!r} in {self!r}")
        return self._sequence(self.sequence_names.index(name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, split={self.split!r}, num_videos={len(self)})"
