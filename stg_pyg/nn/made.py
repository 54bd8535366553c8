"""How a layer was made, as a text: ``NAME``, or ``package.module:Class``, each with ``:key=value,key2=value2``."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import inspect
import math
import re
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch_geometric.resolver import normalize_string

from stg_pyg.errors import InputError

_CLASS = re.compile(r"([A-Za-z_][\w.]*)(?::(.*))?", re.DOTALL)
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_WORDS = {"true": True, "false": False, "none": None}
_RECORD = "_made_with"
SYNTAX = "package.module:Class, each with arguments as in NAME:key=value,key2=value2"

Cls = TypeVar("Cls", bound=type)


def keeps_arguments(cls: Cls) -> Cls:
    """Lets instances of a layer's class remember what they are made with, so that a checkpoint can name them.

    A derived class with a constructor of its own has to be decorated itself.
    """
    init = cls.__init__  # type: ignore[misc]

    @functools.wraps(init)
    def recording(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self).__init__ is recording:
            _record(self, args, kwargs)

    cls.__init__ = recording  # type: ignore[misc]
    return cls


def make_layer(cls: type, name: str, arguments: dict[str, Any]) -> torch.nn.Module:
    """An instance of what was asked for by a name, which remembers its arguments.

    Raises:
        InputError: they do not fit.
    """
    parameters = inspect.signature(cls).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in kinds and p.name not in arguments]
    if needed:
        remedy = f"give {name}:" + ",".join(f"{argument}=VALUE" for argument in needed)
        raise InputError(
            f"cannot make {cls.__name__} without {', '.join(needed)}: {remedy} where plain values do, else a class of "
            "your own around it (docs/layers.md)"
        )
    try:
        layer: torch.nn.Module = cls(**arguments)
    except Exception as error:
        taken = ", ".join(p.name for p in parameters if p.kind not in kinds) or "those of its base"
        raise InputError(
            f"cannot make {cls.__name__} with {arguments}: {line_of(error)}; its arguments are {taken}"
        ) from error
    if _RECORD not in vars(layer):
        _record(layer, (), arguments)
    return layer


def arguments_of(layer: torch.nn.Module) -> dict[str, Any] | None:
    """What a layer was made with, defaults included; None if that is not known."""
    known: dict[str, Any] | None = vars(layer).get(_RECORD)
    bare = type(layer).__init__ is torch.nn.Module.__init__ or not inspect.signature(type(layer)).parameters
    return {} if known is None and bare else known


def parse_layer(text: str) -> tuple[str, dict[str, Any]]:
    """The name, or ``package.module:Class``, and the arguments of a text.

    Values are those of Python (``3``, ``0.5``, ``True``, ``None``, ``(1, 2)``, ``'a text'``), and bare words are texts.

    Raises:
        InputError: it has another form.
    """
    name, _, rest = text.partition(":")
    found = _CLASS.fullmatch(rest)
    if found is not None:
        name, rest = f"{name}:{found[1]}", found[2] or ""
    return name, _parse_arguments(text, rest) if rest else {}


def format_layer(name: str, arguments: dict[str, Any]) -> str:
    """The inverse of :func:`parse_layer`.

    Raises:
        InputError: an argument is no plain value.
    """
    for key, value in arguments.items():
        if not _is_plain(value):
            raise InputError(f"its argument {key} is a {type(value).__name__}, no plain value")
    text = ",".join(f"{key}={_format_value(value)}" for key, value in arguments.items())
    whole = f"{name}:{text}" if text else name
    assert parse_layer(whole) == (name, arguments)
    return whole


def find_class(path: str) -> type:
    """The class that ``package.module:Class`` names; its module is imported.

    Raises:
        InputError: there is none, or it is no ``torch.nn.Module``.
    """
    module, _, name = path.partition(":")
    if not (_PATH.fullmatch(module) and _PATH.fullmatch(name)):
        raise InputError(f"{path}: is no package.module:Class; write the name of a class so")
    if module.partition(".")[0] in {"__main__", *sys.stdlib_module_names}:
        raise InputError(f"{path}: no layer is there; move it into a module of yours")
    try:
        found = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except Exception as error:
        raise InputError(
            f"{path}: cannot be imported ({line_of(error)}); correct the name, or put its folder on PYTHONPATH"
        ) from error
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise InputError(f"{path}: is no torch.nn.Module; name the class of a layer")
    return found


def path_of(cls: type) -> str:
    """``package.module:Class`` of a class.

    Raises:
        InputError: the class cannot be found under it, as it is in a script, a notebook or a function.
    """
    path = f"{cls.__module__}:{cls.__qualname__}"
    if "<" in path or find_class(path) is not cls:
        raise InputError(f"{path}: cannot be imported by this name; move it into a module of yours")
    return path


def unknown_name(graph: str, name: str, names: Sequence[str]) -> InputError:
    """What is said of the name of a layer that there is not, with the others in the order of their likeness to it."""

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, normalize_string(name), normalize_string(other)).ratio()

    known = ", ".join(sorted(names, key=likeness, reverse=True))
    return InputError(f"unknown {graph} layer '{name}'; known names, the nearest first: {known}; or {SYNTAX}")


def parameter_of(layer: torch.nn.Module) -> torch.Tensor:
    """A floating parameter, of whose dtype and on whose device inputs are; without one, an empty tensor."""
    return next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))


def line_of(error: BaseException) -> str:
    """An error as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _record(layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    bound = inspect.signature(type(layer)).bind(*args, **kwargs)
    bound.apply_defaults()
    given: dict[str, Any] = {}
    for key, value in bound.arguments.items():
        kind = bound.signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            given |= value
        elif kind is not inspect.Parameter.VAR_POSITIONAL or value:
            given[key] = value
    defaults = {key: p.default for key, p in bound.signature.parameters.items()}
    kept = {key: value for key, value in given.items() if _is_plain(value) or value is not defaults.get(key)}
    vars(layer)[_RECORD] = kept


def _parse_arguments(text: str, arguments: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        pairs = [(keyword.arg, ast.literal_eval(_Words().visit(keyword.value))) for keyword in call.keywords]
        values = {key: value for key, value in pairs if key is not None}
        assert len(values) == len(pairs)
    except (SyntaxError, ValueError, AssertionError) as error:
        raise InputError(
            f"{text}: cannot be read; write NAME:key=value,key2=value2, texts with other signs in quotes"
        ) from error
    return values


class _Words(ast.NodeTransformer):
    """Bare words as texts."""

    def visit_Name(self, node: ast.Name) -> ast.Constant:
        return ast.Constant(_WORDS.get(node.id, node.id))


def _format_value(value: Any) -> str:
    bare = isinstance(value, str) and value.isidentifier() and value not in _WORDS
    return value if bare and value not in ("True", "False", "None") else repr(value)


def _is_plain(value: Any) -> bool:
    if type(value) in (tuple, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value))
