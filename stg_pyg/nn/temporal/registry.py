"""Temporal layers by name, class or instance, all called alike."""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor

from stg_pyg.errors import InputError
from stg_pyg.nn.made import line_of, make_layer
from stg_pyg.nn.registry import Registry, refuse_arguments
from stg_pyg.nn.temporal.joint_memory_attention import JointMemoryAttention
from stg_pyg.nn.temporal.mean_memory import MeanMemory
from stg_pyg.nn.temporal.memory_attention import MemoryAttention
from stg_pyg.nn.trial import Refused, check_gradients, forked_random, random_like

OWN: dict[str, type] = {"memory_attention": MemoryAttention, "joint": JointMemoryAttention, "mean": MeanMemory}
LAYERS = Registry("temporal", OWN, lambda: tuple(OWN))
_ARGUMENTS = "masks, keys, memory_masks, memory_keys, edge_index"
_HELP = "see 'The temporal layer' in docs/layers.md"
_CHANNELS, _HEIGHT, _WIDTH = 4, 6, 5


def resolve_temporal_conv(query: str | type | torch.nn.Module, **kwargs: Any) -> torch.nn.Module:
    r"""Finds a temporal layer, whose ``forward_graph`` refines the masks of objects from their memory.

    It is called ``layer.forward_graph(masks, keys, memory_masks, memory_keys, edge_index)`` with masks [B, h, w], keys
    [B, C, h, w], memory masks [M, h, w], memory keys [M, C, h, w] of ``memory_dtype`` of :class:`stg_pyg.STGConfig`,
    and edges [2, E] from memory nodes to current nodes, and returns masks [B, h, w]. A node without memory keeps its
    mask.

    Every layer is tried several times on two objects, one with three memory frames and one without. A layer for keys
    of a certain number of channels says so by its attribute ``in_channels``.

    Args:
        query: ``"memory_attention"`` (:class:`MemoryAttention`, Eqs. 7-8), ``"joint"`` (:class:`JointMemoryAttention`,
            as in STM, Oh et al., ICCV 2019), ``"mean"`` (:class:`MeanMemory`), a name of these classes, or
            ``"package.module:Class"``, each with arguments (``"joint:top_k=20"``, see
            :func:`stg_pyg.nn.made.parse_layer`); a class, or an instance.
        **kwargs: arguments of the class, none for an instance.

    Raises:
        InputError: the name is unknown, the arguments are wrong, or the layer does not fit.
    """
    if isinstance(query, torch.nn.Module):
        refuse_arguments(query, kwargs)
        layer = query
    else:
        name, cls, given = LAYERS.find(query)
        layer = make_layer(cls, name, given | kwargs)
    _check_call(layer)
    _check_trial(layer)
    return layer


def _check_call(layer: torch.nn.Module) -> None:
    name, call = type(layer).__name__, getattr(layer, "forward_graph", None)
    if not callable(call):
        raise InputError(f"{name} does not fit: it has no method forward_graph({_ARGUMENTS}); {_HELP}")
    signature = inspect.signature(call)
    try:
        signature.bind(*_ARGUMENTS.split(", "))
    except TypeError as error:
        raise InputError(
            f"{name} does not fit: forward_graph{signature} cannot be called with ({_ARGUMENTS}); {_HELP}"
        ) from error


def _check_trial(layer: torch.nn.Module) -> None:
    """Runs copies on two objects, the second without memory, twice with other memories, and while training."""
    used = copy.deepcopy(layer).eval()
    try:
        with torch.no_grad():
            _trial_output(used, _trial_input(layer, 0))
            inputs = _trial_input(layer, 1)
            out, fresh = (_trial_output(one, inputs) for one in (used, copy.deepcopy(layer).eval()))
        if not torch.allclose(out, fresh, rtol=1e-4, atol=1e-5):
            raise Refused("it uses what it has kept of an earlier call")
        if not torch.allclose(out[1], inputs[0][1].to(out.dtype), atol=1e-5):
            raise Refused("it changes the mask of an object without memory")
        with forked_random(layer), torch.enable_grad():
            trial, inputs = copy.deepcopy(layer).train(), _trial_input(layer, 0)
            leaves = [inputs[k].requires_grad_() for k in (0, 1, 3)]
            check_gradients(_trial_output(trial, inputs), [*leaves, *trial.parameters()])
    except Exception as error:
        raise InputError(f"{type(layer).__name__} does not fit: {line_of(error)}; {_HELP}") from error


def _trial_output(layer: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    try:
        out = layer.forward_graph(*inputs)
    except Exception as error:
        raise Refused(f"it fails on 2 objects, one without memory ({line_of(error)})") from error
    if not isinstance(out, Tensor) or out.shape != inputs[0].shape:
        got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise Refused(f"it makes {got} of masks {list(inputs[0].shape)}")
    if not bool(out.isfinite().all()):
        raise Refused("of 2 objects, one without memory, it makes values that are not finite")
    return out


def _trial_input(layer: torch.nn.Module, seed: int) -> tuple[Tensor, ...]:
    """Random input, where the layer is."""
    channels = getattr(layer, "in_channels", None)
    channels = channels if isinstance(channels, int) and channels > 0 else _CHANNELS
    random = random_like(layer, seed)
    shapes = ((2,), (2, channels), (3,), (3, channels))
    masks, keys, memory_masks, memory_keys = (random(*shape, _HEIGHT, _WIDTH) for shape in shapes)
    return masks, keys, memory_masks, memory_keys, torch.tensor([[2, 0, 1], [0, 0, 0]], device=masks.device)
