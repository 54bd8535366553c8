"""The folder of the offline step: the proposals of every frame, written one by one so that a run can go on later.

What is missing, broken, or of other settings, sizes or names is an InputError.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stg_pyg.errors import InputError
from stg_pyg.proposals.coco import CocoProposals, write_coco_frames
from stg_pyg.proposals.rle import EncodedProposals, ProposalSource, Size, find_fault, round_features
from stg_pyg.utils.images import PathLike, is_inside, load_json, natural_sort_key, write_atomic, write_json

FORMAT = "stg_pyg-proposals-1"
META, MERGED = "meta.json", "proposals.json"
_AGAIN = "delete it and run experiments.proposals again"


class StoredProposals(ProposalSource):
    """The proposals of a folder that :class:`ProposalWriter` wrote.

    ``meta.json`` holds the format, the settings of the detector, the number of features and the size (H, W) of each
    video's frames; ``<sequence>/<frame stem>.npz`` the proposals of a frame: ``boxes`` [N, 4] and ``scores`` [N] in
    float32, ``rle`` the masks' characters on end as uint8, ``lengths`` [N] of them (0: no mask) and ``feats`` [N, F] in
    float16. Nothing is unpickled.
    """

    def __init__(self, folder: PathLike) -> None:
        self.path = Path(folder)
        self.meta = read_meta(self.path)
        self.features = bool(self.meta["feature_size"])

    @property
    def sequences(self) -> list[str]:
        return sorted(self.meta["sizes"], key=natural_sort_key)

    def check(self, sequence: str, frame_names: Sequence[str]) -> None:
        there, known = dict.fromkeys(self.frame_names(sequence)), set(frame_names)
        missing = [name for name in frame_names if name not in there]
        if missing:
            raise InputError(
                f"{frame_path(self.path, sequence, missing[0])}: no such file; {len(missing)} of {len(frame_names)} "
                f"frames of {sequence} have no proposals: run experiments.proposals on this split, it goes on"
            )
        foreign = [name for name in there if name not in known]
        if foreign:
            raise InputError(
                f"{frame_path(self.path, sequence, foreign[0])}: {sequence} has no such frame; "
                "these are proposals of another data set: run experiments.proposals on this one"
            )

    def frame(self, sequence: str, stem: str, size: Size) -> EncodedProposals:
        encoded = self._read(sequence, stem)
        if encoded.size != size:
            raise InputError(
                f"{frame_path(self.path, sequence, stem)}: is of frames of {encoded.size[0]} x {encoded.size[1]} "
                f"pixels, not {size[0]} x {size[1]}; run experiments.proposals on frames of this size"
            )
        return encoded

    def frame_names(self, sequence: str) -> list[str]:
        """Stems of the frames of a video that are there, in order."""
        names = [path.stem for path in (self.path / sequence).glob("*.npz") if not path.name.startswith(".")]
        return sorted(names, key=natural_sort_key)

    def frames(self) -> Iterator[tuple[str, str, EncodedProposals]]:
        """(sequence, frame stem, proposals) of all frames, in order."""
        for sequence in self.sequences:
            for stem in self.frame_names(sequence):
                yield sequence, stem, self._read(sequence, stem)

    def _read(self, sequence: str, stem: str) -> EncodedProposals:
        if sequence not in self.meta["sizes"]:
            raise InputError(f"{self.path / sequence}: no proposals of this video; run experiments.proposals on it")
        path, (height, width) = frame_path(self.path, sequence, stem), self.meta["sizes"][sequence]
        if not path.is_file():
            raise InputError(f"{path}: no such file; run experiments.proposals on this video, it goes on")
        try:
            with np.load(path, allow_pickle=False) as file:
                encoded = _unpack(file, (height, width))
        except Exception as error:  # broken archives and headers raise errors of all kinds
            raise InputError(f"{path}: is broken or cut short; {_AGAIN}") from error
        expected = self.meta["feature_size"] or 0
        if not len(encoded):
            return EncodedProposals.empty((height, width), expected or None)
        number = 0 if encoded.feats is None else encoded.feats.shape[1]
        if number != expected:
            raise InputError(f"{path}: has {number} features, not the {expected} of {META}; {_AGAIN}")
        return encoded


def open_proposals(path: PathLike) -> ProposalSource:
    """Proposals from a COCO results file (.json), or from a folder that ``experiments.proposals`` wrote."""
    return StoredProposals(path) if Path(path).is_dir() else CocoProposals(path)


class ProposalWriter:
    """Writes a folder for :class:`StoredProposals`, and goes on with one that was written with the same settings.

    Args:
        folder: created when missing.
        settings: plain values that say what made the proposals: network, weights, thresholds.
        shared: whether other processes write other videos into the folder at the same time; :meth:`merge` is then for
            one of them, when all are done.
        states: what stands for the files of each video; where it is another than before, the video is done again.
    """

    def __init__(
        self,
        folder: PathLike,
        settings: dict[str, Any],
        shared: bool = False,
        states: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.states = Path(folder), dict(states or {})
        self.meta: dict[str, Any] = {"format": FORMAT, "settings": settings, "feature_size": None, "sizes": {}}
        if (self.folder / META).exists():
            self.meta = self._continued(settings)
            self._forget_changed()
            if not shared:
                self._tidy()

    def has(self, sequence: str, stem: str) -> bool:
        """Whether the frame is done."""
        return sequence in self.meta["sizes"] and frame_path(self.folder, sequence, stem).is_file()

    def write(self, sequence: str, stem: str, encoded: EncodedProposals) -> EncodedProposals:
        """Writes one frame; returns what reading it gives, bit for bit."""
        feats = None if encoded.feats is None else round_features(encoded.feats)
        rounded = EncodedProposals(encoded.boxes.float(), encoded.scores.float(), encoded.counts, encoded.size, feats)
        path = frame_path(self.folder, sequence, stem)
        self._register(sequence, rounded)
        if not len(rounded):
            rounded = EncodedProposals.empty(rounded.size, self.meta["feature_size"] or None)
        texts = [item or b"" for item in rounded.counts]
        arrays: dict[str, Any] = {
            "boxes": rounded.boxes.numpy(),
            "scores": rounded.scores.numpy(),
            "rle": np.frombuffer(b"".join(texts), np.uint8),
            "lengths": np.array([len(item) for item in texts], np.int32),
        }
        if rounded.feats is not None:
            arrays["feats"] = rounded.feats.numpy().astype(np.float16)
        write_atomic(path, lambda file: np.savez_compressed(file, **arrays))
        return rounded

    def merge(self) -> Path:
        """Writes all frames of the folder as COCO results to ``proposals.json`` in it."""
        self._tidy()
        write_coco_frames(self.folder / MERGED, StoredProposals(self.folder).frames())
        return self.folder / MERGED

    def _register(self, sequence: str, encoded: EncodedProposals) -> None:
        """Checks a frame against ``meta.json``, and writes that when the frame says something new."""
        number = self._checked(sequence, encoded)
        if sequence in self.meta["sizes"] and number == self.meta["feature_size"]:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder):  # others may have written theirs since it was read
            if (self.folder / META).exists():
                self.meta = self._continued(self.meta["settings"])
            number = self._checked(sequence, encoded)
            sizes = {**self.meta["sizes"], sequence: list(encoded.size)}
            states = {**self.meta.get("states", {}), **{n: s for n, s in self.states.items() if n == sequence}}
            self.meta = {**self.meta, "feature_size": number, "sizes": dict(sorted(sizes.items()))}
            self.meta |= {"states": dict(sorted(states.items()))} if states else {}
            write_json(self.folder / META, self.meta)

    def _checked(self, sequence: str, encoded: EncodedProposals) -> int | None:
        """The number of features with this frame, which must be that of ``meta.json`` if it is known."""
        sizes, size, features = self.meta["sizes"], list(encoded.size), self.meta["feature_size"]
        if sequence not in sizes and next((self.folder / sequence).glob("*.npz"), None) is not None:
            raise InputError(f"{self.folder / sequence}: has proposals that {META} does not know; choose another --out")
        if sizes.get(sequence, size) != size:
            raise InputError(
                f"{self.folder / sequence}: has proposals of frames of {sizes[sequence][0]} x {sizes[sequence][1]} "
                f"pixels, not {size[0]} x {size[1]}; choose another --out for frames of this size"
            )
        number: int | None = features
        if len(encoded) or encoded.feats is not None:
            number = 0 if encoded.feats is None else encoded.feats.shape[1]
        if features not in (None, number):
            raise InputError(f"{self.folder}: has proposals of {features} features, not {number}; choose another --out")
        return number

    def _tidy(self) -> None:
        """Deletes what a run that was killed has half written."""
        for half_written in self.folder.glob(".*.json.*.tmp"):
            half_written.unlink(missing_ok=True)
        for sequence in read_meta(self.folder)["sizes"]:
            for half_written in (self.folder / sequence).glob(".*.npz.*.tmp"):
                half_written.unlink(missing_ok=True)

    def _continued(self, settings: dict[str, Any]) -> dict[str, Any]:
        meta = read_meta(self.folder)
        before, now = meta["settings"], json.loads(json.dumps(settings))
        if before != now:
            name = next(key for key in sorted({*before, *now}) if before.get(key, ...) != now.get(key, ...))
            values = f"{name} {before.get(name)!r}, not {now.get(name)!r}"
            how = f"another {name}" if isinstance(now.get(name), dict) else values
            raise InputError(f"{self.folder}: was made with {how}; choose another --out")
        return meta

    def _forget_changed(self) -> None:
        """Deletes the proposals of videos whose files have changed, so that they are made again."""
        with _locked(self.folder):  # of several processes the first one does it, before any waits for the others
            meta = read_meta(self.folder)
            known: dict[str, str] = meta.get("states", {})
            for sequence in known.keys() & self.states.keys() & meta["sizes"].keys():
                if known[sequence] != self.states[sequence]:
                    for path in (self.folder / sequence).glob("*.npz"):
                        path.unlink()
                    del meta["sizes"][sequence], known[sequence]
                    write_json(self.folder / META, meta)
            self.meta = meta


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from changing ``meta.json`` in the meantime, where the system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def frame_path(folder: Path, sequence: str, stem: str) -> Path:
    """Where the proposals of a frame lie."""
    if not is_inside(sequence) or not is_inside(stem) or "/" in stem or stem.startswith("."):
        raise InputError(f"{folder}: {sequence!r}/{stem!r} is no name of a frame; rename the video or the frame")
    return folder / sequence / f"{stem}.npz"


def read_meta(folder: Path) -> dict[str, Any]:
    """The checked content of ``meta.json``."""
    path = folder / META
    try:
        meta = load_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; give a folder that experiments.proposals wrote, or a COCO results file"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path}: is broken ({why}); run experiments.proposals again into a new folder") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or not _is_sound(meta):
        raise InputError(f"{path}: is not of this version ({FORMAT}); run experiments.proposals into a new folder")
    return meta


def _is_sound(meta: dict[str, Any]) -> bool:
    sizes, number = meta.get("sizes"), meta.get("feature_size", -1)
    return (
        isinstance(meta.get("settings"), dict)
        and isinstance(meta.get("states", {}), dict)
        and isinstance(sizes, dict)
        and all(is_inside(name) for name in sizes)
        and all(isinstance(size, list) and len(size) == 2 for size in sizes.values())
        and all(type(side) is int and side > 0 for size in sizes.values() for side in size)
        and (number is None or (type(number) is int and number >= 0))
    )


def _unpack(file: Any, size: Size) -> EncodedProposals:
    boxes, scores, lengths, rle = (file[name] for name in ("boxes", "scores", "lengths", "rle"))
    feats = file.get("feats")
    n = len(boxes)
    sound = (
        (boxes.dtype, boxes.shape) == (np.float32, (n, 4))
        and (scores.dtype, scores.shape) == (np.float32, (n,))
        and (lengths.dtype, lengths.shape) == (np.int32, (n,))
        and (rle.dtype, rle.ndim) == (np.uint8, 1)
        and (feats is None or (feats.dtype == np.float16 and feats.shape == (n, feats.shape[-1])))
    )
    if not sound or (lengths < 0).any() or int(lengths.sum()) != len(rle):
        raise ValueError("arrays of other shapes")
    if not all(np.isfinite(values).all() for values in (boxes, scores, 0 if feats is None else feats)):
        raise ValueError("values that are not finite")
    text, ends = rle.tobytes(), lengths.cumsum().tolist()
    counts = [text[end - length : end] or None for end, length in zip(ends, lengths.tolist(), strict=True)]
    if find_fault([item for item in counts if item is not None], size) is not None:
        raise ValueError("broken masks")
    floats = None if feats is None else torch.from_numpy(feats.astype(np.float32))
    return EncodedProposals(torch.from_numpy(boxes), torch.from_numpy(scores), counts, size, floats)
