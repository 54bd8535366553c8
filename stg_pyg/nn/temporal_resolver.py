"""Temporal layers by name, class or instance, all called alike."""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor
from torch_geometric.resolver import normalize_string

from stg_pyg.errors import InputError
from stg_pyg.nn.joint_memory_attention import JointMemoryAttention
from stg_pyg.nn.mean_memory import MeanMemory
from stg_pyg.nn.memory_attention import MemoryAttention

_OWN: dict[str, type] = {"memory_attention": MemoryAttention, "joint": JointMemoryAttention, "mean": MeanMemory}
_ARGUMENTS = "masks, keys, memory_masks, memory_keys, edge_index"
_CHANNELS, _HEIGHT, _WIDTH = 4, 6, 5


def resolve_temporal_conv(query: str | type | torch.nn.Module, **kwargs: Any) -> torch.nn.Module:
    r"""Finds a temporal layer, whose ``forward_graph`` refines the masks of objects from their memory.

    It is called ``layer.forward_graph(masks, keys, memory_masks, memory_keys, edge_index)`` with masks [B, h, w], keys
    [B, C, h, w], memory masks [M, h, w], memory keys [M, C, h, w] of ``memory_dtype`` of :class:`stg_pyg.STGConfig`,
    and edges [2, E] from memory nodes to current nodes, and returns masks [B, h, w]. A node without memory keeps its
    mask.

    Every layer is tried on two objects, one with three memory frames and one without. A layer for keys of a certain
    number of channels says so by its attribute ``in_channels``.

    Args:
        query: ``"memory_attention"`` (:class:`MemoryAttention`, Eqs. 7-8), ``"joint"`` (:class:`JointMemoryAttention`,
            as in STM, Oh et al., ICCV 2019), ``"mean"`` (:class:`MeanMemory`), a name of these classes, a class, or an
            instance.
        **kwargs: arguments of the class, none for an instance.

    Raises:
        InputError: the name is unknown, the arguments are wrong, or the layer does not fit.
    """
    if isinstance(query, torch.nn.Module):
        if kwargs:
            raise InputError(f"{type(query).__name__} is an instance already: do not pass {sorted(kwargs)}")
        layer = query
    else:
        cls = _class_of(query)
        try:
            layer = cls(**kwargs)
        except (TypeError, ValueError, AssertionError) as error:
            raise InputError(f"cannot make {cls.__name__} with {kwargs}: {_line(error)}") from error
    _check_call(layer)
    _check_trial(layer)
    return layer


def options_taken(query: str | type | torch.nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Those of some options that the class of a temporal layer has as arguments; none for an instance.

    Raises:
        InputError: the name is unknown.
    """
    if isinstance(query, torch.nn.Module):
        return {}
    parameters = inspect.signature(_class_of(query)).parameters
    return {key: value for key, value in options.items() if key in parameters}


def _class_of(query: str | type) -> type:
    if isinstance(query, str):
        known = {normalize_string(key): cls for name, cls in _OWN.items() for key in (name, cls.__name__)}
        cls = known.get(normalize_string(query))
        if cls is None:
            raise InputError(f"unknown temporal layer '{query}'; known names: {', '.join(_OWN)}")
        return cls
    if not (isinstance(query, type) and issubclass(query, torch.nn.Module)):
        raise InputError(f"expected a name, a module class or a module as the temporal layer, got {query!r}")
    return query


def _check_call(layer: torch.nn.Module) -> None:
    name, call = type(layer).__name__, getattr(layer, "forward_graph", None)
    if not callable(call):
        raise InputError(f"{name} does not fit: it has no method forward_graph({_ARGUMENTS})")
    try:
        inspect.signature(call).bind(*_ARGUMENTS.split(", "))
    except TypeError as error:
        signature = inspect.signature(call)
        raise InputError(
            f"{name} does not fit: forward_graph{signature} cannot be called with ({_ARGUMENTS})"
        ) from error


def _check_trial(layer: torch.nn.Module) -> None:
    """Runs a copy on two objects, the second without memory."""
    name = type(layer).__name__
    try:
        trial: Any = copy.deepcopy(layer).eval()
        masks, *rest = _trial_input(trial)
        with torch.no_grad():
            out = trial.forward_graph(masks, *rest)
    except Exception as error:
        raise InputError(f"{name} does not fit: it fails on 2 objects, one without memory ({_line(error)})") from error
    if not isinstance(out, Tensor) or out.shape != masks.shape:
        got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise InputError(f"{name} does not fit: it makes {got} of masks {list(masks.shape)}")
    if not bool(out.isfinite().all()):
        raise InputError(f"{name} does not fit: of 2 objects, one without memory, it makes values that are not finite")
    if not torch.allclose(out[1], masks[1].to(out.dtype), atol=1e-5):
        raise InputError(f"{name} does not fit: it changes the mask of an object without memory")


def _trial_input(layer: torch.nn.Module) -> tuple[Tensor, ...]:
    """Random input, where the layer is, without touching the state of the random numbers."""
    own = next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))
    channels = getattr(layer, "in_channels", None)
    channels = channels if isinstance(channels, int) and channels > 0 else _CHANNELS
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, _HEIGHT, _WIDTH, generator=generator, dtype=torch.float64).to(own)

    edge_index = torch.tensor([[2, 0, 1], [0, 0, 0]], device=own.device)
    return random(2), random(2, channels), random(3), random(3, channels), edge_index


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
