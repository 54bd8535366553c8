"""Pretrained weights of torchvision's networks: from the hub's cache, a download, or a file of one's own."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from stg_pyg.errors import InputError

RVOS = ("rvos.pt", "encoder.pt")
"""Names that the encoder of RVOS is looked for by; a released model has it under the second one."""


@dataclass(frozen=True)
class PretrainedFile:
    """A file of weights, where it comes from, and what its publisher says of it."""

    name: str
    url: str
    sha256: str | None = None
    """The first digits."""
    mebibytes: float | None = None

    def __str__(self) -> str:
        digest = "" if self.sha256 is None else f"SHA-256 {self.sha256}..., "
        return f"{self.name} ({digest}from {self.url})"


@dataclass(frozen=True)
class PaperPart:
    """A part of the paper's method that starts from pretrained weights."""

    name: str
    network: str
    """Its name in torchvision."""
    commands: tuple[str, ...]
    """Which use it."""
    to_train: bool = False
    """Whether the training of a ``paper`` preset starts from it."""

    @property
    def files(self) -> list[PretrainedFile]:
        """The files that do, of which a folder needs one; the last is torchvision's default."""
        of_rvos = [PretrainedFile(RVOS[0], "https://github.com/imatge-upc/rvos")] if self.network == "resnet101" else []
        return [*of_rvos, _published(_known_weights(self.network)[0])]


PAPER_PARTS = (
    PaperPart("X of Eq. 3", "resnet101", ("train",), to_train=True),
    PaperPart("K of Eq. 7", "resnet50", ("train",), to_train=True),
    PaperPart("DeepLabv3+", "deeplabv3_resnet101", ("train",), to_train=True),
    PaperPart("detector to be trained", "maskrcnn_resnet50_fpn", ("train --stage detector",), to_train=True),
    PaperPart("detector to be trained on COCO", "resnet50", ("train --stage detector --coco",)),
    PaperPart("detector as it is", "maskrcnn_resnet50_fpn_v2", ("proposals", "docs/export_proposals.py detector")),
    PaperPart("flow", "raft_large", ("--flow raft",)),
    PaperPart("flow, small", "raft_small", ("--flow raft:small",)),
)
"""Everything pretrained that the paper's presets may start from; any other network of torchvision works too."""

_CLASSIFIERS = ("classifier.1.", "classifier.2.", "classifier.4.", "aux_classifier.")


def load_torchvision(name: str, spec: str | Path | None) -> dict[str, Tensor] | None:
    """The state dict of a torchvision network, in the names of the installed torchvision.

    Args:
        name: a network of torchvision, such as those of :data:`PAPER_PARTS`.
        spec: ``auto``, torchvision's default weights, from ``torch.hub.get_dir()/checkpoints`` if they are there, else
            downloaded to there; ``rvos``, for ``resnet101`` alone, the encoder of RVOS in that folder; ``none`` or
            ``None``, no weights; or a path, a file with a state dict or a folder that holds one under torchvision's
            file name or as ``<name>.pth``. Only ``auto`` ever uses the network. A file for a ResNet may be the encoder
            of RVOS, see :func:`convert_rvos`, which ``resnet101`` takes from a folder by its names, :data:`RVOS`,
            before any other.

    Returns:
        The weights, complete but for the classifier of a ResNet (``fc.*``) or of DeepLabv3 when the file has none or
        one of another size; ``None`` without weights.

    Raises:
        InputError: a file is missing, damaged, of another network or not to be had; the line says which file is
            expected, how its SHA-256 begins, and where it belongs.
    """
    path = weights_file(name, spec)
    if path is None:
        return None
    if spec == "auto":
        return _checked(_from_hub(_known_weights(name)[0], path), name, path)
    known = {_file_name(weights): weights for weights in _known_weights(name)}.get(path.name)
    if known is not None and not (digest := _sha256(path)).startswith(_hash_of(known)):
        raise InputError(
            f"{path}: damaged or not copied to its end ({path.stat().st_size} bytes, SHA-256 {digest[:8]}...); "
            f"{_wanted(known, path.parent)} again"
        )
    return _checked(_read(path, name), name, path)


def weights_file(name: str, spec: str | Path | None) -> Path | None:
    """The file that :func:`load_torchvision` reads; that of ``auto`` may not be there yet.

    Raises:
        InputError: a path leads to no file.
    """
    if spec is None or spec == "none":
        return None
    all_known = _known_weights(name)
    if spec == "auto":
        return hub_folder() / _file_name(all_known[0])
    if spec == "rvos":
        return _rvos_in_hub(name)
    path, files = Path(spec), [_file_name(weights) for weights in all_known]
    if path.is_dir():
        for file in (*(RVOS if name == "resnet101" else ()), *files, f"{name}.pth"):
            if (path / file).is_file():
                return path / file
        raise InputError(f"{path}: holds neither {files[0]} nor {name}.pth; {_wanted(all_known[0], path)}")
    if not path.is_file():
        wanted = _wanted(all_known[0], path.parent)
        raise InputError(f"{path}: no such file; give a state dict of {name}, or {wanted}")
    return path


def convert_rvos(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights of torchvision's ResNet from the encoder of RVOS (Ventura et al., CVPR 2019).

    The encoder (``encoder.pt`` of a released model) keeps its ResNet under ``base.``, under ``module.`` when it was
    trained on several GPUs, next to convolutions ``sk2`` to ``sk5`` and normalisations ``bn2`` to ``bn5`` of its skip
    connections, which are dropped. A state dict nested in ``state_dict`` is taken out.

    Raises:
        ValueError: ``state`` is no such encoder.
    """
    inner = state.get("state_dict", state)
    items = inner.items() if isinstance(inner, Mapping) else ()
    names = {str(name).removeprefix("module."): value for name, value in items}
    if not any(name.startswith("base.") for name in names):
        raise ValueError("not the encoder of RVOS: no weights under 'base.'")
    own = re.compile(r"(sk|bn)[2-5]\.")
    return {name.removeprefix("base."): value for name, value in names.items() if not own.match(name)}


def hub_folder() -> Path:
    """Where torch.hub keeps weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _rvos_in_hub(name: str) -> Path:
    if name != "resnet101":
        raise InputError(f"weights rvos: are those of a resnet101, not of a {name}; give auto, none or a path")
    found = [path for path in (hub_folder() / file for file in RVOS) if path.is_file()]
    if not found:
        raise InputError(
            f"{hub_folder()}: holds no {RVOS[0]}; put {RVOS[1]} of a released model of RVOS "
            f"(https://github.com/imatge-upc/rvos) there under that name"
        )
    return found[0]


def _known_weights(name: str) -> list[Any]:
    """Torchvision's weights of a network, the default first."""
    weights = torchvision.models.get_model_weights(name)
    return sorted(weights, key=lambda member: member is not weights.DEFAULT)


def _file_name(weights: Any) -> str:
    return Path(urlparse(weights.url).path).name


def _published(weights: Any) -> PretrainedFile:
    """Torchvision gives sizes in units of 2^20 bytes, rounded to thousandths."""
    return PretrainedFile(_file_name(weights), weights.url, _hash_of(weights), weights.meta.get("_file_size"))


def _hash_of(weights: Any) -> str:
    """The first digits of the file's SHA-256, which torchvision puts into its name."""
    return Path(_file_name(weights)).stem.rsplit("-", 1)[1]


def _wanted(weights: Any, folder: Path) -> str:
    """What a line of error says of the file that would do."""
    return f"put {_published(weights)} into {folder}"


def _from_hub(weights: Any, path: Path) -> Mapping[str, Any]:
    damaged = path.is_file() and not _sha256(path).startswith(_hash_of(weights))
    try:
        if damaged:  # the hub would take it as it is
            torch.hub.download_url_to_file(weights.url, str(path), _hash_of(weights), progress=True)
        return weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        problem = "damaged" if damaged else "not there"
        raise InputError(
            f"{path}: {problem} and cannot be downloaded ({_first_line(error)}); {_wanted(weights, path.parent)} by "
            "hand, or choose the weights PATH or none"
        ) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); change its rights or copy it again") from error
    return digest.hexdigest()


def _read(path: Path, name: str) -> Mapping[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _no_state_dict(path, name, _first_line(error)) from error
    if not isinstance(state, Mapping):
        raise _no_state_dict(path, name, f"it holds a {type(state).__name__}")
    with contextlib.suppress(ValueError):
        return convert_rvos(state) if name.startswith("resnet") else state
    return state


def _no_state_dict(path: Path, name: str, why: str) -> InputError:
    wanted = _wanted(_known_weights(name)[0], path.parent)
    return InputError(f"{path}: not a torchvision state dict of {name} ({why}); {wanted}")


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _template(name: str) -> nn.Module:
    """The network without memory for its weights."""
    options: dict[str, Any] = {}
    if name.startswith(("maskrcnn", "deeplabv3")):
        options["weights_backbone"] = None
    if name.startswith("deeplabv3"):
        options["aux_loss"] = True
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **options)


def _checked(state: Mapping[str, Any], name: str, path: Path) -> dict[str, Tensor]:
    """The weights under the network's present names; files of older versions are brought up to date by its modules."""
    net = _template(name)
    optional = _CLASSIFIERS if name.startswith("deeplabv3") else ("fc.",) if name.startswith("resnet") else ()
    expected = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    odd = next((key for key, value in state.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise _no_state_dict(path, name, f"{odd!r} is no tensor")
    # A plain copy carries no version of the modules, so they take the names of every version.
    state = {k: v for k, v in state.items() if not k.startswith(optional) or expected.get(k) == v.shape}
    for key, value in state.items():
        if key in expected and expected[key] != value.shape:
            problem = f"{key!r} has shape {list(value.shape)} instead of {list(expected[key])}"
            raise _no_state_dict(path, name, problem)
    try:
        missing, unexpected = net.load_state_dict(state, strict=False, assign=True)
    except RuntimeError as error:  # of a weight under the name of an older version
        raise _no_state_dict(path, name, str(error).splitlines()[1].strip()) from error
    missing = [key for key in missing if not key.startswith(optional)]
    if unexpected or missing:
        problem = f"{unexpected[0]!r} is not in the network" if unexpected else f"{missing[0]!r} is missing"
        raise _no_state_dict(path, name, f"the names are not those of the network, for example {problem}")
    return {key: value for key, value in net.state_dict().items() if not value.is_meta}
