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
    try:
        inspect.signature(call).bind(*_ARGUMENTS.split(", "))
    except TypeError as error:
        signature = inspect.signature(call)
        raise InputError(
            f"{name} does not fit: forward_graph{signature} cannot be called with ({_ARGUMENTS}); {_HELP}"
        ) from error


def _check_trial(layer: torch.nn.Module) -> None:
    """Runs copies on two objects, the second without memory, twice with other memories, and while training."""
    name = type(layer).__name__
    used = copy.deepcopy(layer).eval()
    try:
        with torch.no_grad():
            for seed in (0, 1):
                inputs = _trial_input(layer, seed)
                out = _trial_output(used, inputs)
            fresh = _trial_output(copy.deepcopy(layer).eval(), inputs)
        if not torch.allclose(out, fresh, rtol=1e-4, atol=1e-5):
            raise ValueError("it uses what it has kept of an earlier call")
        if not torch.allclose(out[1], inputs[0][1].to(out.dtype), atol=1e-5):
            raise ValueError("it changes the mask of an object without memory")
        _check_gradients(layer)
    except Exception as error:
        raise InputError(f"{name} does not fit: {line_of(error)}; {_HELP}") from error


def _check_gradients(layer: torch.nn.Module) -> None:
    own = next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.random.fork_rng([own.device] if own.is_cuda else []), torch.enable_grad():
        trial = copy.deepcopy(layer).train()
        masks, keys, memory_masks, memory_keys, edge_index = _trial_input(layer, 0)
        leaves = [masks.requires_grad_(), keys.requires_grad_(), memory_keys.requires_grad_()]
        out = _trial_output(trial, (masks, keys, memory_masks, memory_keys, edge_index))
        if out.requires_grad:
            out.square().sum().backward()
    gradients = [leaf.grad for leaf in [*leaves, *trial.parameters()]]
    if not all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None):
        raise ValueError("its gradients are not finite")


def _trial_output(layer: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    masks = inputs[0]
    try:
        out = layer.forward_graph(*inputs)
    except Exception as error:
        raise ValueError(f"it fails on 2 objects, one without memory ({line_of(error)})") from error
    if not isinstance(out, Tensor) or out.shape != masks.shape:
        got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"it makes {got} of masks {list(masks.shape)}")
    if not bool(out.isfinite().all()):
        raise ValueError("of 2 objects, one without memory, it makes values that are not finite")
    return out


def _trial_input(layer: torch.nn.Module, seed: int) -> tuple[Tensor, ...]:
    """Random input, where the layer is, without touching the state of the random numbers."""
    own = next((p for p in layer.parameters() if p.is_floating_point()), torch.empty(0))
    channels = getattr(layer, "in_channels", None)
    channels = channels if isinstance(channels, int) and channels > 0 else _CHANNELS
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, _HEIGHT, _WIDTH, generator=generator, dtype=torch.float64).to(own)

    edge_index = torch.tensor([[2, 0, 1], [0, 0, 0]], device=own.device)
    return random(2), random(2, channels), random(3), random(3, channels), edge_index
